"""Counting by the CUDA kernels, the rest in C++ on the processor.

Arrays come in the host's memory and are copied to the current device, results back: right for
whoever asks for one op. `_cuda` itself takes addresses on the device.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons.backends import Backend, cpp
from pyneurons.errors import BackendUnavailable, IntegrityError
from pyneurons.reference import (
    Counts,
    Ints,
    Ints32,
    Order,
    Words,
    contradicting_fires,
    contradicting_offsets,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def load(name: str) -> Backend:
    """Return the backend ``cuda``, if it is built and a device is there."""
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
    ops = _Ops(kernels, torch.device("cuda"))
    return replace(
        cpp.load("cpp"),
        name=name,
        segment_counts=ops.segment_counts,
        ngram_coverage=ops.ngram_coverage,
        ngram_triggers=ops.ngram_triggers,
    )


@dataclass(frozen=True)
class _Ops:
    kernels: Any
    device: torch.device

    def segment_counts(
        self,
        mask: Words,
        order: Order,
        segments: Ints,
        counts: Counts,
        *,
        threads: int,  # noqa: ARG002
    ) -> None:
        added = self._zeros(counts.shape)
        rows = self._rows(mask, order, segments)
        self.kernels.segment_counts(*_views(rows), segments, _view(added), self._stream())
        counts += added.cpu().numpy().astype(counts.dtype)

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
        added, added_large = self._zeros(histogram.shape), self._zeros(large.shape)
        totals = self._copy(fires)
        rows = self._rows(mask, order, segments)
        wrong: tuple[int, int] | None = self.kernels.ngram_coverage(
            *_views(rows),
            segments,
            _view(totals),
            _view(added),
            _view(added_large),
            self._stream(),
        )
        if wrong is not None:
            singletons = int(np.count_nonzero(np.diff(segments) == 1))
            raise IntegrityError(contradicting_fires(*wrong, singletons))
        histogram += added.cpu().numpy()
        large += added_large.cpu().numpy()

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
        threads: int,  # noqa: ARG002
    ) -> None:
        import torch

        found = self._zeros(fires.shape)
        found_segments = torch.zeros(segment_of.shape, dtype=torch.int32, device=self.device)
        thresholds, places = self._copy(threshold), self._copy(offsets)
        rows = self._rows(mask, order, segments)
        wrong: tuple[int, int] | None = self.kernels.ngram_triggers(
            *_views(rows),
            segments,
            _view(thresholds),
            _view(places),
            _view(found_segments),
            _view(found),
            self._stream(),
        )
        if wrong is not None:
            raise IntegrityError(contradicting_offsets(*wrong, offsets))
        segment_of[:] = found_segments.cpu().numpy()
        fires[:] = found.cpu().numpy()

    def _rows(
        self, mask: Words, order: Order, segments: Ints
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        visited = None if order is None else self._copy(order)
        return self._copy(mask.view(np.int32)), visited, self._copy(segments)

    def _copy(self, array: Any) -> Tensor:
        import torch

        copied: Tensor = torch.tensor(array, device=self.device)
        return copied

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        import torch

        return torch.zeros(shape, dtype=torch.int64, device=self.device)

    def _stream(self) -> int:
        import torch

        if self.device.type != "cuda":
            return 0
        return int(torch.cuda.current_stream(self.device).cuda_stream)


def _view(tensor: Tensor) -> tuple[int, int, int, int]:
    """Address, rows, columns and row stride of a matrix, or of a vector as one row."""
    rows, columns = tensor.shape if tensor.ndim == 2 else (1, tensor.shape[0])
    return tensor.data_ptr(), rows, columns, columns


def _views(tensors: tuple[Tensor | None, ...]) -> list[tuple[int, int, int, int] | None]:
    return [None if tensor is None else _view(tensor) for tensor in tensors]
