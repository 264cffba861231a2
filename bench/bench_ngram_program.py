"""Exact n-gram statistics, n = 1..3, of every layer, beside the program that a user would write.

Both sides get the same tokens. Ours: the index of the corpus and the observers, over the bits that
a scan kept. Theirs: what `programs.NgramHooks` does beside its forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from interleaved import Rival, quartiles
from opt_shapes import corpus_of, zipf_rows
from programs import NgramHooks, covering, ngrams_of, pairs_of
from pyneurons.corpus import ngram_index
from pyneurons.engine.mask import MemoryMask, StripShape
from pyneurons.observers.ngram import NgramCounts, NgramObserver
from pyneurons.reference import pack
from side_by_side import Scans, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from interleaved import Interleaved

CONTEXT, AMOUNT, ROUNDS = 2048, 16_384, 2
ORDERS = (1, 2, 3)


def masks(scan: Scans, rows: int) -> list[MemoryMask]:
    """Return the bits that a scan kept, laid out as the engine has them."""
    assert scan.last is not None
    kept = []
    for layer in scan.last.layers:
        bits = scan.last.bits(layer)
        shape = StripShape.of(bits.shape[1])
        mask = MemoryMask(rows, shape)
        for strip in range(shape.strips):
            start, stop = shape.range(strip)
            mask.strip(strip)[:] = pack(bits[:, start:stop])
        kept.append(mask)
    return kept


def statistics(
    rows: np.ndarray, layers: list[MemoryMask], fires: np.ndarray, threads: int
) -> list[tuple[int, int, int, NgramCounts]]:
    """Return (layer, first neuron, n, counts) of every strip, from nothing but tokens and bits."""
    corpus = corpus_of(rows)
    found = []
    for n in ORDERS:
        observer = NgramObserver.build(corpus, ngram_index.build(corpus, n, threads=threads))
        for layer, mask in enumerate(layers):
            for strip in range(mask.shape.strips):
                start, stop = mask.shape.range(strip)
                of_strip = fires[layer, start:stop]
                counts = observer.observe(
                    mask.strip(strip), of_strip, backend=None, threads=threads
                )
                found.append((layer, start, n, counts))
    return found


def check(rows: np.ndarray, scan: Scans, found: list[tuple[int, int, int, NgramCounts]]) -> None:
    """Compare fires, covering numbers and histograms with those of the program, on our bits."""
    assert scan.last is not None
    grams = {n: ngrams_of(rows, n) for n in ORDERS}
    truth = {}
    for layer in scan.last.layers:
        row, neuron = np.nonzero(scan.last.bits(layer))
        for n in ORDERS:
            width = scan.last.fires.shape[1]
            truth[layer, n] = covering([pairs_of(grams[n][row], neuron, width)], width)
    for layer, start, n, counts in found:
        theirs = truth[layer, n]
        own = slice(start, start + len(counts.coverage))
        np.testing.assert_array_equal(counts.ngram_fires, theirs["fires"][own])
        np.testing.assert_array_equal(counts.coverage, theirs["covering"][own])
        neuron, count, number = theirs["histogram"].T
        here = (neuron >= own.start) & (neuron < own.stop)
        np.testing.assert_array_equal(
            np.repeat(np.arange(own.start, own.stop), np.diff(counts.offsets)), neuron[here]
        )
        np.testing.assert_array_equal(counts.count, count[here])
        np.testing.assert_array_equal(counts.number, number[here])


def bench_ngram_program(
    compare: Interleaved, checkpoint: Path, tmp_path: Path, cores: int, *, small: bool
) -> None:
    amount = 2 * CONTEXT if small else AMOUNT
    tokens = Tokens.write(zipf_rows(amount // CONTEXT, CONTEXT), tmp_path)
    scan = Scans(checkpoint, tokens.file, dtype="bfloat16", context=CONTEXT, keep_bits=True)
    fires = scan.run(ngrams=()).fires
    layers = masks(scan, amount)
    check(tokens.rows, scan, statistics(tokens.rows, layers, fires, cores))
    program = NgramHooks(checkpoint, torch.bfloat16, ORDERS)
    whole: list[float] = []

    def theirs() -> float:
        whole.append(Rival(lambda: program.run(tokens.rows), amount).seconds())
        return program.statistics_s

    compare(
        lambda: statistics(tokens.rows, layers, fires, cores),
        tokens=amount,
        rivals={"hooks, np.unique over (neuron, n-gram): statistics alone": Rival(theirs, amount)},
        rounds=1 if small else ROUNDS,
        warm=False,
        case=f"opt-125m, T = {CONTEXT}, n = 1..3, statistics alone",
        shape="opt-125m",
        context=CONTEXT,
        threads=cores,
        notes=lambda: {
            "whole_program_tokens_per_s": quartiles(amount / np.array(whole)),
            "firing_share": float(fires.mean() / amount),
        },
    )
