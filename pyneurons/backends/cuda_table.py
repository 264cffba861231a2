"""Counts keyed (neuron, n-gram) on a CUDA device: lists of triggers, added up over parts of a corpus."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.backends.cuda import kernels_of, view
from pyneurons.backends.triton import check_current
from pyneurons.backends.triton_counting import on_device
from pyneurons.errors import DTypeError, IntegrityError, ResourceError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

NGRAM_BITS: Final = 48
"""Of a key; the neuron has the 16 above them."""


class CountingTable:
    """A table in device memory that loses no count: it grows, or stops with an error.

    Parameters
    ----------
    capacity : int
        Slots to begin with, a power of two; 16 bytes each.
    most_slots : int
        It never grows beyond. While it grows, both tables are there.
    probes : int
        Slots that are tried for one key before the table grows.

    Raises
    ------
    BackendUnavailable
        Where the CUDA kernels are not built, or no device is there.

    Notes
    -----
    Arrays of the host are copied to the current device, tensors there are taken as they are. Every
    call waits for the device.
    """

    def __init__(
        self, capacity: int = 1 << 20, most_slots: int = 1 << 30, probes: int = 128
    ) -> None:
        import torch

        self._kernels = kernels_of("cuda")
        self._device = torch.device("cuda")
        self._make(capacity, most_slots, probes, torch.cuda.current_stream().cuda_stream)

    def _make(self, *arguments: int) -> None:
        with self._errors():
            self._table = self._kernels.PairCounts(*arguments)

    @property
    def capacity(self) -> int:
        """How many slots there are."""
        return int(self._table.capacity)

    def add(self, keys: Any, counts: Any) -> None:
        """Add to the counts of keys.

        Parameters
        ----------
        keys : [K], uint64 (int64 in a tensor)
            ``neuron << 48 | ngram``, any number of times each; 2**64 - 1 is left out.
        counts : [K], int64, 0 or more

        Raises
        ------
        ResourceError
            If the table would outgrow ``most_slots``; it cannot be used any more.
        """
        taken = [self._take("keys", keys, 8), self._take("counts", counts, 8)]
        if len(taken[0]) != len(taken[1]):
            message = f"counting table: {len(taken[0])} keys have {len(taken[1])} counts"
            raise ShapeError(message)
        with self._errors():
            self._table.add(*map(view, taken))

    def add_lists(self, offsets: Any, segment_of: Any, fires: Any, ngram_of: Any) -> None:
        """Add lists as `pyneurons.ops.ngram_triggers` fills them.

        Parameters
        ----------
        offsets : [F + 1], int64
        segment_of : [offsets[F]], int32
        fires : [offsets[F]], int64
        ngram_of : [G], uint64 (int64 in a tensor), below 2**48
            The n-gram of each segment: a number, or up to three tokens of 16 bits.

        Raises
        ------
        ShapeError
            If the lists contradict one another, or a neuron or an n-gram has no key. Nothing was added.
        ResourceError
            As `add`.
        """
        places, segments = (
            self._take("offsets", offsets, 8),
            self._take("segment_of", segment_of, 4),
        )
        counts, ngrams = self._take("fires", fires, 8), self._take("ngram_of", ngram_of, 8)
        entries = len(segments)
        good = len(places) >= 1 and len(counts) == entries
        good = good and int(places[0]) == 0 and int(places[-1]) == entries
        good = good and bool((places.diff() >= 0).all())
        if good and entries:
            good = int(segments.min()) >= 0 and int(segments.max()) < len(ngrams)
        if not good:
            message = (
                f"counting table: lists of {len(places) - 1} neurons, {entries} segments and "
                f"{len(counts)} fires, for {len(ngrams)} n-grams, contradict one another"
            )
            raise ShapeError(message)
        with self._errors():
            self._table.add_lists(*map(view, (places, segments, counts, ngrams)))

    def sorted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return neuron, n-gram and count of all keys, ascending: int64 tensors of the device.

        Raises
        ------
        IntegrityError
            If the counts do not sum to what was added.
        ResourceError
            If the table ran full before.
        """
        import torch

        with self._errors():
            number = int(self._table.sort())
            keys, counts = torch.empty(2, number, dtype=torch.int64, device=self._device)
            self._table.sorted(view(keys), view(counts))
        neuron = (keys >> NGRAM_BITS) & ((1 << (64 - NGRAM_BITS)) - 1)
        return neuron, keys & ((1 << NGRAM_BITS) - 1), counts

    def _take(self, name: str, array: Any, size: int) -> Any:
        """Return a vector of integers of this size on the device, signed."""
        import torch

        signed = torch.int64 if size == 8 else torch.int32
        if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.itemsize == size:
            array = on_device(self._device, np.ascontiguousarray(array).view(f"i{size}"))
        elif isinstance(array, torch.Tensor) and array.dtype in (
            signed,
            torch.uint64 if size == 8 else torch.uint32,
        ):
            array = array.view(signed).to(self._device)
            check_current(array)
        else:
            kind = getattr(array, "dtype", type(array).__name__)
            message = f"counting table: {name} is of {kind}, expected integers of {size} bytes"
            raise DTypeError(message)
        if array.ndim != 1 or not array.is_contiguous():
            message = f"counting table: {name} has shape {list(array.shape)}, expected one axis"
            raise ShapeError(message)
        return array

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._kernels.TableFull as error:
            raise ResourceError(str(error)) from error
        except self._kernels.LostCounts as error:
            raise IntegrityError(str(error)) from error
        except ValueError as error:
            raise ShapeError(str(error)) from error
