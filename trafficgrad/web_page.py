"""One HTML page that needs nothing else: text, tables, pictures and a film, all inside the file.

Every function takes plain text, escapes it and returns HTML.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

# Pictures have a white page of their own, so that they are the same in the light and in the dark. On a narrow screen
# they and the tables stay large enough to be read, and are moved sideways.
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --soft: #5a626e; --line: #d9dce1; --page: #f7f8fa; --card: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #a4acb8; --line: #363c46; --page: #14171c; --card: #1c2027; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--line); padding-bottom: 0.2rem; }
p { max-width: 46rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.note { color: var(--soft); font-size: 0.9rem; margin: 0.4rem 0; }
th, td { padding: 0.3rem 0.5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; min-width: 4.5rem; }
th:first-child { text-align: left; white-space: nowrap; }
figure { margin: 1.2rem 0; }
figure .wide { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem; }
figure img, figure svg { display: block; width: 100%; min-width: 38rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.4rem; max-width: 46rem; }
video { display: block; width: 100%; border-radius: 6px; }
details { margin: 1rem 0; }
summary { cursor: pointer; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 0.8rem; overflow-x: auto;
  font: 13px/1.4 ui-monospace, Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: 0.85rem; margin: 2rem 0 1rem; }
"""


def page(title: str, body: Iterable[str], footer: str) -> str:
    """The whole document; ``body`` is HTML."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{escape(title)}</h1>",
            *body,
            "</main>",
            f"<footer>{escape(footer)}</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def section(heading: str, parts: Iterable[str]) -> str:
    """A heading and what stands beneath it, which is HTML."""
    return "\n".join(["<section>", f"<h2>{escape(heading)}</h2>", *parts, "</section>"])


def paragraph(text: str) -> str:
    """Running text."""
    return f"<p>{escape(text)}</p>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, a line each."""
    return "\n".join(["<dl>", *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs), "</dl>"])


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows, below a line of text."""
    out = [f'<p class="note">{escape(caption)}</p>', '<div class="wide" tabindex="0">', "<table>", "<thead><tr>"]
    out += [f'<th scope="col">{escape(cell)}</th>' for cell in head]
    out += ["</tr></thead>", "<tbody>"]
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        out.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return "\n".join([*out, "</tbody>", "</table>", "</div>"])


def collapsed(summary: str, text: str) -> str:
    """Text with its line breaks, shown when the summary is opened."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n<pre>{escape(text)}</pre>\n</details>"


def figure(picture: str, caption: str) -> str:
    """A picture, which is HTML, with the text beneath it."""
    shown = f'<div class="wide" tabindex="0">{picture}</div>'
    return f"<figure>\n{shown}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def film(mp4: bytes, label: str, caption: str) -> str:
    """A film with its controls; the text is shown beneath it."""
    source = f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"
    video = f'<video controls muted loop playsinline preload="metadata" aria-label="{escape(label)}" src="{source}">'
    return f"<figure>\n{video}</video>\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def png_image(png: bytes, alt: str, dpi: float) -> str:
    """A picture of so many pixels an inch."""
    width = int.from_bytes(png[16:20], "big") / dpi
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img alt="{escape(alt)}" style="{_at_most(width)}" src="{source}">'


def _at_most(inches: float) -> str:
    """Pictures are never drawn larger than they are, so that all have letters of one size."""
    return f"max-width: {inches * 96:.0f}px"


def svg_image(svg: str, name: str, alt: str) -> str:
    """The drawing of an SVG file as a part of the page.

    What only a file of its own needs goes: prolog, comments, metadata, name spaces, style and size. The ids get the
    ``name`` before them, which must be another one for every drawing of a page.
    """
    head, _, rest = svg[svg.index("<svg") :].partition(">")
    box, width = re.search(r'viewBox="([-\d. ]+)"', head), re.search(r' width="([\d.]+)pt"', head)
    rest = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", rest, flags=re.DOTALL)
    rest = rest.replace("xlink:href=", "href=")
    rest = re.sub(r' id="', f' id="{name}-', rest)
    rest = re.sub(r'href="#', f'href="#{name}-', rest)
    rest = re.sub(r"url\(#", f"url(#{name}-", rest)
    rest = re.sub(r">\s+<", ">\n<", rest)
    size = f' style="{_at_most(float(width.group(1)) / 72)}" viewBox="{box.group(1)}"' if box and width else ""
    return f'<svg role="img" aria-label="{escape(alt)}"{size}>{rest}'
