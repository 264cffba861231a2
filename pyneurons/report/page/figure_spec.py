"""What the page draws: a Vega-Lite specification with its words and its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FigureSpec:
    """One figure of the page.

    Attributes
    ----------
    id : str
        For anchors and file names.
    title : str
    says : str
        One sentence: what it shows and how it was computed.
    definition : str
        Anchor in the page's own section of definitions.
    spec : dict
        Vega-Lite, its data inline.
    rows : list of dict
        The same data, for the CSV.
    run : int or None
        Whose neurons its marks and rows are; None where it shows several runs.
    """

    id: str
    title: str
    says: str
    definition: str
    spec: dict[str, Any]
    rows: list[dict[str, Any]]
    run: int | None = None
