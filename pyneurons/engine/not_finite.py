"""What to say of a pre-activation that is not a finite number: where it is, and what may help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pyneurons.errors import NonFiniteError
from pyneurons.reference import non_finite

if TYPE_CHECKING:
    from torch import Tensor

    from pyneurons.corpus import Corpus

_REMEDIES = {
    "float16": 'float16 ends at 65,504; scan with dtype="bfloat16"',
    "bfloat16": "the weights lead out of the range of bfloat16, which is that of float32: compare them "
    "with the published ones",
    "float32": "the weights lead out of the range of float32: compare them with the published ones",
}


def not_finite(
    layer: int, corpus: Corpus, row: int, neuron: int, mode: str, hidden: Tensor | None = None
) -> NonFiniteError:
    """Return the error that stops a run.

    Parameters
    ----------
    layer : int
    corpus : Corpus
        The corpus of the pass, of which ``row`` is a row.
    row, neuron : int
    mode : str
        The numeric mode of the pass.
    hidden : Tensor, optional
        The residual stream around it, where that is at hand: its largest finite value is told.
    """
    sequence = int(corpus.starts.searchsorted(row, side="right")) - 1
    token = int(corpus.ids[row])
    string = corpus.strings[token] if token < len(corpus.strings) else None
    name = f"token {token}" + ("" if string is None else f" {string!r}")
    place = f"position {row - int(corpus.starts[sequence])} of sequence {sequence}, {name}"
    reaches = ""
    if hidden is not None:
        largest = torch.where(torch.isfinite(hidden), hidden.abs(), 0).max()
        reaches = f"; the residual stream around it reaches {float(largest):.3g}"
    message = f"layer {layer}: {non_finite(row, neuron)} ({place}){reaches}; {_REMEDIES[mode]}"
    return NonFiniteError(message, (row, neuron))
