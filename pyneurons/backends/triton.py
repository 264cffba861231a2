"""Triton kernels as a backend: compiled on a CUDA device, or in Triton's interpreter on the CPU.

The interpreter (``TRITON_INTERPRET=1`` before the first use) is for tests: it makes NumPy calls of
every step of every program, and runs one op at a time.

Two floors. The launchers (`triton_counting`, `triton_ffn`) take tensors of one device, words and
counters as signed integers; CPU tensors go to the interpreter. The backend takes what `pyneurons.ops` has:
tensors of the device as they are; NumPy arrays and CPU tensors are copied to the device, outputs back, but
that the interpreter works in their memory.

`segment_counts`, `ngram_keys` and, with ``wrong``, `ffn` wait for nothing where no output lies on the
host. The others need a number of the device to go on.

Not there: the ops that `load` refuses by name. Tiles come from a file (`triton_tiles`), chosen from compiled
code; none was measured on a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.backends import Backend, Op, triton_counting, triton_ffn
from pyneurons.backends.held import made_of
from pyneurons.backends.triton_counting import on_device
from pyneurons.errors import BackendUnavailable, DTypeError
from pyneurons.panels import Panels, SplitPanels
from pyneurons.reference import check_remainder, check_triggers, note_non_finite

if TYPE_CHECKING:
    from torch import Tensor

    from pyneurons.reference import Ids, Ints, Order


ON_DEVICE: Final = frozenset(
    {
        "segment_counts",
        "firing_rows",
        "first_segments",
        "ngram_keys",
        "ngram_coverage",
        "ngram_triggers",
        "ffn",
    }
)
"""The ops that there are."""


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
        firing_rows=ops.firing_rows,
        first_segments=ops.first_segments,
        ngram_keys=ops.ngram_keys,
        ngram_coverage=ops.ngram_coverage,
        ngram_triggers=ops.ngram_triggers,
        layer_norm=_absent(name, "layer_norm"),
        ffn=ops.ffn,
        attention=_absent(name, "attention"),
        linear=_absent(name, "linear"),
        float32_products="torch",
        device=ops.device.type,
        on_device=ON_DEVICE,
        float16=True,
    )


def _absent(name: str, op: str) -> Op:
    def refuse(*_: Any, **__: Any) -> None:
        message = f"backend {name!r}: it has no {op}; it has {', '.join(sorted(ON_DEVICE))}"
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
        mask: Any,
        order: Order,
        segments: Ints,
        counts: Any,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        there = self._signed(counts)
        triton_counting.segment_counts(self._signed(mask), self._optional(order), segments, there)
        _back(there, counts)

    def firing_rows(
        self,
        mask: Any,
        order: Order,
        rows: Any,
        found: Ints,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        there, known = self._signed(rows), self._signed(found)
        triton_counting.firing_rows(self._signed(mask), self._optional(order), there, known)
        _back(there, rows)
        _back(known, found)

    def first_segments(
        self,
        mask: Any,
        order: Order,
        segments: Ints,
        count: Ints,
        found_segments: Any,
        found: Ints,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        there = self._signed(found_segments)
        triton_counting.first_segments(
            self._signed(mask), self._optional(order), segments, count, there, found
        )
        _back(there, found_segments)

    def ngram_keys(
        self,
        ids: Ids,
        starts: Ints,
        n: int,
        bits: int,
        boundary_id: int,
        keys: Any,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        import torch

        there = self._take(keys).view(torch.uint64)
        triton_counting.ngram_keys(self._take(ids), self._take(starts), n, bits, boundary_id, there)
        _back(there, keys)

    def ngram_coverage(
        self,
        mask: Any,
        order: Order,
        segments: Ints,
        fires: Any,
        histogram: Any,
        large: Any,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        import torch

        added = torch.zeros(tuple(histogram.shape), dtype=torch.int32, device=self.device)
        added_large = torch.zeros(tuple(large.shape), dtype=torch.int64, device=self.device)
        rest = triton_counting.ngram_coverage(
            self._signed(mask),
            self._optional(order),
            segments,
            self._take(fires),
            added,
            added_large,
        )
        lengths = made_of(segments, "lengths", lambda: np.diff(segments))
        singletons = int(np.searchsorted(lengths, 2) - np.searchsorted(lengths, 1))
        check_remainder(rest.cpu().numpy(), singletons)
        added[1] += rest.to(torch.int32)
        _add(added, histogram)
        _add(added_large, large)

    def ngram_triggers(
        self,
        mask: Any,
        order: Order,
        segments: Ints,
        threshold: Ints,
        offsets: Ints,
        segment_of: Any,
        fires: Any,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        import torch

        listed = torch.empty(tuple(segment_of.shape), dtype=torch.int32, device=self.device)
        counts = torch.empty(tuple(fires.shape), dtype=torch.int64, device=self.device)
        found = triton_counting.ngram_triggers(
            self._signed(mask), self._optional(order), segments, threshold, offsets, listed, counts
        )
        check_triggers(found, offsets)
        _set(listed, segment_of)
        _set(counts, fires)

    def ffn(
        self,
        x: Tensor,
        fc1_weight: Tensor | Panels | SplitPanels,
        fc1_bias: Tensor | None,
        fc2_weight: Tensor | Panels | SplitPanels | None,
        fc2_bias: Tensor | None,
        residual: Tensor,
        mask: Any,
        z_max: Tensor,
        wrong: Tensor | None,
        *,
        threads: int,  # noqa: ARG002
        route: triton_ffn.Route = "fused",
    ) -> None:
        import torch

        words = self._signed(mask)
        optional = (_plain(one) for one in (fc1_bias, fc2_weight, fc2_bias))
        bias1, fc2, bias2 = (None if one is None else one.to(self.device) for one in optional)
        fc1 = _plain(fc1_weight).to(self.device)
        stream, highest = residual.to(self.device), z_max.to(self.device)
        with np.errstate(over="ignore", invalid="ignore"):  # of the interpreter
            place = triton_ffn.ffn(
                x.to(self.device), fc1, bias1, fc2, bias2, stream, words, highest, route=route
            )
        if wrong is not None:
            torch.minimum(wrong, place.view(wrong.shape), out=wrong)
        elif int(place) != triton_ffn.FINITE:
            note_non_finite(int(place), fc1_weight.shape[0], None)
        _back(words, mask)
        if self.device.type != "cpu":
            for there, here in ((stream, residual), (highest, z_max)):
                if here.device.type == "cpu":
                    here.copy_(there)

    def _take(self, array: Any) -> Any:
        """Return an array on the device, a tensor as it is."""
        if isinstance(array, np.ndarray):
            return on_device(self.device, array)
        check_current(array)
        return array

    def _signed(self, array: Any) -> Any:
        """Return words or counters as signed integers, which shift, count and wrap alike here."""
        import torch

        if isinstance(array, np.ndarray):
            return on_device(self.device, array.view(f"i{array.itemsize}"))
        signed = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        return self._take(array).view(signed[array.element_size()])

    def _optional(self, order: Order) -> Any:
        return None if order is None else self._take(order)


def check_current(tensor: Tensor) -> None:
    """Raise DTypeError for a tensor of another device than the one that kernels are launched on."""
    import torch

    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        message = (
            f"a tensor lies on {tensor.device}, the current device is "
            f"cuda:{torch.cuda.current_device()}; use torch.cuda.set_device"
        )
        raise DTypeError(message)


def _back(there: Tensor, array: Any) -> None:
    """Copy an output to the host, unless it lies there or belongs on the device."""
    if isinstance(array, np.ndarray) and there.device.type != "cpu":
        _set(there, array)


def _set(there: Tensor, array: Any) -> None:
    if isinstance(array, np.ndarray):
        array[...] = there.cpu().numpy().view(array.dtype)
    else:
        array.view(there.dtype).copy_(there)


def _add(there: Tensor, array: Any) -> None:
    array += there.cpu().numpy() if isinstance(array, np.ndarray) else there


def _plain(weight: Any) -> Any:
    """Return a weight that is laid out as it was, and anything else as it is."""
    return weight.weight() if isinstance(weight, Panels | SplitPanels) else weight
