"""Figures 2 to 5 and 12 to 15: what n-grams trigger neurons, and which detectors there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.analysis.coverage import bucket_labels
from pyneurons.report.style import (
    FAINT,
    INK,
    LINES,
    MARKERS,
    PALE,
    WIDTH,
    draw_sentence,
    legible,
    matplotlib,
    new_figure,
    printable,
    styled,
    thousands,
    whole_numbers,
)
from pyneurons.report.words import ngram_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyneurons.report.numbers import Detection, DetectorRow

LAYER_LABEL: Final = "layer (the first is 0)"

# Larger than a filled marker: it is still seen where the two lines coincide.
_RING: Final[dict[str, Any]] = {
    "markerfacecolor": "white", "markeredgewidth": 0.8, "markersize": 6.0,
}  # fmt: skip
_PROMOTED, _SUPPRESSED = "#0072b2", "#b5510b"


@styled
def draw_coverage(
    counts: np.ndarray, layers: Sequence[int], edges: Sequence[int], n: int, name: str
) -> Figure:
    """Draw figure 2 (n = 1), 12 (2) or 13 (3): alive neurons by covering number, layer by layer.

    Parameters
    ----------
    counts : int64 [L, len(edges) + 2]
        Of `pyneurons.analysis.coverage.bucket_counts`.
    layers : sequence of int
    edges : sequence of int
    n : int
    name : str
    """
    if counts.sum() == 0:
        return draw_sentence(f"{legible(name)}: no alive neuron in the lower half of the layers.")
    figure = new_figure(WIDTH * 0.72, 2.9)
    axes = figure.subplots()
    labels = bucket_labels(edges)
    shades = matplotlib().colormaps["YlGnBu_r"](np.linspace(0.06, 0.94, len(labels) - 1))
    places = np.arange(len(layers))
    floor = np.zeros(len(layers))
    for column in (*range(1, len(labels)), 0):
        if column == 0 and not counts[:, 0].any():
            continue
        label = labels[column] if column else f"none: no {ngram_name(n)} ends\nwhere it fires"
        style: dict[str, Any] = {
            "color": shades[column - 1],
            "edgecolor": "white",
            "linewidth": 0.4,
        }
        if column == 0:
            style = {"color": "white", "edgecolor": FAINT, "hatch": "/////", "linewidth": 0.4}
        axes.bar(places, counts[:, column], 0.84, bottom=floor, label=label, zorder=3, **style)
        floor += counts[:, column]
    _layer_ticks(axes, layers)
    thousands(axes.yaxis)
    axes.set_ylabel("alive neurons")
    axes.set_title(f"{legible(name)}: {ngram_name(n)}s that hold 95 % of a neuron's fires")
    axes.title.set_parse_math(False)
    handles, texts = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], texts[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5),
        title=f"number of {ngram_name(n)}s", title_fontsize=7.5, alignment="left",
    )  # fmt: skip
    return figure


@styled
def draw_detectors(runs: Sequence[Detection], n: int) -> Figure:
    """Draw figure 3a (n = 1) or 14a (3): detectors per layer, all, supported, and by chance."""
    if not any(run.detectors.any() for run in runs):
        return draw_sentence(f"No {ngram_name(n)} detector in the lower half of the layers.")
    figure = new_figure(WIDTH * 0.62, 2.8)
    axes = figure.subplots()
    for i, run in enumerate(runs):
        colour = LINES[i % len(LINES)]
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(run.layer, run.chance, color=colour, linestyle=":", linewidth=1.0, zorder=3)
        axes.plot(
            run.layer, run.supported, color=colour, linestyle="--", marker=marker, **_RING,
            zorder=4,
        )  # fmt: skip
        axes.plot(run.layer, run.detectors, color=colour, marker=marker, zorder=5)
    _finish(axes, runs, f"{ngram_name(n)} detectors")
    styles: dict[str, dict[str, Any]] = {
        "all": {"linestyle": "-", "marker": "o"},
        "supported": {"linestyle": "--", "marker": "o", **_RING},
        "expected by chance": {"linestyle": ":", "linewidth": 1.0},
    }
    _line_legend(axes, runs, styles)
    return figure


@styled
def draw_detected(runs: Sequence[Detection], n: int) -> Figure:
    """Draw figure 3b (n = 1) or 14b (3): detected n-grams per layer, and cumulative (dashed)."""
    if not any(run.cumulative.any() for run in runs):
        return draw_sentence(f"No {ngram_name(n)} is detected in the lower half of the layers.")
    figure = new_figure(WIDTH * 0.62, 2.8)
    axes = figure.subplots()
    for i, run in enumerate(runs):
        colour, marker = LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]
        axes.plot(
            run.layer, run.cumulative, color=colour, linestyle="--", marker=marker, **_RING,
            zorder=4,
        )  # fmt: skip
        axes.plot(run.layer, run.detected, color=colour, marker=marker, zorder=5)
    _finish(axes, runs, f"detected {ngram_name(n)}s")
    styles: dict[str, dict[str, Any]] = {
        "in the layer": {"linestyle": "-", "marker": "o"},
        "up to the layer": {"linestyle": "--", "marker": "o", **_RING},
    }
    _line_legend(axes, runs, styles)
    return figure


@styled
def draw_overlap(run: Detection, n: int) -> Figure:
    """Draw figure 4 (n = 1) or 15 (3): detected n-grams, and which of them lower layers detect."""
    if not run.detected.any():
        what = f"no {ngram_name(n)} is detected in the lower half of the layers"
        return draw_sentence(f"{legible(run.name)}: {what}.")
    figure = new_figure(WIDTH * 0.72, 2.7)
    axes = figure.subplots()
    places = np.arange(run.layer.size)
    known_below = run.seen_below >= 0
    below = np.where(known_below, run.seen_below, 0)
    parts = (
        ("new", run.detected - run.seen_lower, "#9ecae1"),
        ("in a lower layer, not the one below", run.seen_lower - below, "#3f88c5"),
        ("in the layer below", below, "#0b3c6f"),
    )
    floor = np.zeros(run.layer.size)
    for label, values, colour in reversed(parts):
        axes.bar(places, values, 0.84, bottom=floor, label=label, color=colour, zorder=3)
        floor += values
    _layer_ticks(axes, run.layer.tolist())
    whole_numbers(axes.yaxis, 6)
    thousands(axes.yaxis)
    axes.set_ylabel(f"detected {ngram_name(n)}s")
    title = f"{legible(run.name)}: detected {ngram_name(n)}s, and where they were detected before"
    axes.set_title(title)
    axes.title.set_parse_math(False)
    handles, texts = axes.get_legend_handles_labels()
    texts = [text.replace(", not", ",\nnot") for text in texts]
    axes.legend(handles[::-1], texts[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    if not known_below[run.layer > 0].all():
        axes.annotate(
            "Where the layer below was not scanned, what it detects is not shown apart.",
            (0, -0.28), xycoords="axes fraction", fontsize=6.5, color=FAINT, annotation_clip=False,
        )  # fmt: skip
    return figure


# ----- the table of detectors ---------------------------------------------------------------------


@styled
def draw_table(rows: Sequence[DetectorRow], name: str) -> Figure:
    """Draw figure 5: detectors, their tokens, and what their updates promote and suppress.

    A cell holds as many tokens as fit on two lines. Tokens that trigger the neuron itself are
    underlined among the promoted and the suppressed ones.
    """
    if not rows:
        what = "no supported token detector in the lower half of the layers"
        return draw_sentence(f"{legible(name)}: {what}.")
    line, gap = 0.145, 0.09  # inches
    top = 0.46
    heights = 2 * line + gap
    height = top + heights * len(rows) + 0.28
    figure = new_figure(WIDTH, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)  # inches from the top
    pen = _Pen(axes)
    lefts = (0.06, 0.62, 1.22, 2.92, 4.88)
    rights = (*lefts[1:], WIDTH)
    heads = ("neuron", "fires", "detected tokens", "promoted most", "suppressed most")
    colours = (INK, INK, INK, _PROMOTED, _SUPPRESSED)
    for left, head, colour in zip(lefts, heads, colours, strict=True):
        pen.write(left, top - 0.14, head, colour, weight="bold")
    axes.plot([0.06, WIDTH - 0.06], [top - 0.07] * 2, color=INK, linewidth=0.8)
    pen.write(0.06, 0.15, f"{legible(name)}: token detectors with most fires", INK, size=8.5)
    for i, row in enumerate(rows):
        y = top + i * heights + line * 0.75
        if i:
            rule = y - line * 0.75 - gap / 2 + 0.02
            axes.plot([0.06, WIDTH - 0.06], [rule] * 2, color=PALE, linewidth=0.6)
        pen.write(lefts[0], y, row.place, INK)
        pen.write(lefts[1], y, f"{row.fires:,}", INK)
        own = set(row.triggers)
        plain = [(trigger, None) for trigger in row.triggers]
        cells: tuple[tuple[list[Any], str], ...] = (
            (plain, INK),
            (list(row.promoted), _PROMOTED),
            (list(row.suppressed), _SUPPRESSED),
        )
        for (entries, colour), left, right in zip(cells, lefts[2:], rights[2:], strict=True):
            marked = own if entries is not plain else set()
            pen.tokens(left, y, right - left - 0.12, line, entries, colour, marked)
    note = "␣ space; underlined: a token that triggers the neuron itself; numbers: scores"
    pen.write(0.06, height - 0.1, note, FAINT, size=6.5)
    return figure


class _Pen:
    """Writes text of known width, in inches from the top left corner."""

    def __init__(self, axes: Axes) -> None:
        from matplotlib.backends import backend_agg

        self._axes = axes
        self._dpi = float(matplotlib().rcParams["savefig.dpi"])
        agg: Any = backend_agg  # its renderer is not typed
        self._renderer = agg.RendererAgg(1, 1, self._dpi)

    def width(self, text: str, size: float, weight: str = "normal") -> float:
        from matplotlib.font_manager import FontProperties

        font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
        pixels, _, _ = self._renderer.get_text_width_height_descent(text, font, ismath=False)
        return float(pixels) / self._dpi

    def write(
        self, x: float, y: float, text: str, colour: str, size: float = 7.5, weight: str = "normal"
    ) -> float:
        self._axes.text(
            x, y, text, fontsize=size, color=colour, weight=weight, parse_math=False, va="baseline"
        )
        return self.width(text, size, weight)

    def tokens(
        self,
        x: float,
        y: float,
        width: float,
        line: float,
        entries: Sequence[tuple[str, float | None]],
        colour: str,
        marked: set[str],
        lines: int = 2,
    ) -> None:
        at, row = 0.0, 0
        ellipsis = self.width(" …", 7.5)
        for i, (token, score) in enumerate(entries):
            text = _shortened(printable(token))
            number = "" if score is None else f"{score:.2g}".replace("-", "−")  # noqa: RUF001
            size = self.width(text, 7.5) + (self.width(number, 6.0) + 0.03 if number else 0.0)
            last = row == lines - 1
            room = width - (ellipsis if last and i < len(entries) - 1 else 0.0)
            if at > 0 and at + size > room:
                if last:
                    self.write(x + at - 0.06, y + row * line, "…", FAINT)
                    return
                at, row = 0.0, row + 1
            end = self.write(x + at, y + row * line, text, colour)
            if token in marked:
                under = y + row * line + 0.022
                self._axes.plot(
                    [x + at, x + at + end], [under] * 2, color=colour, linewidth=0.7,
                    solid_capstyle="butt",
                )  # fmt: skip
            if number:
                end += 0.03
                end += self.write(x + at + end, y + row * line, number, FAINT, size=6.0)
            at += end + 0.1


def _shortened(text: str, most: int = 18) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# ----- shared -------------------------------------------------------------------------------------


def _layer_ticks(axes: Axes, layers: Sequence[int]) -> None:
    """Label bars at 0, 1, ... by their layers; every second, fourth, ... when they are many."""
    step = max(1, -(-len(layers) // 16))
    places = list(range(0, len(layers), step))
    axes.set_xticks(places, [str(layers[place]) for place in places])
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(LAYER_LABEL)


def _finish(axes: Axes, runs: Sequence[Detection], label: str) -> None:
    whole_numbers(axes.xaxis, 10)
    whole_numbers(axes.yaxis, 7)
    thousands(axes.yaxis)
    axes.set_ylim(bottom=0)
    last = max(int(run.layer.max()) for run in runs if run.layer.size)
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    for line in axes.lines:
        line.set_clip_on(False)
    axes.set_xlabel(LAYER_LABEL)
    axes.set_ylabel(label)


def _line_legend(axes: Axes, runs: Sequence[Detection], styles: dict[str, dict[str, Any]]) -> None:
    """Explain colours (runs, when there are several) and line styles apart."""
    from matplotlib.lines import Line2D

    one = len(runs) == 1
    colour = LINES[0] if one else INK
    handles = [
        Line2D([], [], color=colour, label=label, **style) for label, style in styles.items()
    ]
    if one:
        axes.set_title(legible(runs[0].name), parse_math=False)
    else:
        handles.append(Line2D([], [], linestyle="none", label=" "))
        handles += [
            Line2D(
                [], [], color=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)],
                label=run.name,
            )
            for i, run in enumerate(runs)
        ]  # fmt: skip
    legend = axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)
