"""Figures 7, 8 and 9: positional neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pyneurons.analysis.positional import STRENGTHS, TYPES
from pyneurons.report.style import (
    FAINT,
    INK,
    TYPE_COLOURS,
    WIDTH,
    draw_sentence,
    legible,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from pyneurons.report.numbers import Curve

MOST_ROWS: Final = 60


@styled
def draw_examples(
    examples: Mapping[tuple[str, str], Curve], name: str, why_none: str = ""
) -> Figure:
    """Draw figure 7: a curve of each type, strong ones above, weak ones below.

    Parameters
    ----------
    examples : dict of curves by (type, strength)
    name : str
    why_none : str
        A sentence for the whole figure when the run cannot have positional neurons.
    """
    if why_none or not examples:
        return draw_sentence(why_none or f"{legible(name)}: no positional neuron.")
    figure = new_figure(WIDTH, 3.1)
    figure.suptitle(
        f"{legible(name)}: positional neurons with most information (position 0 is not shown)",
        x=0.005, ha="left", fontsize=8.5, parse_math=False,
    )  # fmt: skip
    panels = figure.subplots(2, len(TYPES), sharex=True, sharey=True)
    for (row, strength), (column, kind) in (
        (a, b) for a in enumerate(STRENGTHS) for b in enumerate(TYPES)
    ):
        axes = panels[row, column]
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        if row == 0:
            axes.set_title(kind)
        if column == 0:
            axes.set_ylabel(f"{strength}\nfiring frequency")
        if row == len(STRENGTHS) - 1:
            axes.set_xlabel("position")
        curve = examples.get((kind, strength))
        if curve is None:
            none = (
                "without an interval\nno curve is strong" if kind == "other" else "none in this run"
            )
            none = "none in this run" if strength == "weak" else none
            axes.text(
                0.5, 0.5, none, transform=axes.transAxes, ha="center", va="center", color=FAINT,
                fontsize=7, backgroundcolor="white",
            )  # fmt: skip
            continue
        position = curve.first_position + np.arange(curve.frequency.size)
        axes.plot(
            position, curve.frequency, color=TYPE_COLOURS[kind][0], linewidth=0.9, clip_on=False,
            solid_joinstyle="round",
        )  # fmt: skip
        axes.annotate(
            f"{curve.place}   I = {curve.information:.2f}", (1.0, 1.0), xycoords="axes fraction",
            xytext=(0, 2), textcoords="offset points", ha="right", va="bottom", fontsize=6.5,
            color=FAINT,
        )  # fmt: skip
    return figure


@styled
def draw_map(
    layers: Sequence[int],
    layer: np.ndarray,
    kind: Sequence[str],
    strength: Sequence[str],
    information: np.ndarray,
    name: str,
    why_none: str = "",
) -> Figure:
    """Draw figure 8: every positional neuron as a circle in the row of its layer.

    Parameters
    ----------
    layers : sequence of int
        All scanned layers.
    layer, kind, strength, information
        One entry per positional neuron. Circles of a layer are in the order of the types, strong
        before weak, most information first.
    name : str
    why_none : str
        A sentence in place of the figure.
    """
    from matplotlib.lines import Line2D

    if why_none or not len(layer):
        return draw_sentence(why_none or f"{legible(name)}: no positional neuron.")
    most = int(np.bincount(layer).max())
    pitch = float(np.clip(4.9 / most, 0.045, 0.17))  # inches from circle to circle
    row_height = float(np.clip(6.6 / len(layers), max(0.1, pitch), 0.2))
    columns = max(most, int(2.0 / pitch))
    width, height = columns * pitch, len(layers) * row_height
    left, right, top, bottom = 0.48, 1.78, 0.3, 0.08
    legend = 7 * 0.16 + 0.1
    page = (left + width + right, top + max(height, legend) + bottom)
    figure = new_figure(*page)
    figure.set_layout_engine("none")
    axes = figure.add_axes(
        (left / page[0], 1 - (top + height) / page[1], width / page[0], height / page[1])
    )
    order = np.lexsort(
        (
            -np.asarray(information),
            np.array([STRENGTHS.index(s) for s in strength]),
            np.array([TYPES.index(k) for k in kind]),
            layer,
        )
    )
    rank = np.arange(order.size) - np.searchsorted(layer[order], layer[order])
    rows = {absolute: row for row, absolute in enumerate(layers)}
    colours = [TYPE_COLOURS[kind[i]][STRENGTHS.index(strength[i])] for i in order]
    edges = [TYPE_COLOURS[kind[i]][0] for i in order]
    axes.scatter(
        rank, [rows[int(value)] for value in layer[order]], c=colours, edgecolors=edges,
        linewidths=0.4, s=(0.82 * min(pitch, row_height) * 72) ** 2, clip_on=False, zorder=3,
    )  # fmt: skip
    axes.set_xlim(-0.7, columns - 0.3)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    step = max(1, -(-len(layers) // 32))
    ticks = list(range(0, len(layers), step))
    axes.set_yticks(ticks, [str(layers[tick]) for tick in ticks])
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.5)
    for side in ("bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.set_ylabel("layer")
    axes.set_title(f"{legible(name)}: {len(layer):,} positional neurons")
    axes.title.set_parse_math(False)
    handles = [
        Line2D(
            [], [], linestyle="none", marker="o", markersize=6.5, markeredgewidth=0.4,
            markerfacecolor=TYPE_COLOURS[k][i], markeredgecolor=TYPE_COLOURS[k][0],
            label=f"{k}, {s} ({_number(kind, strength, k, s)})",
        )
        for k in TYPES
        for i, s in enumerate(STRENGTHS)
        if (k, s) != ("other", "strong")
    ]  # fmt: skip
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.2,
        labelspacing=0.35,
    )  # fmt: skip
    return figure


@styled
def draw_ranges(
    neurons: Sequence[int],
    ranges: Sequence[Sequence[tuple[int, int]]],
    context: int,
    layer: int,
    name: str,
    why_none: str = "",
) -> Figure:
    """Draw figure 9: where the strong oscillatory neurons of one layer fire, a row per neuron.

    Parameters
    ----------
    neurons : sequence of int
    ranges : per neuron, a list of (first, last) positions, inclusive
    context : int
    layer : int
    name : str
    why_none : str
        A sentence in place of the figure.
    """
    if why_none or not neurons:
        return draw_sentence(why_none or f"{legible(name)}: no strong oscillatory neuron.")
    # By the middle of the first range that begins after the start: that orders them by phase.
    phase = [
        next((a + b for a, b in own if a > 1), own[0][0] + own[0][1] if own else 0)
        for own in ranges
    ]
    order = np.argsort(phase, kind="stable")[:MOST_ROWS]
    row_height = 0.17
    figure = new_figure(WIDTH, row_height * len(order) + 0.85)
    axes = figure.subplots()
    for row, i in enumerate(order):
        bars = [(a, b - a + 1) for a, b in ranges[i]]
        axes.broken_barh(
            bars, (row - 0.36, 0.72), color=TYPE_COLOURS["oscillatory"][0], zorder=3, linewidth=0
        )
    axes.set_ylim(len(order) - 0.45, -0.55)
    axes.set_yticks(range(len(order)), [f"{layer}.{neurons[i]}" for i in order])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, context)
    axes.grid(visible=False)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("position")
    axes.set_ylabel("neuron")
    shown = f", {MOST_ROWS} of {len(neurons)}" if len(neurons) > MOST_ROWS else ""
    axes.set_title(
        f"{legible(name)}: where the strong oscillatory neurons of layer {layer} fire{shown}",
        color=INK,
    )
    axes.title.set_parse_math(False)
    return figure


def _number(kind: Sequence[str], strength: Sequence[str], k: str, s: str) -> int:
    return sum(1 for a, b in zip(kind, strength, strict=True) if (a, b) == (k, s))
