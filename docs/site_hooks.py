"""What the site needs beyond the pages as GitHub shows them; `mkdocs.yml` names this file.

- Links from a page to files outside docs/ lead to copies in the site, below sources/.
- Of docs/results only what a page shows or links to is copied.
- GitHub begins a list, a table or code right below a paragraph, Python-Markdown wants an empty line before it.
- Docstrings: one parameter an item, Sphinx roles as links, fields with the comment on their line.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SOURCES = "sources"  # folder of the copies in the site
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```)|(?:(?!^```).)+", re.M | re.S)  # a block of code, or all text up to the next
_ITEM = re.compile(r"\s*([-*+]|1\.) ")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`(~?)([^`]+)`")
_SECTION = re.compile(r"^( *)(?:Parameters|Args):\n((?:\1 +.*\n|\n)+)", re.M)


# ---------------------------------------------------------------------- pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what that links to; drop the results that no page needs."""
    docs, seen = Path(config.docs_dir), set[Path]()
    pages = [Path(str(page.abs_src_path)) for page in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for match in _LINK.finditer(page.read_text(encoding="utf-8")):
            target = (page.parent / match[3]).resolve()
            if target in seen or not target.is_file() or not target.is_relative_to(ROOT):
                continue
            seen.add(target)
            if not target.is_relative_to(docs):
                files.append(File.generated(config, _place(target, docs), abs_src_path=str(target)))
                pages += [target] if target.suffix == ".md" else []
    for file in list(files):
        if file.src_uri.startswith("results/") and docs / file.src_uri not in seen:
            files.remove(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page as GitHub shows it into one for Python-Markdown."""
    source, docs = Path(str(page.file.abs_src_path)), Path(config.docs_dir)

    def link(match: re.Match[str]) -> str:
        target = (source.parent / match[3]).resolve()
        if "://" in match[3] or not target.is_relative_to(ROOT):
            return match[0]
        if target.is_dir():
            return match[2]  # there is nothing to show of a folder
        place = os.path.relpath(_place(target, docs), os.path.dirname(page.file.src_uri) or ".")
        return f"{match[1]}[{match[2]}]({Path(place).as_posix()}{match[4] or ''})"

    return spaced(_CODE.sub(lambda match: match[0] if match[1] else _LINK.sub(link, match[0]), markdown))


def _place(path: Path, docs: Path) -> str:
    """Where the site has a file of the repository."""
    inside = path.is_relative_to(docs)
    return path.relative_to(docs).as_posix() if inside else f"{SOURCES}/{path.relative_to(ROOT).as_posix()}"


def spaced(markdown: str) -> str:
    """With an empty line before lists and tables that follow a paragraph, and around blocks of code."""
    made: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            if not fenced and made and made[-1].strip():
                made.append("")
            fenced = not fenced
        elif not fenced:
            before = made[-1] if made else ""
            begins = (_ITEM.match(line) and not _in_list(made)) or (line.startswith("|") and not before.startswith("|"))
            if before.strip() and (begins or before == "```"):
                made.append("")
        made.append(line)
    return "\n".join(made) + "\n"


def _in_list(lines: list[str]) -> bool:
    """Whether the paragraph that these lines end with is one of a list."""
    for line in reversed(lines):
        if not line.strip():
            return False
        if _ITEM.match(line):
            return True
    return False


# ---------------------------------------------------------------------- docstrings


class Docstrings(griffe.Extension):
    """Docstrings as the reference shows them."""

    def on_object(self, *, obj: griffe.Object, loader: Any, **_: Any) -> None:
        """Once for everything that has a docstring."""
        if obj.docstring is None:
            return
        text = obj.docstring.value
        if isinstance(obj, griffe.Function | griffe.Class):
            text = _SECTION.sub(lambda section: _one_each(section, _parameters(obj)), text + "\n").rstrip()
        if isinstance(obj, griffe.Class):
            text += _fields(obj)
        obj.docstring.value = spaced(_ROLE.sub(_reference, text)).rstrip()


def _parameters(obj: griffe.Function | griffe.Class) -> list[str]:
    names = [name for name, member in obj.members.items() if isinstance(member, griffe.Attribute)]
    function = obj.members.get("__init__") if isinstance(obj, griffe.Class) else obj
    return names + [parameter.name for parameter in getattr(function, "parameters", ())]


def _one_each(section: re.Match[str], names: list[str]) -> str:
    """``first: ... second: ...`` on one line as two items."""
    indent = f"{section[1]}    "
    split = re.compile(rf"(?<=[^\s,]) +(?=(?:{'|'.join(map(re.escape, names))}): )" if names else r"(?!)")
    lines = []
    for line in section[2].splitlines():
        own = line[: len(line) - len(line.lstrip())]
        first, *others = split.split(line.strip())
        lines += [own + first, *(indent + other for other in others)]
    return f"{section[1]}Parameters:\n" + "\n".join(lines) + "\n"


def _reference(match: re.Match[str]) -> str:
    name = match[2].rsplit(".", 1)[-1] if match[1] else match[2]
    return f'<autoref optional identifier="{match[2]}"><code>{name}</code></autoref>'


def _fields(obj: griffe.Class) -> str:
    """A section with the fields of a class that have no docstring, from the comments on their lines."""
    rows = []
    for name, member in obj.members.items():
        if not isinstance(member, griffe.Attribute) or name.startswith("_") or member.docstring is not None:
            continue
        said = _description(member.value) or _comment(member)
        if said:
            kind = f" ({member.annotation})" if member.annotation is not None else ""
            rows.append(f"    {name}{kind}: {said}")
    return "\n\nAttributes:\n" + "\n".join(rows) if rows else ""


def _description(value: Any) -> str:
    """What pydantic's ``Field(description=...)`` says."""
    for argument in getattr(value, "arguments", ()):
        if getattr(argument, "name", None) == "description":
            return " ".join(str(ast.literal_eval(str(argument.value))).split())
    return ""


def _comment(member: griffe.Attribute) -> str:
    """The comment on a field's lines, and below them where it goes on."""
    if member.lineno is None or member.endlineno is None:
        return ""
    lines = member.lines_collection[member.filepath]  # type: ignore[index]
    end = member.endlineno
    own = "\n".join(lines[member.lineno - 1 : end])
    while end < len(lines) and "#" in own and lines[end].lstrip().startswith("#"):
        own, end = own + "\n" + lines[end], end + 1
    said = []
    for token in tokenize.generate_tokens(io.StringIO(f"({own}\n)").readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(type:|noqa)", token.string):
            said.append(token.string.lstrip("#: "))
    return " ".join(" ".join(said).split())
