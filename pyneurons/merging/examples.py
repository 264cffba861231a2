"""Firing positions of a merged run: of each neuron the 16 with the least keys, out of those of all runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyneurons.observers.firing import EXAMPLES
from pyneurons.result import columns_of

if TYPE_CHECKING:
    from pyneurons.merging.parts import Layout


def merged_examples(layout: Layout, layer: int) -> np.ndarray:
    """Return rows of the merged run, int64 [16, F], -1 where a neuron fires less often.

    The very ones that a scan of the whole corpus would keep: the key of a row does not depend on where
    its sequence stands, and what is among the first 16 of all is among the first 16 of its run.
    """
    neurons, rows = [], []
    for i, opened in enumerate(layout.opened):
        kept = columns_of(opened.run.table("examples", layer=layer))
        neurons.append(kept["neuron"].astype(np.int64))
        rows.append(layout.rows(i, kept["row"].astype(np.int64)))
    neuron, row = np.concatenate(neurons), np.concatenate(rows)
    order = np.lexsort((row, layout.keys.of_rows(row), neuron))
    neuron, row = neuron[order], row[order]
    place = np.arange(neuron.size) - np.searchsorted(neuron, neuron)
    first = place < EXAMPLES
    found = np.full((EXAMPLES, layout.opened[0].run.n_neurons), -1, dtype=np.int64)
    found[place[first], neuron[first]] = row[first]
    return found
