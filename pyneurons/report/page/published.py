"""What the paper published, read off its figures, for models of the same shape."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final

LETTERS: Final = {"p": "oscillatory", "r": "both", "g": "one", "y": "other"}
"""Types in the rows of positional neurons; an upper-case letter is a strong one."""


@cache
def published() -> dict[str, Any]:
    """Return ``published.json``: curves by size, with their source, error and corpora."""
    text = files("pyneurons.report.page").joinpath("published.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def size_of(run: Any) -> str | None:
    """Return the OPT size that a run's model has the shape of, or None.

    By layers, hidden size and neurons of a layer: a model with other weights of that shape is taken for
    it, which the words beside a figure leave to the reader.
    """
    model = run.manifest.get("model", {})
    shape = [model.get(name) for name in ("n_layers", "hidden_size", "ffn_dim")]
    for size, known in published()["shapes"].items():
        if shape == known:
            return str(size)
    return None


def curve(run: Any, name: str) -> Any:
    """Return what the paper shows for a run's size, or None."""
    size = size_of(run)
    return None if size is None else published()[name].get(size)
