"""What a page is made of: sections of texts, charts, pictures and tables of trials.

Markdown and HTML are rendered from the same sections: the templates leave out what they cannot
show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

Figure = dict[str, Any]
"""A figure of Plotly's, ready for JSON."""


@dataclass(frozen=True)
class Text:
    """Markdown, in which no text of the user's is markup."""

    markdown: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Chart:
    """A chart. name: unique on its page. label: what it shows. wide: takes a whole row."""

    name: str
    label: str
    figure: Figure
    wide: bool = True
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Strip:
    """Images side by side. png: as a data URI. values: a text under each."""

    png: str
    values: list[str]


@dataclass(frozen=True)
class Picture:
    """A sequence. strips: its images, some in each. title, alt: plain text."""

    strips: list[Strip]
    title: str
    alt: str


@dataclass(frozen=True)
class Pictures:
    """Sequences. label: what they are. sheet: the file with all of them, for Markdown, or None."""

    label: str
    pictures: Sequence[Picture]
    sheet: str | None = None
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Cell:
    """A cell of a table of trials. order: what it is sorted by; None is last."""

    text: str
    order: float | str | None


@dataclass(frozen=True)
class TrialTable:
    """A table of trials that can be sorted. configs: as YAML, one for each row."""

    label: str
    columns: list[str]
    rows: list[list[Cell]]
    configs: list[str]
    kind: ClassVar[str] = "trials"


@dataclass(frozen=True)
class Configs:
    """Where a click on a chart shows a configuration. by_number: as YAML, by a trial's number."""

    by_number: dict[str, str]
    kind: ClassVar[str] = "configs"


Block = Text | Chart | Pictures | TrialTable | Configs


@dataclass(frozen=True)
class Section:
    """A section of a page. name: for links to it."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page. title: plain text. warnings: Markdown. head: what comes before the sections."""

    title: str
    warnings: Sequence[str]
    head: Sequence[Block]
    sections: Sequence[Section]

    @property
    def charts(self) -> dict[str, Figure]:
        """The figure of each chart by its name."""
        blocks = [*self.head, *(block for section in self.sections for block in section.blocks)]
        return {block.name: block.figure for block in blocks if isinstance(block, Chart)}
