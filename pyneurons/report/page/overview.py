"""What the page says of a run as a whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from pyneurons.analysis.positional import bias
from pyneurons.report import words
from pyneurons.report.page.layers import ensemble
from pyneurons.report.page.neurons import bin_edges
from pyneurons.report.source import columns, whole


def run_facts(scan: Any, place: int, *, text: bool) -> dict[str, Any]:
    """Return the header of a run, and what the page needs to read its blocks."""
    manifest = scan.manifest
    return {
        "name": scan.name,
        "title": words.title(scan),
        "lines": [*words.what_was_run(scan), *words.exactness(scan)],
        "numeric": words.numeric(scan),
        "cost": words.cost(scan),
        "positional_caveat": words.positional_caveat(scan),
        "layers": [int(layer) for layer in scan.layers],
        "neurons": int(manifest["model"]["ffn_dim"]),
        "tokens": scan.tokens,
        "full_sequences": scan.full_sequences,
        "mi_bias": bias(scan.full_sequences) if scan.full_sequences else 0.0,
        "domains": [[name, tokens] for name, tokens in scan.domain_tokens.items()],
        "ngrams": [int(n) for n in manifest["settings"]["ngrams"]],
        "vocabulary": scan.vocabulary_entries,
        "edges": bin_edges(int(manifest["settings"]["context"])).tolist(),
        "text": text,
        "summary": _summary(scan),
        "ensemble": [asdict(figure) for figure in ensemble(scan, place)],
    }


def _summary(scan: Any) -> dict[str, list[Any]]:
    """Return the table of layers that `pyneurons show` prints."""
    dead, frequency = scan.dead, scan.frequency
    alive = ~dead
    mean = np.where(
        alive.any(axis=1),
        (frequency * alive).sum(axis=1) / np.maximum(alive.sum(axis=1), 1),
        np.nan,
    )
    positional = np.bincount(
        whole(columns(scan.positional())["layer"]), minlength=scan.n_model_layers
    )
    out: dict[str, list[Any]] = {
        "layer": [int(layer) for layer in scan.layers],
        "alive": alive.sum(axis=1).tolist(),
        "dead": dead.sum(axis=1).tolist(),
        "proven": scan.provably_dead.sum(axis=1).tolist(),
        "mean_frequency": [float(value) if np.isfinite(value) else None for value in mean],
    }
    for n in scan.manifest["settings"]["ngrams"]:
        table = columns(scan.detected(n))
        out[f"detectors_{n}"] = whole(table["detectors"]).tolist()
        out[f"supported_{n}"] = whole(table["supported"]).tolist()
    out["positional"] = positional[np.asarray(scan.layers)].tolist()
    return out
