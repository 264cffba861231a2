"""Strips of one layer counted side by side, and what they tell joined."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pyneurons import failpoints
from pyneurons.observers.ngram import NgramCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

Answer = TypeVar("Answer")


def answers_of(
    pool: Executor, work: Sequence[Callable[[], Answer]], *, at_once: int
) -> list[Answer]:
    """Return what the calls return, of which up to ``at_once`` are made at the same time."""
    answers: dict[int, Answer] = {}
    left = iter(range(len(work)))
    lock = threading.Lock()
    stopped = threading.Event()

    def go_on() -> None:
        while True:
            with lock:
                i = next(left, None)
            if i is None or stopped.is_set():
                return
            failpoints.at("count")
            answers[i] = work[i]()

    runners = [pool.submit(go_on) for _ in range(min(at_once, len(work)))]
    try:
        wait(runners)  # all of them: what they read may be gone after an exception
    except KeyboardInterrupt:
        stopped.set()  # the strips that are left may take minutes
        raise
    for runner in runners:
        runner.result()
    return [answers[i] for i in range(len(work))]


def join(parts: list[tuple[int, NgramCounts]]) -> NgramCounts:
    """Join the n-gram counts of all strips of a layer; neurons become those of the layer."""
    offsets = [np.zeros(1, dtype=np.int64)]
    for _, part in parts:
        offsets.append(part.offsets[1:] + offsets[-1][-1])
    rows: dict[str, np.ndarray] = {}
    for name in parts[0][1].rows:
        shift = [start if name == "neuron" else 0 for start, _ in parts]
        rows[name] = np.concatenate(
            [
                part.rows[name] + move if move else part.rows[name]
                for move, (_, part) in zip(shift, parts, strict=True)
            ]
        )

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for _, part in parts])

    return NgramCounts(
        n=parts[0][1].n,
        ngram_fires=all_of("ngram_fires"),
        offsets=np.concatenate(offsets),
        count=all_of("count"),
        number=all_of("number"),
        coverage=all_of("coverage"),
        rows=rows,
    )
