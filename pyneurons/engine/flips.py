"""The float32 repetition of a run's first tokens: how many bits the numeric mode flips."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons import ops
from pyneurons.corpus import ngram_index
from pyneurons.observers.ngram import NgramObserver

if TYPE_CHECKING:
    from pyneurons.corpus import Corpus
    from pyneurons.engine.mask import StripShape

TOKEN_COVERING_LIMIT = 5


def sample_of(corpus: Corpus, tokens: int) -> Corpus | None:
    """Return the corpus cut to its first whole sequences of at most ``tokens`` positions.

    At least one sequence; None when ``tokens`` is 0.
    """
    if tokens <= 0:
        return None
    sequences = max(1, int(np.searchsorted(corpus.starts, tokens, side="right")) - 1)
    rows = int(corpus.starts[sequences])
    return replace(
        corpus,
        ids=corpus.ids[:rows],
        starts=corpus.starts[: sequences + 1],
        sequence_domain=corpus.sequence_domain[:sequences],
    )


@dataclass(frozen=True)
class FlipSample:
    """Compares the bits of two numeric modes on the same rows."""

    corpus: Corpus
    observer: NgramObserver | None

    @classmethod
    def build(cls, corpus: Corpus, ngrams: tuple[int, ...], backend: str | None) -> FlipSample:
        """Index the sample's tokens, if the run looks at tokens at all."""
        if 1 not in ngrams:
            return cls(corpus, None)
        index = ngram_index.build(corpus, 1, backend=backend)
        return cls(corpus, NgramObserver.build(corpus, index, list_limit=TOKEN_COVERING_LIMIT))

    def compare(
        self,
        mode: np.ndarray,
        float32: np.ndarray,
        shape: StripShape,
        *,
        backend: str | None,
        threads: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Compare the bits of the run's mode with those of float32, both [strips, rows, words].

        Returns
        -------
        arrays : dict
            ``sample_fires`` (float32), ``flips_gained`` (fires only in the run's mode) and
            ``flips_lost`` (fires only in float32), int64 [F].
        summary : dict
            Totals, the two shares of float32's fires, and the neurons that change class on the
            sample: dead, and detected by at most 5 tokens.
        """
        rows = mode.shape[1]
        segments = np.array([0, rows], dtype=np.int64)
        parts: list[np.ndarray] = []
        classes = {"dead_gained": 0, "dead_lost": 0, "detectors_gained": 0, "detectors_lost": 0}
        for strip in range(shape.strips):
            start, stop = shape.range(strip)
            counted = np.zeros((4, 1, stop - start), dtype=np.int64)
            ours, truth = np.ascontiguousarray(mode[strip]), float32[strip]
            for counts, words in zip(
                counted, (truth, ours & ~truth, truth & ~ours, ours), strict=True
            ):
                ops.segment_counts(words, None, segments, counts, backend=backend, threads=threads)
            fires32, _, _, fires = counted[:, 0]
            parts.append(counted[:, 0])
            classes["dead_gained"] += int(((fires == 0) & (fires32 > 0)).sum())
            classes["dead_lost"] += int(((fires > 0) & (fires32 == 0)).sum())
            if self.observer is not None:
                before = self._detectors(truth, fires32, backend, threads)
                after = self._detectors(ours, fires, backend, threads)
                classes["detectors_gained"] += int((after & ~before).sum())
                classes["detectors_lost"] += int((before & ~after).sum())
        sample_fires, gained, lost, _ = np.concatenate(parts, axis=1)
        total = max(1, int(sample_fires.sum()))
        summary = {
            "fires": int(sample_fires.sum()),
            "gained": int(gained.sum()),
            "lost": int(lost.sum()),
            "gained_share": int(gained.sum()) / total,
            "lost_share": int(lost.sum()) / total,
        }
        arrays = {"sample_fires": sample_fires, "flips_gained": gained, "flips_lost": lost}
        return arrays, summary | classes

    def _detectors(
        self, words: np.ndarray, fires: np.ndarray, backend: str | None, threads: int
    ) -> np.ndarray:
        """Return which neurons are token detectors on the sample (definition 4, defaults)."""
        observer = self.observer
        if observer is None:
            return np.zeros(fires.size, dtype=bool)
        counts = observer.observe(words, fires, backend=backend, threads=threads)
        held = np.zeros(fires.size, dtype=np.int64)
        rows = counts.rows
        np.add.at(held, rows["neuron"][rows["covered"]], rows["fires"][rows["covered"]])
        share = observer.share
        return (
            (counts.coverage >= 1)
            & (counts.coverage <= TOKEN_COVERING_LIMIT)
            & (share.denominator * held >= share.numerator * counts.ngram_fires)
        )
