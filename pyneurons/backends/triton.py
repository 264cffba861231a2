"""Triton kernels as a backend: compiled on a CUDA device, or in Triton's interpreter on the CPU.

The interpreter (``TRITON_INTERPRET=1`` before the first use) is for tests: it makes NumPy calls of
every step of every program, and runs one op at a time.

Two floors. The launchers (`triton_counting`, `triton_ffn`) take tensors of one device, words and
counters as signed integers, and wait for nothing; CPU tensors go to the interpreter. The backend takes
what `pyneurons.ops` has, NumPy arrays and CPU tensors: the interpreter works in their memory; to a
device they are copied, and the outputs copied back.

Not there yet: ops on tensors that lie on the device, the ops that `load` refuses by name, variants
for Hopper's tensor memory accelerator, and configurations that were measured (those here are chosen
from compiled code).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons.backends import Backend, Op, triton_counting, triton_ffn
from pyneurons.backends.triton_counting import on_device
from pyneurons.errors import BackendUnavailable, NonFiniteError
from pyneurons.panels import Panels, SplitPanels
from pyneurons.reference import check_remainder, non_finite

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pyneurons.reference import Counts, Ids, Ints, Keys, Order, Words


def load(name: str) -> Backend:
    """Return the backend ``triton``.

    Raises
    ------
    BackendUnavailable
        Where Triton is not installed, or there is neither a CUDA device nor the interpreter.
    """
    try:
        import triton
    except ImportError as error:
        message = f"backend {name!r}: triton is not installed; pip install 'pyneurons-scan[gpu]'"
        raise BackendUnavailable(message) from error
    import torch

    interpreted = bool(triton.knobs.runtime.interpret)
    if interpreted:
        _let_scalars_be_bounds()
    elif not torch.cuda.is_available():
        message = (
            f"backend {name!r}: there is no CUDA device (TRITON_INTERPRET=1 runs its kernels on the "
            f"CPU, for tests)"
        )
        raise BackendUnavailable(message)
    ops = _Ops(torch.device("cpu" if interpreted else "cuda"))
    return Backend(
        name=name,
        isa=None,
        segment_counts=ops.segment_counts,
        firing_rows=_absent(name, "firing_rows"),
        first_segments=_absent(name, "first_segments"),
        ngram_keys=ops.ngram_keys,
        ngram_coverage=ops.ngram_coverage,
        ngram_triggers=_absent(name, "ngram_triggers"),
        layer_norm=_absent(name, "layer_norm"),
        ffn=ops.ffn,
        attention=_absent(name, "attention"),
        linear=_absent(name, "linear"),
        float32_products="torch",
    )


def _absent(name: str, op: str) -> Op:
    def refuse(*_: Any, **__: Any) -> None:
        message = (
            f"backend {name!r}: it has no {op}; it has segment_counts, ngram_keys, ngram_coverage "
            f"and ffn"
        )
        raise BackendUnavailable(message)

    return refuse


@lru_cache(maxsize=1)
def _let_scalars_be_bounds() -> None:
    """Repair the bounds of loops in the interpreter of Triton 3.6 under NumPy 2.4.

    Scalars are arrays of shape [1] there, and NumPy no longer makes an int of those.
    """
    from triton.runtime import interpreter

    before = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        before(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda scalar: scalar.handle.data.item())

    interpreter._patch_lang_tensor = patch


# --- the backend -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ops:
    """The launchers behind the arguments of `pyneurons.ops`; `threads` has no meaning here."""

    device: Any

    def segment_counts(
        self,
        mask: Words,
        order: Order,
        segments: Ints,
        counts: Counts,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        there = on_device(self.device, _signed(counts))
        rows = None if order is None else on_device(self.device, order)
        triton_counting.segment_counts(on_device(self.device, _signed(mask)), rows, segments, there)
        _back(there, counts)

    def ngram_keys(
        self,
        ids: Ids,
        starts: Ints,
        n: int,
        bits: int,
        boundary_id: int,
        keys: Keys,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        there = on_device(self.device, keys)
        triton_counting.ngram_keys(
            on_device(self.device, ids), on_device(self.device, starts), n, bits, boundary_id, there
        )
        _back(there, keys)

    def ngram_coverage(
        self,
        mask: Words,
        order: Order,
        segments: Ints,
        fires: Ints,
        histogram: Ints,
        large: Ints,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        import torch

        added = torch.zeros(histogram.shape, dtype=torch.int32, device=self.device)
        added_large = torch.zeros(large.shape, dtype=torch.int64, device=self.device)
        rows = None if order is None else on_device(self.device, order)
        words = on_device(self.device, _signed(mask))
        rest = triton_counting.ngram_coverage(
            words, rows, segments, on_device(self.device, fires), added, added_large
        ).cpu()
        singletons = int(
            np.searchsorted(np.diff(segments), 2) - np.searchsorted(np.diff(segments), 1)
        )
        check_remainder(rest.numpy(), singletons)
        histogram += added.cpu().numpy()
        histogram[1] += rest.numpy()
        large += added_large.cpu().numpy()

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
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        words = on_device(self.device, _signed(mask))
        optional = (_plain(one) for one in (fc1_bias, fc2_weight, fc2_bias))
        bias1, fc2, bias2 = (None if one is None else one.to(self.device) for one in optional)
        fc1 = _plain(fc1_weight).to(self.device)
        stream, highest = residual.to(self.device), z_max.to(self.device)
        with np.errstate(over="ignore", invalid="ignore"):  # of the interpreter
            wrong = int(
                triton_ffn.ffn(x.to(self.device), fc1, bias1, fc2, bias2, stream, words, highest)
            )
        if wrong != triton_ffn.FINITE:
            raise NonFiniteError(non_finite(*divmod(wrong, fc1_weight.shape[0])))
        _back(words, mask)
        if self.device.type != "cpu":
            residual.copy_(stream)
            z_max.copy_(highest)


def _back(tensor: Tensor, array: npt.NDArray[Any]) -> None:
    if tensor.device.type != "cpu":
        array[...] = tensor.cpu().numpy().view(array.dtype)


def _signed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return words or counters as signed integers, which shift, count and wrap alike here."""
    return array.view(f"i{array.itemsize}")


def _plain(weight: Any) -> Any:
    """Return a weight that is laid out as it was, and anything else as it is."""
    return weight.weight() if isinstance(weight, Panels | SplitPanels) else weight
