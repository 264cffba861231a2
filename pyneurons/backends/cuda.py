"""Counting by the CUDA kernels; `ffn` and the rest of counting by Triton where it is there.

What neither has is C++ on the processor, for arrays of the host. Tensors of the current device are taken
as they are; other arrays are copied to it, results back. `_cuda` itself takes addresses on the device.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons.backends import Backend, cpp, triton
from pyneurons.backends.triton import check_current
from pyneurons.backends.triton_counting import on_device
from pyneurons.errors import BackendUnavailable, IntegrityError
from pyneurons.reference import contradicting_fires, contradicting_offsets

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pyneurons.reference import Ints, Order


def kernels_of(name: str) -> Any:
    """Return the module of kernels, if it is built and a device is there.

    Raises
    ------
    BackendUnavailable
        Otherwise, with the reason.
    """
    try:
        kernels = importlib.import_module("pyneurons._cuda")
    except ModuleNotFoundError as error:
        message = f"backend {name!r}: this build has no CUDA kernels (PYNEURONS_CUDA is off)"
        raise BackendUnavailable(message) from error
    number, reason = kernels.devices()
    if number == 0:
        message = f"backend {name!r}: no CUDA device is visible ({reason or 'none is there'})"
        raise BackendUnavailable(message)
    import torch

    if not torch.cuda.is_available():
        message = f"backend {name!r}: this torch ({torch.__version__}) does not use CUDA devices"
        raise BackendUnavailable(message)
    return kernels


def load(name: str) -> Backend:
    """Return the backend ``cuda``, if it is built and a device is there."""
    import torch

    kernels = kernels_of(name)
    host = cpp.load("cpp")
    try:
        base = replace(
            triton.load("triton"),
            layer_norm=host.layer_norm,
            attention=host.attention,
            linear=host.linear,
        )
    except BackendUnavailable:  # Triton is not installed: the other ops are C++, and say so
        base = host
    ops = _Ops(kernels, torch.device("cuda"))
    return replace(
        base,
        name=name,
        segment_counts=ops.segment_counts,
        ngram_coverage=ops.ngram_coverage,
        ngram_triggers=ops.ngram_triggers,
        device="cuda",
        on_device=base.on_device | {"segment_counts", "ngram_coverage", "ngram_triggers"},
    )


@dataclass(frozen=True)
class _Ops:
    kernels: Any
    device: torch.device

    def segment_counts(
        self,
        mask: Any,
        order: Order,
        segments: Ints,
        counts: Any,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        import torch

        rows = self._rows(mask, order, segments)
        if isinstance(counts, torch.Tensor) and counts.dtype == torch.int64:
            self.kernels.segment_counts(*_views(rows), segments, view(counts), self._stream())
            return
        added = self._zeros(counts.shape)
        self.kernels.segment_counts(*_views(rows), segments, view(added), self._stream())
        _add(added, counts)

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
        added, added_large = self._zeros(histogram.shape), self._zeros(large.shape)
        totals = self._take(fires)
        rows = self._rows(mask, order, segments)
        wrong: tuple[int, int] | None = self.kernels.ngram_coverage(
            *_views(rows),
            segments,
            view(totals),
            view(added),
            view(added_large),
            self._stream(),
        )
        if wrong is not None:
            singletons = int(np.count_nonzero(np.diff(segments) == 1))
            raise IntegrityError(contradicting_fires(*wrong, singletons))
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

        found = self._zeros(fires.shape)
        found_segments = torch.zeros(tuple(segment_of.shape), dtype=torch.int32, device=self.device)
        thresholds, places = self._take(threshold), self._take(offsets)
        rows = self._rows(mask, order, segments)
        wrong: tuple[int, int] | None = self.kernels.ngram_triggers(
            *_views(rows),
            segments,
            view(thresholds),
            view(places),
            view(found_segments),
            view(found),
            self._stream(),
        )
        if wrong is not None:
            raise IntegrityError(contradicting_offsets(*wrong, offsets))
        _set(found_segments, segment_of)
        _set(found, fires)

    def _rows(
        self, mask: Any, order: Order, segments: Ints
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        words = self._take(mask.view(np.int32) if isinstance(mask, np.ndarray) else mask)
        visited = None if order is None else self._take(order)
        return words, visited, self._take(segments)

    def _take(self, array: Any) -> Tensor:
        """Return an array on the device, a tensor as it is."""
        if isinstance(array, np.ndarray):
            return on_device(self.device, array)
        check_current(array)
        taken: Tensor = array
        return taken

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        import torch

        return torch.zeros(tuple(shape), dtype=torch.int64, device=self.device)

    def _stream(self) -> int:
        import torch

        if self.device.type != "cuda":
            return 0
        return int(torch.cuda.current_stream(self.device).cuda_stream)


def view(tensor: Tensor) -> tuple[int, int, int, int]:
    """Address, rows, columns and row stride of a matrix, or of a vector as one row."""
    if tensor.ndim == 2:
        return tensor.data_ptr(), *tensor.shape, tensor.stride(0)
    return tensor.data_ptr(), 1, tensor.shape[0], tensor.shape[0]


def _views(tensors: tuple[Tensor | None, ...]) -> list[tuple[int, int, int, int] | None]:
    return [None if tensor is None else view(tensor) for tensor in tensors]


def _add(there: Tensor, array: Any) -> None:
    """Add to an output, on the host or on the device; unsigned counters there as signed ones."""
    import torch

    if isinstance(array, np.ndarray):
        array += there.cpu().numpy().astype(array.dtype)
        return
    signed = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[array.element_size()]
    array.view(signed).add_(there.to(signed))


def _set(there: Tensor, array: Any) -> None:
    if isinstance(array, np.ndarray):
        array[:] = there.cpu().numpy()
    else:
        array.copy_(there)
