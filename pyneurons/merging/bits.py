"""The bits of all runs as those of one: with them, n-gram statistics are counted again, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pyneurons.engine.counting import join
from pyneurons.engine.mask import STRIP_WORDS, StripShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyneurons.merging.parts import Layout
    from pyneurons.observers.ngram import NgramCounts, NgramObserver

_STRIP_BYTES: Final = 1 << 28


class MergedBits:
    """The bits of one layer of a merged run, gathered strip by strip."""

    def __init__(self, layout: Layout, layer: int) -> None:
        self._layout = layout
        self._words = [opened.run.bit_words(layer) for opened in layout.opened]
        self._rows = layout.corpus.tokens
        most = max(1, _STRIP_BYTES // (4 * max(1, self._rows)))
        self.shape = StripShape.of(layout.opened[0].run.n_neurons, min(STRIP_WORDS, most))

    def strip(self, strip: int) -> np.ndarray:
        """Return one strip, uint32 [N, strip_words]; words past the last neuron are 0."""
        width = self.shape.strip_words
        found = np.zeros((self._rows, width), dtype=np.uint32)
        for i, words in enumerate(self._words):
            strips, _, own = words.shape
            for at in range(width):
                word = strip * width + at
                if word >= strips * own:
                    break
                column = words[word // own, :, word % own]
                for here, there in self._layout.row_blocks(i):
                    found[there, at] = column[here]
        return found


def counted_ngrams(
    bits: MergedBits, fires: np.ndarray, observers: Sequence[NgramObserver], threads: int
) -> dict[int, NgramCounts]:
    """Return the n-gram statistics of one layer, as a scan of all the rows would."""
    parts: dict[int, list[tuple[int, NgramCounts]]] = {o.index.n: [] for o in observers}
    for strip in range(bits.shape.strips):
        begin, end = bits.shape.range(strip)
        words = bits.strip(strip)
        for observer in observers:
            own = np.ascontiguousarray(fires[begin:end])
            counts = observer.observe(words, own, backend=None, threads=threads)
            parts[observer.index.n].append((begin, counts))
    return {n: join(found) for n, found in parts.items()}
