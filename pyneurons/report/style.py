"""How every figure looks, how it is saved, and how a token is written in one."""

from __future__ import annotations

import functools
import textwrap
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from matplotlib.figure import Figure

WIDTH: Final = 6.8
"""Width of a full-width figure in inches; a one-panel figure has about half."""

INK: Final = "#1a1a1a"
FAINT: Final = "#8a8a8a"
PALE: Final = "#e4e4e4"

LINES: Final = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f",
)  # fmt: skip
"""Okabe and Ito's colours, told apart without red or green; markers repeat the distinction."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")

TYPE_COLOURS: Final = {
    "oscillatory": ("#6a3d9a", "#c9b3e0"),
    "both": ("#d7301f", "#f9b4a4"),
    "one": ("#1b8a5a", "#a5dcc1"),
    "other": ("#d9a400", "#f7e39b"),
}
"""Strong and weak, for each type of positional neuron: the paper's four hues."""

_RC: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same everywhere
    "font.size": 8.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 6.0,
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 2.4,
    "legend.borderaxespad": 0.3,
    "figure.facecolor": "white",
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "pyneurons",  # the same data give the same bytes
    "axes.unicode_minus": True,
}

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Line:
    """One line of a figure: a run's name and its values."""

    name: str
    x: np.ndarray
    y: np.ndarray


def matplotlib() -> Any:
    """Import matplotlib, or say how to get it.

    Raises
    ------
    InputError
        matplotlib, an optional dependency, is not installed.
    """
    try:
        import matplotlib as mpl
        import matplotlib.figure
    except ImportError as error:
        message = (
            "figures need matplotlib, which is not installed: "
            "pip install 'pyneurons-scan[plots]', or pip install matplotlib"
        )
        raise InputError(message) from error
    return mpl


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the style of this module."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib().rc_context(_RC):
            return draw(*args, **kwargs)

    return inner


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, free of pyplot and its global state."""
    figure: Figure = matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure


@styled
def save(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write a figure as PNG (200 dpi) and SVG (text stays text) and return both paths."""
    # Laid out once: with an engine, every file would be drawn twice, once for the layout.
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    paths = [directory / f"{name}.png", directory / f"{name}.svg"]
    for path, metadata in zip(paths, ({"Software": None}, {"Date": None}), strict=True):
        figure.savefig(path, metadata=metadata)
    return paths


@styled
def draw_sentence(sentence: str) -> Figure:
    """Draw a figure that says why there is nothing to show."""
    figure = new_figure(WIDTH * 0.62, 0.9)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, textwrap.fill(sentence, 60), transform=axes.transAxes, ha="center", va="center",
        color=FAINT, parse_math=False,
    )  # fmt: skip
    return figure


def whole_numbers(axis: Any, most: int = 9) -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1))


def thousands(axis: Any) -> None:
    """Write counts with separators."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family=_RC["font.family"]))).get_charmap())


def printable(token: str) -> str:
    """Write a token so that all of it can be seen in a figure.

    A space is shown as an open box, line ends and tabs by their escapes; the rest as by `legible`.
    """
    return legible(token.replace(" ", "␣"))


def legible(text: str) -> str:
    """Write what the font cannot draw, or what would change the text around it, as code points."""
    shown = []
    for character in text:
        code = ord(character)
        if character in "\n\r\t":
            shown.append({"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character])
        elif character == " " or (
            code in _glyphs()
            and unicodedata.category(character)[0] in "LNPS"
            and unicodedata.bidirectional(character) not in ("R", "AL")
        ):
            shown.append(character)
        else:
            shown.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(shown)
