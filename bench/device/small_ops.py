"""Every op that runs on a GPU, once, on inputs small enough for a tool that watches every access.

    python3 -m device.small_ops BACKEND

The answers are compared with the reference: `device.sanitizer` calls it under compute-sanitizer.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from pyneurons import backends, ops, reference

ROWS, NEURONS = 150, 70


def counting(backend: str) -> dict[str, tuple[np.ndarray, ...]]:
    """Return what each op says of some bits."""
    random = np.random.default_rng(0)
    fires = random.random((ROWS, NEURONS)) < random.random(NEURONS) ** 3
    mask = reference.pack(fires)
    order = random.permutation(ROWS).astype(np.int32)
    lengths = np.array([0, 1, 1, 1, 2, 3, 5, 9, 40, 88])
    segments = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    totals = fires.sum(axis=0).astype(np.int64)

    counts = np.zeros((len(lengths), NEURONS), np.int64)
    ops.segment_counts(mask, order, segments, counts, backend=backend)

    histogram, large = np.zeros((51, NEURONS), np.int64), np.zeros((1, NEURONS), np.int64)
    ops.ngram_coverage(mask, order, segments, totals, histogram, large, backend=backend)

    threshold = np.full(NEURONS, 2, np.int64)
    offsets = np.concatenate([[0], np.cumsum((counts >= 2).sum(axis=0))]).astype(np.int64)
    which, number = np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1], np.int64)
    ops.ngram_triggers(mask, order, segments, threshold, offsets, which, number, backend=backend)

    rows, seen = np.full((NEURONS, 3), -1, np.int64), np.zeros(NEURONS, np.int64)
    ops.firing_rows(mask, order, rows, seen, backend=backend)

    first, met = np.full((NEURONS, 2), -1, np.int32), np.zeros(NEURONS, np.int64)
    once = np.ones(NEURONS, np.int64)
    ops.first_segments(mask, order, segments, once, first, met, backend=backend)

    ids, keys = random.integers(0, 50, ROWS).astype(np.uint16), np.zeros(ROWS, np.uint64)
    starts = np.array([0, 70, 71, ROWS])
    ops.ngram_keys(ids, starts, 3, 16, 2, keys, backend=backend)
    return {
        "segment_counts": (counts,),
        "ngram_coverage": (histogram, large),
        "ngram_triggers": (which, number),
        "firing_rows": (rows, seen),
        "first_segments": (first, met),
        "ngram_keys": (keys,),
    }


def feed_forward(backend: str) -> dict[str, tuple[np.ndarray, ...]]:
    """Run `ffn` on small integers, which every order of sums adds exactly."""
    torch.manual_seed(0)

    def lattice(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape).float()

    x, fc1, fc2 = lattice(ROWS, 40), lattice(NEURONS, 40), lattice(40, NEURONS)
    bias1, bias2 = lattice(NEURONS), lattice(40)
    strips, words = ops.strip_shape(NEURONS)
    residual = torch.zeros(ROWS, 40)
    mask = np.zeros((strips, ROWS, words), np.uint32)
    z_max = torch.full((NEURONS,), -torch.inf)
    ops.ffn(x, fc1, bias1, fc2, bias2, residual, mask, z_max, backend=backend)
    return {"ffn": (residual.numpy(), mask, z_max.numpy())}


def main(backend: str) -> None:
    """Compare a backend with the reference."""
    truth = counting("reference") | feed_forward("reference")
    ours = counting(backend) | feed_forward(backend)
    for op, expected in truth.items():
        for one, other in zip(ours[op], expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=op)
    print(f"{backend}: {', '.join(truth)} are the same as the reference")


if __name__ == "__main__":
    backends.resolve(sys.argv[1])
    main(sys.argv[1])
