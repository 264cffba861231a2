"""`segment_counts` by Triton and CUDA, in GB/s of bits, beside a copy on the device, in turns."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from device.clock import in_turns, rates, ratios
from device.part import Part, run
from interleaved import quartiles
from pyneurons import backends, ops

if TYPE_CHECKING:
    from collections.abc import Callable

BACKENDS: Final = ("triton", "cuda")
WORDS: Final = 32
"""Of a row: the strip of 1,024 neurons that observers get."""

ROWS: Final = 1 << 22
"""512 MB of bits: ten times the second-level cache of an H100."""

CONTEXT: Final = 2048


def bits(rows: int, device: torch.device) -> torch.Tensor:
    """Return words of which 1 bit in 16 is set, int32 [rows, WORDS]."""
    torch.manual_seed(0)
    drawn = [
        torch.randint(-(2**31), 2**31, (rows, WORDS), dtype=torch.int32, device=device)
        for _ in range(4)
    ]
    return drawn[0] & drawn[1] & drawn[2] & drawn[3]


def orders(rows: int, context: int) -> dict[str, tuple[np.ndarray | None, np.ndarray]]:
    """Return the rows to visit and the bounds of their segments, for the three kinds of counters.

    In order: all rows are one segment (fires). By position: row ``p`` of every sequence (position
    counts). Shuffled: segments of Zipf's lengths at random rows (n-grams).
    """
    by_position = np.arange(rows).reshape(-1, context).T.reshape(-1)
    random = np.random.default_rng(0)
    share = 1 / np.arange(1, context + 1)
    lengths = random.multinomial(rows, share / share.sum())
    return {
        "in order": (None, np.array([0, rows])),
        "by position": (
            by_position.astype(np.int32),
            np.linspace(0, rows, context + 1).astype(np.int64),
        ),
        "shuffled": (
            random.permutation(rows).astype(np.int32),
            np.concatenate([[0], np.cumsum(np.sort(lengths))]),
        ),
    }


def expected(mask: torch.Tensor, order: np.ndarray | None, segments: np.ndarray) -> torch.Tensor:
    """Count the first word's neurons in the plain way, int64 [segments, 32]."""
    words = mask[:, 0] if order is None else mask[torch.from_numpy(order).to(mask.device).long(), 0]
    fires = ((words[:, None] >> torch.arange(32, device=mask.device)) & 1).to(torch.int64)
    sums = torch.cat([torch.zeros_like(fires[:1]), fires.cumsum(dim=0)])
    bounds = torch.from_numpy(segments).to(mask.device)
    return sums[bounds[1:]] - sums[bounds[:-1]]


def measure(part: Part) -> None:
    """Count 512 MB of bits in three orders."""
    rows, context = (64, 8) if part.toy else (ROWS, CONTEXT)
    mask = bits(rows, part.device)
    for ordered, (order, segments) in orders(rows, context).items():
        if part.in_time("segment_counts", 4, ordered=ordered):
            measure_order(part, mask, ordered, order, segments)


def measure_order(
    part: Part, mask: torch.Tensor, ordered: str, order: np.ndarray | None, segments: np.ndarray
) -> None:
    """Count by every backend, checked before, in turns with a copy of the same bits."""
    device = mask.device
    truth = expected(mask, order, segments)
    counts = torch.zeros(len(segments) - 1, 32 * WORDS, dtype=torch.int64, device=device)
    target = torch.empty_like(mask)
    programs: dict[str, Callable[[], Any]] = {"copy": partial(target.copy_, mask)}
    with ExitStack() as held:
        for backend in BACKENDS:
            reason = backends.why_not(backend)
            if reason is not None:
                part.absent("segment_counts", reason, ordered=ordered, backend=backend)
                continue
            # As observers do: orders and bounds are the host's, and held on the device meanwhile.
            held.enter_context(ops.hold(order, segments, backend=backend))
            count = partial(ops.segment_counts, mask, order, segments, counts, backend=backend)
            counts.zero_()
            count()
            assert torch.equal(counts[:, :32], truth), f"{backend}, {ordered}: wrong counts"
            programs[backend] = count
        seconds = in_turns(programs, device, budget_s=1, toy=part.toy)
    size = 4 * mask.numel()
    for backend, values in seconds.items():
        # A copy reads and writes; counting reads. The share is one of bytes a second.
        moved = 2 * size if backend == "copy" else size
        share = [0.5 * value for value in ratios(seconds["copy"], values)]
        part.record(
            "segment_counts",
            ordered=ordered,
            backend=backend,
            bytes=moved,
            rounds=len(values),
            seconds=quartiles(values),
            gb_per_s=rates(moved / 1e9, values),
            of_copy=None if backend == "copy" else share,
        )


if __name__ == "__main__":
    run(measure)
