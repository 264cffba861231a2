"""Figures 1a and 1b: dead neurons, and how often the others fire, along the depth of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyneurons.report.style import LINES, MARKERS, WIDTH, Line, draw_sentence, new_figure, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


@styled
def draw_dead(lines: Sequence[Line]) -> Figure:
    """Draw figure 1a: the share of dead neurons, in per cent, one line per run."""
    return _along_the_depth(lines, "dead neurons, % of a layer")


@styled
def draw_frequency(lines: Sequence[Line]) -> Figure:
    """Draw figure 1b: the mean firing frequency of the alive neurons, one line per run."""
    return _along_the_depth(lines, "mean frequency of alive neurons")


def _along_the_depth(lines: Sequence[Line], label: str) -> Figure:
    if not any(np.isfinite(line.y).any() for line in lines):
        return draw_sentence("No layer has a value to show: every neuron is dead.")
    figure = new_figure(WIDTH * 0.55, 2.6)
    axes = figure.subplots()
    for i, line in enumerate(lines):
        axes.plot(
            line.x, line.y, color=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)],
            label=line.name, clip_on=False, zorder=3,
            markevery=-(-len(line.x) // 24),  # markers that touch tell nothing apart
        )  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    top = float(np.nanmax([np.nanmax(line.y, initial=0.0) for line in lines]))
    axes.set_ylim(0, top * 1.06 if top > 0 else 1)
    axes.set_xlabel("relative depth of the layer")
    axes.set_ylabel(label)
    if len(lines) == 1:
        axes.set_title(lines[0].name, parse_math=False)
        return figure
    few = len(lines) < 5
    legend = (
        axes.legend(loc="best") if few else axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
