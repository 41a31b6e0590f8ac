"""Builds the fused kernel: a plain shared library, optional, one binary with a part for each kind of CPU.

Everything else about the package is in pyproject.toml. Without a C++17 compiler the installation goes on and says so.
TRAFFICGRAD_CXXFLAGS adds compiler flags (sanitizers, -Werror), TRAFFICGRAD_BUILDS=generic builds for no CPU in
particular. -ffast-math is left out on purpose: a library linked with it switches the whole process to flush denormal
numbers to zero.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("trafficgrad", "kernels", "src")
# Decisions must fall as in the reference, on every CPU alike: no contraction to fused multiply-add.
FLAGS = {
    "unix": [
        *("-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-pthread"),
        *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    ],
    "msvc": ["/std:c++17", "/O2", "/fp:precise", "/EHsc"],
}
X86 = {
    "unix": {
        "avx2": ["-mavx2", "-mfma", "-mbmi", "-mbmi2"],
        "avx512": [
            *("-mavx2", "-mfma", "-mbmi", "-mbmi2"),
            *("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
        ],
    },
    "msvc": {"avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]},
}
NOTICE = """
trafficgrad: the fused kernel was not built ({reason}).
    Everything works, but simulations run on the PyTorch reference, ten times slower or more. To have the kernel,
    install a C++17 compiler (Debian and Ubuntu: apt install g++; macOS: xcode-select --install; Windows: Visual Studio
    Build Tools) and install trafficgrad again with: pip install --force-reinstall --no-deps trafficgrad
"""


class BuildKernel(build_ext):
    """Compiles ``variant.cpp`` once for each kind of CPU and links the parts; fails softly."""

    def get_ext_filename(self, fullname: str) -> str:
        """No Python tag in the name: the library knows nothing of Python."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        return os.path.join(*fullname.split(".")) + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """What is exported says the source."""
        return []

    def build_extension(self, ext: Extension) -> None:
        """Compile and link, or say what is lost."""
        try:
            self._build(ext)
        except Exception as error:
            print(NOTICE.format(reason=str(error).splitlines()[0] if str(error) else error), file=sys.stderr)

    def run(self) -> None:
        """As usual; a missing compiler shows already here."""
        try:
            super().run()
        except Exception as error:
            print(NOTICE.format(reason=error), file=sys.stderr)

    def _build(self, ext: Extension) -> None:
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        flags = [*FLAGS[kind], *os.environ.get("TRAFFICGRAD_CXXFLAGS", "").split()]
        builds: dict[str, list[str]] = {"generic": []}
        macros: list[tuple[str, str | None]] = []
        if _is_x86():
            builds |= X86[kind]
            macros.append(("TG_X86", None))
        if os.environ.get("TRAFFICGRAD_BUILDS") == "generic":  # compiles in a third of the time
            builds, macros = {"generic": []}, []

        def compile_one(source: str, folder: str, more: list[str], names: list[tuple[str, str | None]]) -> list[str]:
            return self.compiler.compile(
                [str(SOURCES / source)],
                output_dir=os.path.join(self.build_temp, folder),
                macros=[*macros, *names],
                extra_preargs=[*flags, *more],
                depends=[str(path) for path in sorted(SOURCES.iterdir())],
            )

        objects = compile_one("fused.cpp", "fused", [], [])
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # each is a minute of one core
            parts = [
                threads.submit(
                    compile_one, "variant.cpp", name, more, [("TG_VARIANT", name), ("TG_VARIANT_NAME", f'"{name}"')]
                )
                for name, more in builds.items()
            ]
        objects += [built for part in parts for built in part.result()]
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            extra_preargs=["-pthread", *os.environ.get("TRAFFICGRAD_CXXFLAGS", "").split()] if kind == "unix" else [],
            target_lang="c++",
        )


class AnyPython(bdist_wheel):
    """A wheel with the kernel serves every Python of its platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """No Python version, no Python ABI."""
        return ("py3", "none", super().get_tag()[2])


def _is_x86() -> bool:
    if sys.platform == "darwin" and "arm64" in os.environ.get("ARCHFLAGS", sysconfig.get_platform()):
        return False
    return platform.machine().lower() in ("x86_64", "amd64")


setup(
    ext_modules=[Extension("trafficgrad.kernels.libfused", [str(SOURCES / "fused.cpp")], optional=True)],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": AnyPython},
)
