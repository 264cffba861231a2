"""The C++ kernels as backends: one per instruction set, and the best of them as ``cpp``.

Products of bfloat16 are ours, and of float32 weights that come as `SplitPanels`. Those of other
float32 weights are torch's; the pass over their result is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from pyneurons import _core
from pyneurons.backends import Backend
from pyneurons.errors import BackendUnavailable, IntegrityError
from pyneurons.panels import Panels, SplitPanels
from pyneurons.reference import (
    Counts,
    Ids,
    Ints,
    Ints32,
    Keys,
    Order,
    Words,
    contradicting_fires,
    contradicting_offsets,
    note_non_finite,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

FFN_ROWS: Final = 256
"""Rows of one block of `ffn` in float32.

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
        first_segments=ops.first_segments,
        ngram_keys=ops.ngram_keys,
        ngram_coverage=ops.ngram_coverage,
        ngram_triggers=ops.ngram_triggers,
        layer_norm=ops.layer_norm,
        ffn=ops.ffn,
        attention=ops.attention,
        linear=ops.linear,
        float32_products="split" if isa == "amx" else "torch",
    )


@dataclass(frozen=True)
class _Ops:
    isa: str

    def segment_counts(
        self, mask: Words, order: Order, segments: Ints, counts: Counts, *, threads: int
    ) -> None:
        _core.segment_counts(mask, order, segments, counts, self.isa, threads)

    def firing_rows(
        self, mask: Words, order: Order, rows: Ints, found: Ints, *, threads: int
    ) -> None:
        _core.firing_rows(mask, order, rows, found, self.isa, threads)

    def first_segments(
        self,
        mask: Words,
        order: Order,
        segments: Ints,
        count: Ints,
        found_segments: Ints32,
        found: Ints,
        *,
        threads: int,
    ) -> None:
        _core.first_segments(mask, order, segments, count, found_segments, found, self.isa, threads)

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

    def layer_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        epsilon: float,
        out: Tensor,
        *,
        threads: int,
    ) -> None:
        _core.layer_norm(
            x.numpy(),
            None if weight is None else weight.numpy(),
            None if bias is None else bias.numpy(),
            epsilon,
            _bits(out),
            self.isa,
            threads,
        )

    def ffn(
        self,
        x: Tensor,
        fc1_weight: Tensor | Panels | SplitPanels,
        fc1_bias: Tensor | None,
        fc2_weight: Tensor | Panels | SplitPanels | None,
        fc2_bias: Tensor | None,
        residual: Tensor,
        mask: Words,
        z_max: Tensor,
        wrong: Tensor | None,
        *,
        threads: int,
    ) -> None:
        import torch

        if x.dtype == torch.bfloat16:
            place = _core.ffn(
                _bits(x),
                _bits(_panels(cast("Tensor | Panels", fc1_weight)).data),
                None if fc1_bias is None else _bits(fc1_bias),
                None
                if fc2_weight is None
                else _bits(_panels(cast("Tensor | Panels", fc2_weight)).data),
                None if fc2_bias is None else _bits(fc2_bias),
                residual.numpy(),
                mask,
                z_max.numpy(),
                self.isa,
                threads,
            )
            if place >= 0:
                note_non_finite(place, fc1_weight.shape[0], wrong)
        else:
            weights = cast(
                "tuple[Tensor | SplitPanels, Tensor | SplitPanels | None]", (fc1_weight, fc2_weight)
            )
            self._ffn_float32(
                x, weights[0], fc1_bias, weights[1], fc2_bias, residual, mask, z_max, wrong, threads
            )

    def _ffn_float32(
        self,
        x: Tensor,
        fc1_weight: Tensor | SplitPanels,
        fc1_bias: Tensor | None,
        fc2_weight: Tensor | SplitPanels | None,
        fc2_bias: Tensor | None,
        residual: Tensor,
        mask: Words,
        z_max: Tensor,
        wrong: Tensor | None,
        threads: int,
    ) -> None:
        import torch

        rows, inner = x.shape
        neurons = fc1_weight.shape[0]
        with torch.no_grad():
            block = torch.zeros(FFN_ROWS, inner)
            z = torch.empty(FFN_ROWS, neurons)
            y = torch.empty(FFN_ROWS, residual.shape[1])
            for start in range(0, rows, FFN_ROWS):
                stop = min(rows, start + FFN_ROWS)
                block[: stop - start] = x[start:stop]
                block[stop - start :] = 0
                self._map(block, fc1_weight, fc1_bias, z, threads)
                place = _core.ffn_epilogue(
                    z.numpy()[: stop - start],
                    mask[:, start:stop],
                    z_max.numpy(),
                    self.isa,
                    threads,
                )
                if place >= 0:
                    note_non_finite(start * neurons + place, neurons, wrong)
                    return
                if fc2_weight is not None:
                    self._map(z, fc2_weight, fc2_bias, y, threads)
                    residual[start:stop] += y[: stop - start]

    def attention(
        self, qkv: Tensor, starts: Ints, heads: int, out: Tensor, *, threads: int
    ) -> None:
        _core.attention(_bits(qkv), starts, heads, _bits(out), self.isa, threads)

    def linear(
        self,
        x: Tensor,
        weight: Panels | SplitPanels,
        bias: Tensor | None,
        out: Tensor,
        *,
        threads: int,
    ) -> None:
        if isinstance(weight, Panels):
            _core.linear(
                _bits(x),
                _bits(weight.data),
                None if bias is None else _bits(bias),
                _bits(out) if out.dtype == x.dtype else out.numpy(),
                self.isa,
                threads,
            )
            return
        _core.linear_split(
            x.numpy(),
            [_bits(part.data) for part in weight.parts],
            None if bias is None else bias.numpy(),
            out.numpy(),
            self.isa,
            threads,
        )

    def _map(
        self,
        x: Tensor,
        weight: Tensor | SplitPanels,
        bias: Tensor | None,
        out: Tensor,
        threads: int,
    ) -> None:
        if isinstance(weight, SplitPanels):
            self.linear(x, weight, bias, out, threads=threads)
        else:
            linear(x, weight, bias, out)


def _panels(weight: Tensor | Panels) -> Panels:
    return weight if isinstance(weight, Panels) else Panels.of(weight)


def _bits(tensor: Tensor) -> npt.NDArray[np.uint16]:
    """Return the memory of a bfloat16 tensor: NumPy has no such type."""
    import torch

    bits: npt.NDArray[np.uint16] = tensor.view(torch.uint16).numpy()
    return bits


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """``out = x @ weight.T + bias``, the bias inside the float32 sum."""
    import torch

    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)
