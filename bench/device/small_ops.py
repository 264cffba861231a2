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


def main(backend: str) -> None:
    """Run the ops that have kernels for a device."""
    random = np.random.default_rng(0)
    fires = random.random((ROWS, NEURONS)) < random.random(NEURONS) ** 3
    mask = reference.pack(fires)
    order = random.permutation(ROWS).astype(np.int32)
    lengths = np.array([0, 1, 1, 1, 2, 3, 5, 9, 40, 88])
    segments = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    totals = fires[order].sum(axis=0).astype(np.int64)

    def counted(name: str) -> np.ndarray:
        counts = np.zeros((len(lengths), NEURONS), np.int64)
        ops.segment_counts(mask, order, segments, counts, backend=name)
        return counts

    truth = counted("reference")
    np.testing.assert_array_equal(counted(backend), truth)

    def covered(name: str) -> tuple[np.ndarray, np.ndarray]:
        histogram = np.zeros((51, NEURONS), np.int64)
        large = np.zeros((1, NEURONS), np.int64)
        ops.ngram_coverage(mask, order, segments, totals, histogram, large, backend=name)
        return histogram, large

    for ours, expected in zip(covered(backend), covered("reference"), strict=True):
        np.testing.assert_array_equal(ours, expected)
    threshold = np.full(NEURONS, 2, np.int64)
    lists = (truth >= 2).sum(axis=0)
    offsets = np.concatenate([[0], np.cumsum(lists)]).astype(np.int64)

    def triggers(name: str) -> tuple[np.ndarray, np.ndarray]:
        which = np.zeros(offsets[-1], np.int32)
        number = np.zeros(offsets[-1], np.int64)
        ops.ngram_triggers(mask, order, segments, threshold, offsets, which, number, backend=name)
        return which, number

    for ours, expected in zip(triggers(backend), triggers("reference"), strict=True):
        np.testing.assert_array_equal(ours, expected)
    feed_forward(backend)
    print(f"{backend}: the same as the reference")


def feed_forward(backend: str) -> None:
    """Run `ffn` on small integers, which every order of sums adds exactly."""
    torch.manual_seed(0)

    def lattice(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape).float()

    x, fc1, fc2 = lattice(ROWS, 40), lattice(NEURONS, 40), lattice(40, NEURONS)
    bias1, bias2 = lattice(NEURONS), lattice(40)
    strips, words = ops.strip_shape(NEURONS)
    found = {}
    for name in ("reference", backend):
        residual = torch.zeros(ROWS, 40)
        mask = np.zeros((strips, ROWS, words), np.uint32)
        z_max = torch.full((NEURONS,), -torch.inf)
        ops.ffn(x, fc1, bias1, fc2, bias2, residual, mask, z_max, backend=name)
        found[name] = (residual.numpy(), mask, z_max.numpy())
    for ours, expected in zip(found[backend], found["reference"], strict=True):
        np.testing.assert_array_equal(ours, expected)


if __name__ == "__main__":
    backends.resolve(sys.argv[1])
    main(sys.argv[1])
