"""`ngram_keys` beside shifting and adding in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from interleaved import Rival
from machine import BEST, CPP
from ngram_inputs import CONTEXT
from opt_shapes import BOUNDARY, VOCABULARY, zipf_rows
from pyneurons import ops

if TYPE_CHECKING:
    from interleaved import Interleaved

ROWS = 1_048_576
CASES = [*((BEST, n) for n in (1, 2, 3)), *((backend, 3) for backend in CPP if backend != BEST)]
NO_KEY = np.uint64(2**64 - 1)


@pytest.mark.parametrize(("backend", "n"), CASES)
def bench_ngram_keys(compare: Interleaved, backend: str, n: int, *, small: bool) -> None:
    tokens = zipf_rows((2 * CONTEXT if small else ROWS) // CONTEXT, CONTEXT)
    ids = tokens.reshape(-1).astype(np.uint16)
    starts = np.arange(len(tokens) + 1, dtype=np.int64) * CONTEXT
    bits = VOCABULARY.bit_length()
    keys = np.empty(ids.size, dtype=np.uint64)

    def ours() -> None:
        ops.ngram_keys(ids, starts, n, bits, BOUNDARY, keys, backend=backend)

    def shifted() -> np.ndarray:
        """The boundary id stands at the start of every sequence, and nowhere else."""
        made = np.full(tokens.shape, NO_KEY)
        made[:, n:] = 0
        for j in range(n):
            part = tokens[:, 1 + j : CONTEXT - n + 1 + j].astype(np.uint64)
            made[:, n:] |= part << np.uint64(bits * (n - 1 - j))
        return made.reshape(-1)

    ours()
    np.testing.assert_array_equal(keys, shifted())
    compare(
        ours,
        tokens=ids.size,
        rivals={"NumPy, shift and or": Rival(shifted, ids.size)} if backend == BEST else {},
        size=ids.nbytes + keys.nbytes,
        budget_s=1.0,
        case=f"n = {n}, {ids.size:,} rows",
        n=n,
        backend=backend,
        threads=1,
    )
