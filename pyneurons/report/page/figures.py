"""The figures of the overview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons.report.figures_dead import relative_depth
from pyneurons.report.page.figure_spec import FigureSpec

if TYPE_CHECKING:
    from collections.abc import Sequence


def figures(scans: Sequence[Any]) -> list[FigureSpec]:
    """Return figures 1a and 1b of all runs on the same axes."""
    dead, alive = [], []
    for scan in scans:
        share = 100 * np.asarray(scan.dead).mean(axis=1)
        mean = (scan.frequency * ~scan.dead).sum(axis=1) / np.maximum((~scan.dead).sum(axis=1), 1)
        depths = relative_depth(scan.layers, scan.n_model_layers)
        for layer, depth, y, z in zip(scan.layers, depths, share, mean, strict=True):
            at = {"run": scan.name, "layer": layer, "depth": float(depth)}
            dead.append({**at, "dead": float(y)})
            alive.append({**at, "frequency": float(z)})
    return [
        _lines("figure-1a", "Dead neurons", "dead", dead, "dead neurons, % of a layer"),
        _lines("figure-1b", "Mean frequency", "frequency", alive, "mean frequency of the alive"),
    ]


def _lines(name: str, title: str, field: str, rows: list[dict[str, Any]], label: str) -> FigureSpec:
    return FigureSpec(
        id=name,
        title=title,
        says=f"{label.capitalize()}, by relative depth of the layer; exact counts.",
        definition="dead",
        spec={
            "width": "container",
            "height": 240,
            "data": {"values": rows},
            "mark": {"type": "line", "point": True, "tooltip": True},
            "encoding": {
                "x": {"field": "depth", "type": "quantitative", "title": "relative depth"},
                "y": {"field": field, "type": "quantitative", "title": label},
                "color": {"field": "run", "type": "nominal", "title": None},
            },
        },
        rows=rows,
    )
