"""The C++ kernels as backends: one per instruction set, and the best of them as ``cpp``.

The products of `ffn` are torch's; the pass over their result is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pyneurons import _core
from pyneurons.backends import Backend
from pyneurons.errors import BackendUnavailable, IntegrityError, NonFiniteError
from pyneurons.reference import (
    Ids,
    Ints,
    Ints32,
    Keys,
    Order,
    Words,
    contradicting_fires,
    contradicting_offsets,
    non_finite,
)

if TYPE_CHECKING:
    from torch import Tensor

FFN_ROWS: Final = 256
"""Rows of one block of `ffn`.

torch's product of a row depends on how many rows there are, so every block has this many, and its
operands lie in buffers of our own: neither the number of rows of a call nor their place in memory
changes a bit of the result.
"""


def load(name: str) -> Backend:
    """Return the backend ``cpp`` or ``cpp:<instruction set>``."""
    isa = _core.detect() if name == "cpp" else name.removeprefix("cpp:")
    if isa not in _core.compiled_isas():
        built = ", ".join(_core.compiled_isas())
        message = f"backend {name!r}: this build has no {isa} kernels (it has {built})"
        raise BackendUnavailable(message)
    if isa not in _core.isas():
        message = f"backend {name!r}: this processor or operating system does not run {isa}"
        raise BackendUnavailable(message)
    ops = _Ops(isa)
    return Backend(
        name=name,
        isa=isa,
        segment_counts=ops.segment_counts,
        firing_rows=ops.firing_rows,
        ngram_keys=ops.ngram_keys,
        ngram_coverage=ops.ngram_coverage,
        ngram_triggers=ops.ngram_triggers,
        ffn=ops.ffn,
        attention=ops.attention,
    )


@dataclass(frozen=True)
class _Ops:
    isa: str

    def segment_counts(
        self, mask: Words, order: Order, segments: Ints, counts: Ints, *, threads: int
    ) -> None:
        _core.segment_counts(mask, order, segments, counts, self.isa, threads)

    def firing_rows(
        self, mask: Words, order: Order, rows: Ints, found: Ints, *, threads: int
    ) -> None:
        _core.firing_rows(mask, order, rows, found, self.isa, threads)

    def ngram_keys(
        self,
        ids: Ids,
        starts: Ints,
        n: int,
        bits: int,
        boundary_id: int,
        keys: Keys,
        *,
        threads: int,
    ) -> None:
        _core.ngram_keys(ids, starts, n, bits, boundary_id, keys, self.isa, threads)

    def ngram_coverage(
        self,
        mask: Words,
        order: Order,
        segments: Ints,
        fires: Ints,
        histogram: Ints,
        large: Ints,
        *,
        threads: int,
    ) -> None:
        wrong = _core.ngram_coverage(
            mask, order, segments, fires, histogram, large, self.isa, threads
        )
        if wrong is not None:
            singletons = int(np.count_nonzero(np.diff(segments) == 1))
            raise IntegrityError(contradicting_fires(*wrong, singletons))

    def ngram_triggers(
        self,
        mask: Words,
        order: Order,
        segments: Ints,
        threshold: Ints,
        offsets: Ints,
        segment_of: Ints32,
        fires: Ints,
        *,
        threads: int,
    ) -> None:
        wrong = _core.ngram_triggers(
            mask, order, segments, threshold, offsets, segment_of, fires, self.isa, threads
        )
        if wrong is not None:
            raise IntegrityError(contradicting_offsets(*wrong, offsets))

    def ffn(
        self,
        x: Tensor,
        fc1_weight: Tensor,
        fc1_bias: Tensor | None,
        fc2_weight: Tensor | None,
        fc2_bias: Tensor | None,
        residual: Tensor,
        mask: Words,
        z_max: Tensor,
        *,
        threads: int,
    ) -> None:
        import torch

        rows, inner = x.shape
        neurons = fc1_weight.shape[0]
        with torch.no_grad():
            block = torch.zeros(FFN_ROWS, inner, dtype=x.dtype)
            z = torch.empty(FFN_ROWS, neurons, dtype=x.dtype)
            y = torch.empty(FFN_ROWS, residual.shape[1], dtype=x.dtype)
            bits = z.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else z.numpy()
            maxima = z_max.numpy()
            for start in range(0, rows, FFN_ROWS):
                stop = min(rows, start + FFN_ROWS)
                block[: stop - start] = x[start:stop]
                block[stop - start :] = 0
                _linear(block, fc1_weight, fc1_bias, z)
                wrong = _core.ffn_epilogue(
                    bits[: stop - start], mask[:, start:stop], maxima, self.isa, threads
                )
                if wrong >= 0:
                    row, neuron = divmod(wrong, neurons)
                    raise NonFiniteError(non_finite(start + row, neuron))
                if fc2_weight is not None:
                    _linear(z, fc2_weight, fc2_bias, y)
                    residual[start:stop] += y[: stop - start]

    def attention(
        self, qkv: Tensor, starts: Ints, heads: int, out: Tensor, *, threads: int
    ) -> None:
        import torch

        bits, out_bits = (tensor.view(torch.uint16).numpy() for tensor in (qkv, out))
        _core.attention(bits, starts, heads, out_bits, self.isa, threads)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """``out = x @ weight.T + bias``, the bias inside the float32 sum."""
    import torch

    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)
