"""Run one thing in a process of its own, so that the peak of its memory is its own.

    python bench/alone.py counting TOKENS ROUNDS
    python bench/alone.py scan CHECKPOINT TOKENS MEMORY

Prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONTEXT = 2048
NEURONS = 3072  # a layer of OPT-125m
ORDERS = (1, 2, 3)
FILE_BYTES = 1 << 30
"""A layer's bits beyond this go to a file, as they do under a budget of 2 GB."""

CHECKED_TOKENS = 131_072
CHECKED_NEURONS = 32


def run(*arguments: object) -> dict[str, Any]:
    """Call this file in another process; return what it found."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def counting(tokens: int, rounds: int) -> dict[str, Any]:
    """Count one layer's synthetic bits: what a scan does with a layer after its forward pass.

    Returns seconds of each round for 1 and 2 threads: ``index`` (once for a corpus, all n),
    ``counting`` (fires and positions), and ``n = 1``, ``n = 2``, ``n = 3``.
    """
    import numpy as np

    from opt_shapes import TokenBits, corpus_of, zipf_rows
    from pyneurons import _env
    from pyneurons.corpus import ngram_index
    from pyneurons.engine.mask import FileMask, MemoryMask, StripShape
    from pyneurons.observers.firing import FiringObserver
    from pyneurons.observers.ngram import NgramObserver
    from pyneurons.observers.position import PositionObserver

    rows = zipf_rows(tokens // CONTEXT, CONTEXT)
    corpus = corpus_of(rows)
    shape = StripShape.of(NEURONS)
    with tempfile.TemporaryDirectory() as folder:
        in_file = shape.bytes(corpus.tokens) > FILE_BYTES
        mask = (
            FileMask(corpus.tokens, shape, Path(folder))
            if in_file
            else MemoryMask(corpus.tokens, shape)
        )
        bits = TokenBits(NEURONS // 32)
        for start in range(0, corpus.tokens, 1 << 15):
            stop = min(corpus.tokens, start + (1 << 15))
            words = bits.rows(corpus.ids[start:stop])
            buffer = mask.buffer(start, stop)
            buffer[:] = words.reshape(stop - start, shape.strips, -1).transpose(1, 0, 2)
            mask.commit(start, buffer)
        firing, position = FiringObserver.build(corpus), PositionObserver.build(corpus)
        seconds: dict[str, dict[str, list[float]]] = {}
        for threads in (1, 2):
            stages: dict[str, list[float]] = {}
            seconds[str(threads)] = stages
            for _ in range(rounds):
                began = time.perf_counter()
                observers = [
                    NgramObserver.build(corpus, ngram_index.build(corpus, n, threads=threads))
                    for n in ORDERS
                ]
                stages.setdefault("index", []).append(time.perf_counter() - began)
                spent = dict.fromkeys(("counting", *(f"n = {n}" for n in ORDERS)), 0.0)
                for strip in range(shape.strips):
                    first, last = shape.range(strip)
                    words = mask.strip(strip)
                    began = time.perf_counter()
                    counted = firing.observe(words, last - first, backend=None, threads=threads)
                    position.observe(words, last - first, backend=None, threads=threads)
                    spent["counting"] += time.perf_counter() - began
                    for observer in observers:
                        began = time.perf_counter()
                        found = observer.observe(
                            words, counted["fires"], backend=None, threads=threads
                        )
                        spent[f"n = {observer.index.n}"] += time.perf_counter() - began
                        if strip == 0 and tokens <= CHECKED_TOKENS:
                            check(rows, observer.index.n, np.array(words[:, :1]), found.coverage)
                for stage, value in spent.items():
                    stages.setdefault(stage, []).append(value)
        mask.close()
    return {
        "tokens": corpus.tokens,
        "bits": "file" if in_file else "memory",
        "seconds": seconds,
        "peak_resident_bytes": _env.peak_resident_bytes(),
    }


def check(rows: Any, n: int, words: Any, coverage: Any) -> None:
    """Compare the covering numbers of the first neurons with a count of all pairs."""
    import numpy as np

    from programs import covering, ngrams_of, pairs_of
    from pyneurons.reference import unpack

    row, neuron = np.nonzero(unpack(words, CHECKED_NEURONS))
    truth = covering([pairs_of(ngrams_of(rows, n)[row], neuron, CHECKED_NEURONS)], CHECKED_NEURONS)
    np.testing.assert_array_equal(coverage[:CHECKED_NEURONS], truth["covering"])


def scan(checkpoint: str, tokens: int, memory: str) -> dict[str, Any]:
    """Scan so many tokens within a budget, with every statistic."""
    import numpy as np

    import pyneurons
    from opt_shapes import zipf_rows

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        np.save(file, zipf_rows(tokens // CONTEXT, CONTEXT))
        began = time.perf_counter()
        found = pyneurons.scan(
            checkpoint,
            file,
            context=CONTEXT,
            dtype="bfloat16",
            memory=memory,
            flip_sample=0,
            progress=False,
        )
        wall = time.perf_counter() - began
    manifest = found.manifest
    return {
        "tokens": found.tokens,
        "wall_s": wall,
        "timing": manifest["timing"],
        "plan": manifest["plan"],
        "peak_resident_bytes": manifest["timing"]["peak_resident_bytes"],
    }


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    answer = (
        counting(int(arguments[0]), int(arguments[1]))
        if what == "counting"
        else scan(arguments[0], int(arguments[1]), arguments[2])
    )
    print(json.dumps(answer))
