"""Where a validation leaves its results: figures, JSON, and a table in a Markdown document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file
from trafficgrad.validation.report import COLUMNS, Report, cells

BEGIN, END = "<!-- trafficgrad validate: begin -->", "<!-- trafficgrad validate: end -->"


@dataclass(frozen=True)
class Outputs:
    """Files that a validation writes; None: not wanted.

    A ``markdown`` file that exists is a document with the lines ``BEGIN`` and ``END``: what stands between them is
    replaced, the rest stays. One that does not exist becomes those lines and the table.
    """

    plots: Path | None = None  # folder for a figure (.png) per group
    data: Path | None = None  # the report as JSON
    markdown: Path | None = None  # the document with the table

    def check(self) -> None:
        """Make the folders and look for the table's place, before minutes of work.

        Raises:
            TrafficGradError: the document has no place for the table.
            OSError: a folder that cannot be made.
        """
        for folder in (self.plots, self.data and self.data.parent, self.markdown and self.markdown.parent):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        if self.markdown is not None:
            _around(self.markdown)

    def write_data(self, report: Report) -> None:
        """Write the JSON, if it is wanted."""
        if self.data is not None:
            with complete_file(self.data) as partial:
                text = json.dumps(report.as_data(), indent=2, ensure_ascii=False, allow_nan=False)
                partial.write_text(text + "\n", encoding="utf-8")

    def write_markdown(self, report: Report, titles: Mapping[str, str]) -> None:
        """Put the table into the document, if it is wanted; ``titles`` of the groups."""
        if self.markdown is not None:
            before, after = _around(self.markdown)
            with complete_file(self.markdown) as partial:
                text = f"{before}{BEGIN}\n{markdown(report, titles)}\n{END}{after}"
                partial.write_text(text, encoding="utf-8")


def markdown(report: Report, titles: Mapping[str, str]) -> str:
    """The report as Markdown: a sentence, then a heading and a table per group; ``titles`` of the groups."""
    return "\n".join(_lines(report, titles)).rstrip()


def _lines(report: Report, titles: Mapping[str, str]) -> Iterator[str]:
    kind = "Quick" if report.quick else "Full"
    yield f"{kind} version, torch {torch.__version__}, {torch.get_num_threads()} thread(s): {report.summary()}\n"
    for group in report.groups():
        yield f"### {titles.get(group, group)}"
        yield f"`--only {group}`, {report.cpu_seconds.get(group, 0.0):.0f} s of CPU time\n"
        yield _row(COLUMNS)
        yield "|---|--:|--:|--:|---|---|---|"
        yield from (_row(cells(check)) for check in report.checks if check.group == group)
        yield ""


def _row(texts: tuple[str, ...]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def _around(document: Path) -> tuple[str, str]:
    """What stands before and after the table."""
    if not document.exists():
        return "", "\n"
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise TrafficGradError(
            f"{str(document)!r} has no place for the table: it needs the lines {BEGIN!r} and {END!r} in this order"
        )
    return before, after
