"""Launchers of the Triton kernels that count: tensors of one device in, nothing waited for.

Words and counters are signed integers, which shift, count and wrap as unsigned ones do; CPU tensors go
to Triton's interpreter. Bounds of segments stay on the host, where they are cut into programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.backends.held import made_of

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

PINNED_BYTES: Final = 1 << 26
"""Arrays up to this go to a device through pinned memory, which the host need not wait for."""

DENSE_COUNTS: Final = 1 << 25
"""Counts of a run of segments that `first_segments` has at once: 128 MiB, and 3 times that in scratch."""

WORDS: Final = 32
"""Words of a row that one program of a counting kernel takes at most, 128 bytes."""


def on_device(device: Any, array: npt.NDArray[Any]) -> Tensor:
    """Return an array on the device: on the CPU what may be written itself, elsewhere a copy.

    The copy of an array that is held is the same at every call.
    """
    import torch

    def copy() -> Tensor:
        here = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns
        if torch.device(device).type == "cuda" and array.nbytes <= PINNED_BYTES:
            # From memory that is not pinned torch waits for all that the stream has to do.
            return here.pin_memory().to(device, non_blocking=True)
        return here.to(device)

    return made_of(array, ("copy", str(device), array.dtype.str), copy)


def segment_counts(mask: Tensor, order: Tensor | None, segments: Ints, counts: Tensor) -> None:
    """`pyneurons.ops.segment_counts`, the segments on the host.

    Counters of 4 and 8 bytes are added to by several programs where a segment is long, in no
    order; narrower ones by one.
    """
    most = PIECE_ROWS if counts.element_size() >= 4 else 65_535

    def parts() -> tuple[Tensor, ...]:
        return tuple(on_device(counts.device, part) for part in pieces(segments, most))

    _count(mask, order, made_of(segments, ("pieces", str(counts.device), most), parts), counts)


def _count(mask: Tensor, order: Tensor | None, parts: tuple[Tensor, ...], counts: Tensor) -> None:
    """Count pieces (first, stop, segment), in which a segment of narrow counters has one."""
    from pyneurons.kernels.segment_counts import segment_counts_kernel

    device, neurons = counts.device, counts.shape[1]
    atomic = counts.element_size() >= 4
    first, stop, segment = parts
    if len(first) == 0 or neurons == 0:
        return
    width, lanes = words_of_a_program(neurons), 8
    if device.type == "cpu":  # where the time goes by the size of what a program holds
        longest = int((stop - first).max())
        lanes = min(256, max(8, 1 << (-(-longest // 8) - 1).bit_length()))
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
        LANES=lanes,
        BLOCK_W=width,
        num_warps=8,
    )


def words_of_a_program(neurons: int) -> int:
    """Return a power of two: `WORDS`, or fewer for few neurons."""
    return min(WORDS, 1 << (-(-neurons // 32) - 1).bit_length())


def pieces(segments: Ints, most: int) -> tuple[Ints, Ints, Ints]:
    """Return first, stop and segment of pieces of at most ``most`` rows that make up the segments."""
    return _cut(segments[:-1], np.diff(segments), most)


def _cut(begin: Ints, lengths: Ints, most: int) -> tuple[Ints, Ints, Ints]:
    number = -(-lengths // most)
    segment = np.repeat(np.arange(len(lengths)), number)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(number) - number, number)
    first = begin[segment] + within * most
    return first, np.minimum(first + most, (begin + lengths)[segment]), segment


def firing_rows(mask: Tensor, order: Tensor | None, rows: Tensor, found: Tensor) -> None:
    """`pyneurons.ops.firing_rows`."""
    from pyneurons.kernels.firing_rows import firing_rows_kernel

    neurons, limit = rows.shape
    length = len(mask) if order is None else len(order)
    if neurons == 0 or limit == 0 or length == 0:
        return
    interpreted = rows.device.type == "cpu"
    firing_rows_kernel[-(-neurons // 32),](
        mask,
        order,
        rows,
        found,
        length,
        neurons,
        limit,
        mask.stride(0),
        rows.stride(0),
        HAS_ORDER=order is not None,
        SCAN=256 if interpreted else 2048,
        ROWS=32,
        num_warps=8,
    )


class Lists:
    """Lists of segments, one per neuron, that are filled up to a room.

    Entry k of neuron f stands at ``offsets[f] + k``.
    """

    def __init__(
        self, offsets: Tensor, room: Tensor, found: Tensor, segment_of: Tensor, fires: Tensor | None
    ) -> None:
        self.offsets, self.room, self.found = offsets, room, found
        self.segment_of, self.fires = segment_of, fires

    def add(self, met: Tensor, segments: Tensor, counts: Tensor) -> None:
        """Append segments [G], for each neuron those where ``met`` [G, F], with their counts [G, F]."""
        import torch

        place = met.cumsum(dim=0, dtype=torch.int64)
        place += self.found - 1
        segment, neuron = (met & (place < self.room)).nonzero(as_tuple=True)
        at = self.offsets[neuron] + place[segment, neuron]
        self.segment_of[at] = segments[segment].to(self.segment_of.dtype)
        if self.fires is not None:
            self.fires[at] = counts[segment, neuron].to(torch.int64)
        self.found += met.sum(dim=0)


def first_segments(
    mask: Tensor,
    order: Tensor | None,
    segments: Ints,
    count: Ints,
    found_segments: Tensor,
    found: Ints,
) -> None:
    """`pyneurons.ops.first_segments`, segments, count and found on the host.

    Counts of as many segments as `DENSE_COUNTS` holds at a time, ending when all neurons have theirs.
    Segments shorter than the least count that looks are left out.
    """
    import torch

    device = found_segments.device
    neurons, limit = found_segments.shape
    looking = found < limit
    if not looking.any():
        return
    lengths = np.diff(segments)
    longest = int(lengths.max(initial=0))
    # No segment has more rows than int32 holds: 0 is what no count that looks is equal to.
    wanted = on_device(device, np.where(count <= longest, count, 0).astype(np.int32))
    long_enough = np.flatnonzero(lengths >= count[looking].min())
    flat = torch.empty(neurons * limit, dtype=torch.int32, device=device)
    at = torch.arange(neurons, device=device) * limit
    known = on_device(device, found.copy())
    room = torch.full((neurons,), limit, dtype=torch.int64, device=device)
    lists = Lists(at, room, known, flat, None)
    most = max(1, DENSE_COUNTS // neurons)
    for start in range(0, len(long_enough), most):
        some = long_enough[start : start + most]
        counts = torch.zeros(len(some), neurons, dtype=torch.int32, device=device)
        parts = _cut(segments[some], lengths[some], PIECE_ROWS)
        _count(mask, order, tuple(on_device(device, part) for part in parts), counts)
        met = (counts == wanted) & (wanted > 0)
        lists.add(met, on_device(device, some), counts)
        torch.minimum(known, room, out=known)
        if bool((known == room).all()):
            break
    place = torch.arange(limit, device=device)
    new = (place >= on_device(device, found)[:, None]) & (place < known[:, None])
    found_segments.copy_(torch.where(new, flat.view(neurons, limit), found_segments))
    found[:] = known.cpu().numpy()


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
    lengths = made_of(segments, "lengths", lambda: np.diff(segments))
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


def ngram_triggers(
    mask: Tensor,
    order: Tensor | None,
    segments: Ints,
    threshold: Ints,
    offsets: Ints,
    segment_of: Tensor,
    fires: Tensor,
) -> Ints:
    """`pyneurons.ops.ngram_triggers`, segments, threshold and offsets on the host.

    Returns
    -------
    ndarray, [F], int64
        How many segments each neuron has. Where that is not what ``offsets`` has room for, the outputs
        hold nothing of use.
    """
    import torch

    device, neurons = segment_of.device, len(threshold)
    if neurons == 0:
        return np.zeros(0, dtype=np.int64)
    lengths, ids = made_of(segments, "by length", lambda: _by_length(segments))

    def table() -> tuple[Tensor, ...]:
        return tuple(on_device(device, part) for part in (segments[ids], lengths, ids))

    begin, length, id_of = made_of(segments, ("by length", str(device)), table)
    least, places = on_device(device, threshold), on_device(device, offsets)
    found = torch.zeros(neurons, dtype=torch.int64, device=device)
    place_of = torch.empty_like(segment_of)
    first = int(np.searchsorted(lengths, threshold.min()))
    lists = Lists(places[:-1], places.diff(), found, place_of, fires)
    first = short_triggers(mask, order, begin, length, lengths, least, places, lists, first)
    for start in range(first, len(lengths), LONG_SEGMENTS):
        some = slice(start, start + LONG_SEGMENTS)
        parts = _cut(segments[ids[some]], lengths[some], PIECE_ROWS)
        counts = torch.zeros(len(lengths[some]), neurons, dtype=torch.int64, device=device)
        _count(mask, order, tuple(on_device(device, part) for part in parts), counts)
        number = torch.arange(start, start + len(counts), device=device)
        lists.add(counts >= least, number, counts)
    numbers: Ints = found.cpu().numpy()
    if np.array_equal(numbers, np.diff(offsets)):
        which = torch.repeat_interleave(torch.arange(neurons, device=device), lists.room)
        key, by_segment = torch.sort((which << 32) | id_of[place_of.to(torch.int64)])
        segment_of.copy_(key & 0xFFFFFFFF)
        fires.copy_(fires[by_segment])
    return numbers


def short_triggers(
    mask: Tensor,
    order: Tensor | None,
    begin: Tensor,
    length: Tensor,
    lengths: Ints,
    least: Tensor,
    offsets: Tensor,
    lists: Lists,
    first: int,
) -> int:
    """List segments from ``first`` on, in order of length, as far as programs count them; return the next.

    ``lengths`` is ``length`` on the host; the lists get places in it.
    """
    from pyneurons.kernels.ngram_triggers import ngram_triggers_kernel

    neurons = len(least)
    width = words_of_a_program(neurons)
    # One element for each of 128 threads: what an atomic returns is right in the one that did it.
    lanes = 64 if least.device.type == "cpu" else 128 // width
    for planes in CLASSES:
        stop = int(np.searchsorted(lengths, 1 << planes))
        if stop <= first:
            continue
        ngram_triggers_kernel[-(-(stop - first) // lanes), -(-neurons // (32 * width))](
            mask,
            order,
            begin,
            length,
            least,
            offsets,
            lists.found,
            lists.segment_of,
            lists.fires,
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
    return first


def _by_length(segments: Ints) -> tuple[Ints, Ints]:
    """Return the lengths of segments in ascending order, and which segments these are."""
    lengths = np.diff(segments)
    ids = np.arange(len(lengths))
    if np.any(lengths[1:] < lengths[:-1]):
        ids = np.argsort(lengths, kind="stable")
        lengths = lengths[ids]
    return lengths, ids
