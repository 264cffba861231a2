"""Launchers of the Triton kernels that count: tensors of one device in, nothing waited for.

Words and counters are signed integers, which shift, count and wrap as unsigned ones do; CPU tensors go
to Triton's interpreter. Bounds of segments stay on the host, where they are cut into programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pyneurons.reference import Ints

PIECE_ROWS: Final = 8192
"""Rows of a segment that one program counts: 5 million rows are 611 of them for each 32 words."""

CLASSES: Final = (2, 4, 8, 12)
"""Bit planes that count within a segment: segments shorter than 4, 16, 256 and 4,096 rows."""

LONG_SEGMENTS: Final = 64
"""Segments of 4,096 rows and more whose counts are held at once, 8 bytes for each neuron."""

HISTOGRAM_ROWS: Final = 256
"""Rows of a histogram that are summed at once."""

WORDS: Final = 32
"""Words of a row that one program of a counting kernel takes at most, 128 bytes."""


def on_device(device: Any, array: npt.NDArray[Any]) -> Tensor:
    """Return an array on the device; on the CPU what may be written is not copied."""
    import torch

    writable = array if array.flags.writeable else array.copy()  # torch warns of the others
    return torch.from_numpy(writable).to(device)


def segment_counts(mask: Tensor, order: Tensor | None, segments: Ints, counts: Tensor) -> None:
    """`pyneurons.ops.segment_counts`, the segments on the host.

    Counters of 4 and 8 bytes are added to by several programs where a segment is long, in no
    order; narrower ones by one.
    """
    from pyneurons.kernels.segment_counts import segment_counts_kernel

    device, neurons = counts.device, counts.shape[1]
    atomic = counts.element_size() >= 4
    parts = pieces(segments, PIECE_ROWS if atomic else 65_535)
    if len(parts[0]) == 0 or neurons == 0:
        return
    first, stop, segment = (on_device(device, part) for part in parts)
    width = words_of_a_program(neurons)
    segment_counts_kernel[len(first), -(-neurons // (32 * width))](
        mask,
        order,
        first,
        stop,
        segment,
        counts,
        neurons,
        mask.stride(0),
        counts.stride(0),
        HAS_ORDER=order is not None,
        ATOMIC=atomic,
        PLANES=8 if atomic else 11,
        LANES=256 if device.type == "cpu" else 8,
        BLOCK_W=width,
        num_warps=8,
    )


def words_of_a_program(neurons: int) -> int:
    """Return a power of two: `WORDS`, or fewer for few neurons."""
    return min(WORDS, 1 << (-(-neurons // 32) - 1).bit_length())


def pieces(segments: Ints, most: int) -> tuple[Ints, Ints, Ints]:
    """Return first, stop and segment of pieces of at most ``most`` rows that make up the segments."""
    lengths = np.diff(segments)
    number = -(-lengths // most)
    segment = np.repeat(np.arange(len(lengths)), number)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(number) - number, number)
    first = segments[segment] + within * most
    return first, np.minimum(first + most, segments[segment + 1]), segment


def ngram_keys(
    ids: Tensor, starts: Tensor, n: int, bits: int, boundary_id: int, keys: Tensor
) -> None:
    """`pyneurons.ops.ngram_keys`, ids and keys unsigned."""
    from pyneurons.kernels.ngram_keys import ngram_keys_kernel

    rows, block = len(ids), 1024
    if rows == 0:
        return
    ngram_keys_kernel[-(-rows // block),](
        ids,
        starts,
        keys,
        rows,
        len(starts) - 1,
        boundary_id,
        N=n,
        BITS=bits,
        STEPS=len(starts).bit_length(),
        BLOCK=block,
    )


def ngram_coverage(
    mask: Tensor,
    order: Tensor | None,
    segments: Ints,
    fires: Tensor,
    histogram: Tensor,
    large: Tensor,
) -> Tensor:
    """Fill ``histogram`` and ``large``, which hold zeros, from the segments of two rows and more.

    Parameters
    ----------
    mask, order, segments, fires
        As in `pyneurons.ops.ngram_coverage`, the segments on the host.
    histogram : Tensor, [bins + 1, F], int32
    large : Tensor, [segments longer than bins, F], int64

    Returns
    -------
    Tensor, [F], int64
        What ``fires`` leaves for the segments of one row.
    """
    import torch

    from pyneurons.kernels.ngram_coverage import ngram_coverage_kernel

    device, neurons = histogram.device, histogram.shape[1]
    lengths = np.diff(segments)
    bounds = on_device(device, segments)
    first = int(np.searchsorted(lengths, 2))
    end = len(lengths) - len(large)
    lanes = 64 if device.type == "cpu" else 4
    width = words_of_a_program(neurons)
    for planes in CLASSES:
        stop = min(end, int(np.searchsorted(lengths, 1 << planes)))
        if stop <= first:
            continue
        ngram_coverage_kernel[-(-(stop - first) // lanes), -(-neurons // (32 * width))](
            mask,
            order,
            bounds,
            histogram,
            first,
            stop,
            neurons,
            mask.stride(0),
            HAS_ORDER=order is not None,
            PLANES=planes,
            LANES=lanes,
            BLOCK_W=width,
            num_warps=4,
        )
        first = stop
    for start in range(first, end, LONG_SEGMENTS):
        some = segments[start : min(end, start + LONG_SEGMENTS) + 1]
        counts = torch.zeros(len(some) - 1, neurons, dtype=torch.int64, device=device)
        segment_counts(mask, order, some, counts)
        histogram.scatter_add_(0, counts, (counts > 0).to(torch.int32))
    segment_counts(mask, order, segments[end:], large)

    rest = fires - large.sum(dim=0)
    for start in range(0, len(histogram), HISTOGRAM_ROWS):
        part = histogram[start : start + HISTOGRAM_ROWS]
        count = torch.arange(start, start + len(part), device=device)
        rest -= (count[:, None] * part).sum(dim=0)
    return rest
