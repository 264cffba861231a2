"""What the page shows of layers: the n-grams that a layer detects, and who detects an n-gram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.report import words
from pyneurons.report.page.figure_spec import FigureSpec
from pyneurons.report.source import columns, whole
from pyneurons.report.style import LINES

if TYPE_CHECKING:
    from collections.abc import Sequence

_SETS: Final = {
    "detected": "detected",
    "cumulative": "detected, this layer and all lower ones",
    "new": "new against all lower layers",
    "new_below": "new against the layer below",
}


def ensemble(scan: Any, run: int) -> list[FigureSpec]:
    """Return one figure per n: the n-grams that each layer detects, and which of them are new."""
    figures = []
    for n in scan.manifest["settings"]["ngrams"]:
        table = columns(scan.detected(n))
        rows = [
            {"layer": layer, "set": said, "ngrams": number}
            for name, said in _SETS.items()
            for layer, number in zip(
                whole(table["layer"]).tolist(), whole(table[name]).tolist(), strict=True
            )
            if number >= 0  # -1: the layer below was not scanned
        ]
        name = words.ngram_name(n)
        figures.append(
            FigureSpec(
                id=f"ensemble-{run}-{n}",
                title=f"Detected {name}s",
                says=f"Distinct {name}s that some certain detector of a layer covers, and those "
                "among them that no lower layer, or not the layer below, detects; exact counts.",
                definition="ensemble",
                spec=_spec(rows, f"{name}s"),
                rows=rows,
            )
        )
    return figures


def _spec(rows: Sequence[dict[str, Any]], what: str) -> dict[str, Any]:
    said = list(_SETS.values())
    return {
        "width": "container",
        "height": 260,
        "data": {"values": rows},
        "params": [{"name": "shown", "select": {"type": "point", "fields": ["set"]}, "bind": "legend"}],
        "mark": {"type": "line", "point": True, "tooltip": True},
        "encoding": {
            "x": {"field": "layer", "type": "quantitative", "axis": {"tickMinStep": 1}},
            "y": {"field": "ngrams", "type": "quantitative", "title": what},
            "color": {
                "field": "set",
                "type": "nominal",
                "title": None,
                "scale": {"domain": said, "range": list(LINES[: len(said)])},
                "legend": {"orient": "bottom", "columns": 1, "labelLimit": 320},
            },
            "strokeDash": {"field": "set", "type": "nominal", "title": None, "scale": {"domain": said}},
            "opacity": {"condition": {"param": "shown", "value": 1}, "value": 0.1},
        },
    }  # fmt: skip


def detector_columns(scan: Any) -> tuple[dict[str, np.ndarray], list[int]]:
    """Return all certain detectors of all n with what they detect, for the search.

    Returns
    -------
    (columns, orders)
        ``layer, neuron, n, fires, coverage`` [detectors]; ``starts`` [detectors + 1], the first of
        its n-grams; ``tokens``, the ids of all n-grams one after the other.
    """
    parts: dict[str, list[Any]] = {
        name: [] for name in ("layer", "neuron", "n", "fires", "coverage", "number", "tokens")
    }
    orders = [int(n) for n in scan.manifest["settings"]["ngrams"]]
    for n in orders:
        found = columns(scan.detectors(n))
        for i in np.flatnonzero(found["exact"]).tolist():
            for name in ("layer", "neuron", "fires"):
                parts[name].append(int(found[name][i]))
            parts["n"].append(n)
            parts["coverage"].append(float(found["coverage"][i]))
            parts["number"].append(len(found["covered"][i]))
            parts["tokens"] += [token for ngram in found["covered"][i] for token in ngram]
    counts = {name: whole(parts[name]) for name in ("layer", "neuron", "n", "fires", "tokens")}
    starts = np.concatenate([[0], np.cumsum(whole(parts["number"]))])
    coverage = np.asarray(parts["coverage"], dtype=np.float64)
    return {**counts, "coverage": coverage, "starts": starts}, orders
