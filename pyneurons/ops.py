"""The ops: every argument checked once, then handed to a backend.

Rules that hold for all of them:

- The caller allocates every output; an op returns None.
- Counters accumulate: an op adds to what is there. What is overwritten says so.
- Every check comes before the first write, and raises the same error on every backend.
- Matrices may have a row stride larger than a row; the last axis has unit stride.
- An output may overlap no other argument.
- An array may be given as a tensor that holds the same: words as int32 (or uint32), counters and keys
  likewise signed or not. One of the CPU is taken as the array that it is. One of another device is
  taken as it is by the backends of that device (`pyneurons.backends.Backend`), refused by all others; arrays of
  the host that come with it are copied there, outputs back (see `hold`). What is checked for its values
  stays on the host: order, segments, starts, offsets, ids, threshold, count, found.
- Results do not depend on ``threads`` nor, but for the rounding of `ffn` and `attention`, on the
  backend (`linear`: the same bits on all but ``torch``; `layer_norm`: on all).

Letters and the layout of a mask: `pyneurons.reference`.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons import backends, shadows
from pyneurons.backends import held
from pyneurons.errors import BackendUnavailable, DTypeError, IntegrityError, ShapeError
from pyneurons.panels import Panels, SplitPanels
from pyneurons.shadows import Shadow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pyneurons.reference import Counts, Ids, Ints, Ints32, Keys, Order, Words

STRIP_WORDS: Final = 32
"""Words of a mask row that one strip of a layer holds at most: 1,024 neurons."""

_INT64_MAX: Final = 2**63 - 1
_CHECKED: Final = 1 << 15
"""Elements looked at together: what fits L2, where whole arrays would be written to memory."""


def strip_shape(neurons: int) -> tuple[int, int]:
    """Return (strips, words per strip) of the mask of a layer.

    A layer's mask is ``uint32 [strips, N, strip_words]``: neuron f is bit ``f % 32`` of word
    ``(f // 32) % strip_words`` of strip ``f // 32 // strip_words``.

    Parameters
    ----------
    neurons : int
        F of the layer, at least 1.
    """
    words = -(-neurons // 32)
    strip_words = min(STRIP_WORDS, words)
    return -(-words // strip_words), strip_words


def segment_counts(
    mask: Words | Tensor,
    order: Order | Tensor,
    segments: Ints | Tensor,
    counts: Counts | Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Add to ``counts`` how often each neuron fires in each segment of rows.

    ``counts[s, f] += #{i in [segments[s], segments[s+1]) : bit f of mask[order[i]]}``.

    Parameters
    ----------
    mask : ndarray of uint32, [N, W]
        One bit per (row, neuron).
    order : ndarray of int32, [M], or None
        Rows of the mask, any number of times each; None is ``0, 1, ..., N - 1``.
    segments : ndarray of int64, [G + 1]
        Bounds of the segments in ``order``, not decreasing, from 0 to at most M.
    counts : ndarray of int64, uint8, uint16 or uint32, [G, F]
        Accumulated into. F is at most ``32 * W``; bits past F are not counted. A segment has no
        more rows than an element can count beyond the largest that is there.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the neurons.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of ``counts`` changes.
    IntegrityError
        Before that as well, if a counter of the host leaves no room for the rows of a segment:
        counters never wrap.

    Notes
    -----
    Cost: streams ``M * W`` words once, updates ``G * F`` counters, which are read once before.
    """
    op = "segment_counts"
    mask, order, rows = _mask_and_order(op, mask, order)
    segments = _segments(op, segments, rows)
    counts = _matrix(op, "counts", counts, np.int64, np.uint8, np.uint16, np.uint32, writable=True)
    _same(op, "counts", counts, (len(segments) - 1, None), "one row per segment")
    longest = int(np.diff(segments).max(initial=0))
    kind: Any = counts.dtype
    most = int(np.iinfo(kind).max)
    if longest > most:
        message = f"{op}: a segment has {longest} rows, counts of {counts.dtype} end at {most}"
        raise ShapeError(message)
    _neurons(op, "counts", counts.shape[1], mask)
    _no_overlap(op, {"counts": counts}, {"mask": mask, "order": order, "segments": segments})
    chosen = backends.resolve(backend)
    given = _given(op, chosen, mask, order, segments, counts)
    threads = _threads(op, threads)
    _room(op, "counts", counts, longest)
    chosen.segment_counts(*given, threads=threads)


def firing_rows(
    mask: Words | Tensor,
    order: Order | Tensor,
    rows: Ints | Tensor,
    found: Ints | Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Note the first rows, in the given order, on which each neuron fires.

    ``rows[f, found[f]:limit] = the first entries of [order[i] : bit f of mask[order[i]]]``, and
    ``found[f]`` moves on by as many; it stops at the limit. Rows of a long corpus may so be fed
    piece by piece.

    Parameters
    ----------
    mask : ndarray of uint32, [N, W]
        One bit per (row, neuron).
    order : ndarray of int32, [M], or None
        Rows of the mask in the order of preference; None is ``0, 1, ..., N - 1``.
    rows : ndarray of int64, [F, limit]
        Gets row ids; what lies at ``found[f]`` and behind is overwritten as far as rows are found.
    found : ndarray of int64, [F]
        How many rows of each neuron are known, 0 to ``limit``; moved on.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the neurons.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of ``rows`` or ``found`` changes.

    Notes
    -----
    Cost: reads ``M * W`` words at most once; words whose neurons all have ``limit`` rows cost
    nothing, and the pass ends where that is true of all.
    """
    op = "firing_rows"
    mask, order, _ = _mask_and_order(op, mask, order)
    rows = _matrix(op, "rows", rows, np.int64, writable=True)
    found = _vector(op, "found", found, np.int64, writable=True, on_host=True)
    _same(op, "found", found, (rows.shape[0],), "F of rows")
    _neurons(op, "rows", rows.shape[0], mask)
    _range(op, "found", found, 0, rows.shape[1])
    _no_overlap(op, {"rows": rows, "found": found}, {"mask": mask, "order": order})
    chosen = backends.resolve(backend)
    given = _given(op, chosen, mask, order, rows, found)
    chosen.firing_rows(*given, threads=_threads(op, threads))


def first_segments(
    mask: Words | Tensor,
    order: Order | Tensor,
    segments: Ints | Tensor,
    count: Ints | Tensor,
    found_segments: Ints32 | Tensor,
    found: Ints | Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Note the first segments in which each neuron fires exactly so often.

    ``found_segments[f, found[f]:limit]`` = the first g, ascending, with
    ``#{i in [segments[g], segments[g+1]) : bit f of mask[order[i]]} == count[f]``, and ``found[f]``
    moves on by as many; it stops at the limit.

    Parameters
    ----------
    mask : ndarray of uint32, [N, W]
        One bit per (row, neuron).
    order : ndarray of int32, [M], or None
        Rows of the mask; None is ``0, 1, ..., N - 1``.
    segments : ndarray of int64, [G + 1]
        Bounds of the segments in ``order``, of any lengths.
    count : ndarray of int64, [F]
        At least 1.
    found_segments : ndarray of int32, [F, limit]
        What lies at ``found[f]`` and behind is overwritten as far as segments are found.
    found : ndarray of int64, [F]
        How many segments of each neuron are known, 0 to ``limit``; moved on.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the neurons.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of ``found_segments`` or ``found`` changes.

    Notes
    -----
    Cost: reads the rows of segments that are long enough for a count that still looks, once at
    most; words whose neurons all have ``limit`` segments cost nothing, and the pass ends where
    that is true of all.
    """
    op = "first_segments"
    mask, order, rows = _mask_and_order(op, mask, order)
    segments = _segments(op, segments, rows)
    count = _vector(op, "count", count, np.int64, on_host=True)
    found_segments = _matrix(op, "found_segments", found_segments, np.int32, writable=True)
    found = _vector(op, "found", found, np.int64, writable=True, on_host=True)
    _same(op, "count", count, (found_segments.shape[0],), "F of found_segments")
    _same(op, "found", found, (found_segments.shape[0],), "F of found_segments")
    _range(op, "count", count, 1, _INT64_MAX)
    _neurons(op, "found_segments", found_segments.shape[0], mask)
    _range(op, "found", found, 0, found_segments.shape[1])
    _no_overlap(
        op,
        {"found_segments": found_segments, "found": found},
        {"mask": mask, "order": order, "segments": segments, "count": count},
    )
    chosen = backends.resolve(backend)
    given = _given(op, chosen, mask, order, segments, count, found_segments, found)
    chosen.first_segments(*given, threads=_threads(op, threads))


def ngram_keys(
    ids: Ids | Tensor,
    starts: Ints | Tensor,
    n: int,
    bits: int,
    boundary_id: int,
    keys: Keys | Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Write the key of the n-gram that ends at each row.

    ``keys[i] = sum_j ids[i-n+1+j] << bits * (n-1-j)`` where the n tokens lie in one sequence and
    none of them is ``boundary_id``; elsewhere ``2**64 - 1``. Keys order n-grams as their tokens do.
    Where ``n * bits > 64`` the key is a hash instead (`pyneurons.reference.mix` over the tokens,
    from 0, at most ``2**64 - 2``), in which different n-grams may collide.

    Parameters
    ----------
    ids : ndarray of uint16 or uint32, [N]
        Token ids, each at most ``2**bits - 2``.
    starts : ndarray of int64, [S + 1]
        First row of each sequence, then N.
    n : int
        Tokens of an n-gram, 1 to ``2**31 - 1``.
    bits : int
        Bits per token, 1 to 32: the bit length of V.
    boundary_id : int
        The token that is in no n-gram.
    keys : ndarray of uint64, [N]
        Overwritten.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the rows.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of ``keys`` changes.

    Notes
    -----
    Cost: n passes over a block of ids in cache; writes ``8 * N`` bytes.
    """
    op = "ngram_keys"
    ids = _vector(op, "ids", ids, np.uint16, np.uint32, on_host=True)
    starts = _vector(op, "starts", starts, np.int64, on_host=True)
    keys = _vector(op, "keys", keys, np.uint64, writable=True)
    _same(op, "keys", keys, ids.shape, "N of ids")
    _bounds(op, "starts", starts, last=len(ids), whole=True)
    _number(op, "n", n, 1, 2**31 - 1)
    _number(op, "bits", bits, 1, 32)
    _number(op, "boundary_id", boundary_id, 0, 2**32 - 1)
    _range(op, "ids", ids, 0, 2**bits - 2)
    _no_overlap(op, {"keys": keys}, {"ids": ids, "starts": starts})
    chosen = backends.resolve(backend)
    ids, starts, keys = _given(op, chosen, ids, starts, keys)
    chosen.ngram_keys(ids, starts, n, bits, boundary_id, keys, threads=_threads(op, threads))


def ngram_coverage(
    mask: Words | Tensor,
    order: Order | Tensor,
    segments: Ints | Tensor,
    fires: Ints | Tensor,
    histogram: Ints | Tensor,
    large: Ints | Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Add to ``histogram`` on how many n-grams each neuron fires exactly c times.

    With c the count of neuron f in a segment (the rows on which one n-gram ends) of m rows:
    ``histogram[c, f] += 1`` for every segment with ``2 <= m <= bins`` and ``c >= 1``;
    ``large[i, f] += c`` for the i-th of the segments with ``m > bins``; and, for the segments of
    one row, which are not read, ``histogram[1, f] += fires[f] - (sum of c over all others)``.
    ``histogram[0]`` is never touched.

    Parameters
    ----------
    mask : ndarray of uint32, [N, W]
        One bit per (row, neuron).
    order : ndarray of int32, [M], or None
        Rows of the mask; None is ``0, 1, ..., N - 1``.
    segments : ndarray of int64, [G + 1]
        Bounds of the segments in ``order``; their lengths do not decrease.
    fires : ndarray of int64, [F]
        How often each neuron fires in all segments together (A_n).
    histogram : ndarray of int64, [bins + 1, F]
        Accumulated into; ``bins`` is at least 1.
    large : ndarray of int64, [number of segments longer than bins, F]
        Accumulated into.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the neurons.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of an output changes.
    IntegrityError
        If ``fires`` leaves a negative number for the segments of one row, or more than there are
        such segments; or if a counter of the host leaves no room for so many rows. The outputs are
        as they were.

    Notes
    -----
    Cost: streams the rows of all segments of two rows and more once. Scratch: ``4 * F`` bytes per
    bin up to the longest segment, and per row of ``large``.
    """
    op = "ngram_coverage"
    mask, order, rows = _mask_and_order(op, mask, order)
    segments = _vector(op, "segments", segments, np.int64, on_host=True)
    shorter = _first_shorter(segments)
    # Lengths that ascend from one that is not negative are bounds that do not decrease, where none
    # is more than there are rows: differences of 64 bits wrap.
    ascends = shorter is None and (
        len(segments) < 2
        or (
            int(segments[1]) >= int(segments[0])
            and 0 <= int(segments[-1]) - int(segments[-2]) <= rows
        )
    )
    _bounds(op, "segments", segments, last=rows, whole=False, ascends=ascends)
    fires = _vector(op, "fires", fires, np.int64)
    histogram = _matrix(op, "histogram", histogram, np.int64, writable=True)
    large = _matrix(op, "large", large, np.int64, writable=True)
    bins = histogram.shape[0] - 1
    if bins < 1:
        message = f"{op}: histogram has shape {_shape(histogram)}, expected 2 rows or more"
        raise ShapeError(message)
    if shorter is not None:
        message = f"{op}: segment {shorter} is shorter than the one before; sort them by length"
        raise ShapeError(message)
    n_segments = len(segments) - 1
    n_large = n_segments - bisect_right(
        range(n_segments), bins, key=lambda i: int(segments[i + 1] - segments[i])
    )
    _same(op, "large", large, (n_large, None), f"segments longer than {bins} rows")
    _same(op, "large", large, (None, histogram.shape[1]), "F of histogram")
    _same(op, "fires", fires, (histogram.shape[1],), "F of histogram")
    _neurons(op, "histogram", histogram.shape[1], mask)
    _no_overlap(
        op,
        {"histogram": histogram, "large": large},
        {"mask": mask, "order": order, "segments": segments, "fires": fires},
    )
    chosen = backends.resolve(backend)
    given = _given(op, chosen, mask, order, segments, fires, histogram, large)
    threads = _threads(op, threads)
    _room(op, "histogram", histogram, rows)
    _room(op, "large", large, rows)
    chosen.ngram_coverage(*given, threads=threads)


def ngram_triggers(
    mask: Words | Tensor,
    order: Order | Tensor,
    segments: Ints | Tensor,
    threshold: Ints | Tensor,
    offsets: Ints | Tensor,
    segment_of: Ints32 | Tensor,
    fires: Ints | Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """List, for every neuron, the segments in which it fires often enough.

    For neuron f and each segment g, ascending, with count ``c >= threshold[f]``, in turn for
    ``k = offsets[f], offsets[f] + 1, ...``: ``segment_of[k] = g`` and ``fires[k] = c``.

    Parameters
    ----------
    mask : ndarray of uint32, [N, W]
        One bit per (row, neuron).
    order : ndarray of int32, [M], or None
        Rows of the mask; None is ``0, 1, ..., N - 1``.
    segments : ndarray of int64, [G + 1]
        Bounds of the segments in ``order``, of any lengths.
    threshold : ndarray of int64, [F]
        Least count that is listed, at least 1; a huge number lists nothing.
    offsets : ndarray of int64, [F + 1]
        Where the list of each neuron begins, from 0; known from `ngram_coverage`.
    segment_of : ndarray of int32, [offsets[F]]
        Overwritten.
    fires : ndarray of int64, [offsets[F]]
        Overwritten.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the neurons.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of an output changes.
    IntegrityError
        If a neuron has more or fewer such segments than ``offsets`` leaves room for. The outputs
        are as they were.

    Notes
    -----
    Cost: streams the rows of the segments that are long enough for some threshold. Scratch:
    8 bytes per listed segment.
    """
    op = "ngram_triggers"
    mask, order, rows = _mask_and_order(op, mask, order)
    segments = _segments(op, segments, rows)
    threshold = _vector(op, "threshold", threshold, np.int64, on_host=True)
    offsets = _vector(op, "offsets", offsets, np.int64, on_host=True)
    segment_of = _vector(op, "segment_of", segment_of, np.int32, writable=True)
    fires = _vector(op, "fires", fires, np.int64, writable=True)
    _same(op, "offsets", offsets, (len(threshold) + 1,), "F of threshold, plus 1")
    _bounds(op, "offsets", offsets, last=len(segment_of), whole=True)
    _same(op, "fires", fires, segment_of.shape, "length of segment_of")
    _range(op, "threshold", threshold, 1, _INT64_MAX)
    _neurons(op, "threshold", len(threshold), mask)
    _no_overlap(
        op,
        {"segment_of": segment_of, "fires": fires},
        {
            "mask": mask,
            "order": order,
            "segments": segments,
            "threshold": threshold,
            "offsets": offsets,
        },
    )
    chosen = backends.resolve(backend)
    given = _given(op, chosen, mask, order, segments, threshold, offsets, segment_of, fires)
    chosen.ngram_triggers(*given, threads=_threads(op, threads))


def ffn(
    x: Tensor,
    fc1_weight: Tensor | Panels | SplitPanels,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor | Panels | SplitPanels | None,
    fc2_bias: Tensor | None,
    residual: Tensor,
    mask: Words | Tensor,
    z_max: Tensor,
    *,
    wrong: Tensor | None = None,
    fc1_route: str = "fused",
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Run one feed-forward block and keep one bit per (row, neuron): who fired.

    ``z = x @ fc1_weight.T + fc1_bias``; bit f of row n of ``mask`` is ``z[n, f] > 0``;
    ``z_max[f] = max(z_max[f], max_n z[n, f])``; and, where there is an ``fc2_weight``,
    ``residual += relu(z) @ fc2_weight.T + fc2_bias``.

    Parameters
    ----------
    x : Tensor, [M, D], float32, bfloat16 or, on some backends, float16
        What fc1 reads; its dtype is the compute dtype. M may be 0. Tensors of a device go to its
        backends as they are; to these, what lies on the host is copied, and outputs back.
    fc1_weight : Tensor, [F, D], compute dtype, or Panels of it
        In bfloat16, `Panels` spare laying out the weight in every call; in float32, `SplitPanels`
        are multiplied as `linear` does.
    fc1_bias : Tensor, [F], compute dtype, or None
    fc2_weight : Tensor, [D_out, F], compute dtype, or Panels of it, or None
        None leaves ``residual`` alone.
    fc2_bias : Tensor, [D_out], compute dtype, or None
    residual : Tensor, [M, D_out], float32
        Accumulated into.
    mask : ndarray of uint32, [strips, M, strip_words]
        Overwritten, bits past F with zeros; see `strip_shape`. Any strides, the last one unit.
    z_max : Tensor, [F], float32
        Running maximum.
    wrong : Tensor, one element, int64, where the backend computes, or None
        Gets the smallest ``row * F + neuron`` whose pre-activation is not finite, if that is less than
        what is there (2**63 - 1 at first). Then nothing is raised, nor, on a device, waited for.
    fc1_route : {"fused", "torch"}
        How `triton` and `cuda` multiply by fc1; see `pyneurons.backends.triton_ffn.ffn`.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the rows. In float32 the products belong to torch and follow
        ``torch.set_num_threads``.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of an output changes.
    NonFiniteError
        Without ``wrong``, if a pre-activation is NaN or infinite; the message names row and neuron. The
        outputs hold what was finished before: the run has to stop.

    Notes
    -----
    Sums run in float32; a NaN does not fire. In bfloat16 biases are added to the finished sums,
    nothing is rounded but what fc2 reads, denormals are 0, and the order of sums is fixed: that of
    AMX (`pyneurons.reference.paired_sum`) on every backend but ``cpp:avx512bf16``, whose
    instruction has another (`pyneurons.reference.chained_sum`), and ``triton``, where it is that of the
    tensor cores. float16 is a dtype of ``reference``, ``triton`` and ``cuda``. Cost: ``2 M D F`` operations
    for fc1; fc2 reads only pairs of neurons of which one fires, where few do.
    """
    import torch

    op = "ffn"
    compute = (torch.float32, torch.bfloat16, torch.float16)
    _tensor(op, "x", x, 2, *compute, anywhere=True)
    _weight(op, "fc1_weight", fc1_weight, x.dtype)
    _tensor(op, "residual", residual, 2, torch.float32, anywhere=True)
    _tensor(op, "z_max", z_max, 1, torch.float32, anywhere=True)
    rows, inner = x.shape
    neurons = fc1_weight.shape[0]
    outer = residual.shape[1]
    _same(op, "fc1_weight", fc1_weight, (None, inner), "D of x")
    _same(op, "residual", residual, (rows, None), "M of x")
    _same(op, "z_max", z_max, (neurons,), "F of fc1_weight")
    if neurons < 1 or inner < 1:
        message = f"{op}: fc1_weight has shape {_shape(fc1_weight)}, expected no empty axis"
        raise ShapeError(message)
    inputs: dict[str, Any] = {"x": x, "fc1_weight": fc1_weight}
    if fc1_bias is not None:
        inputs["fc1_bias"] = fc1_bias
        _tensor(op, "fc1_bias", fc1_bias, 1, x.dtype, anywhere=True)
        _same(op, "fc1_bias", fc1_bias, (neurons,), "F of fc1_weight")
    if fc2_weight is not None:
        inputs["fc2_weight"] = fc2_weight
        _weight(op, "fc2_weight", fc2_weight, x.dtype)
        _same(op, "fc2_weight", fc2_weight, (outer, neurons), "D_out of residual, F of fc1_weight")
    if fc2_bias is not None:
        inputs["fc2_bias"] = fc2_bias
        _tensor(op, "fc2_bias", fc2_bias, 1, x.dtype, anywhere=True)
        _same(op, "fc2_bias", fc2_bias, (outer,), "D_out of residual")
    mask = _array(op, "mask", mask, 3, np.uint32, writable=True)
    _unit_stride(op, "mask", mask)
    words = -(-neurons // 32)
    strip_words = mask.shape[2]
    strips = -(-words // max(1, strip_words))
    if strip_words < 1 or mask.shape[:2] != (strips, rows):
        wanted = strip_shape(neurons)
        message = (
            f"{op}: mask has shape {_shape(mask)}, expected [{wanted[0]}, {rows}, {wanted[1]}] "
            f"(strips for {neurons} neurons)"
        )
        raise ShapeError(message)
    outputs = {
        "residual": _bytes(residual, "residual"),
        "mask": mask,
        "z_max": _bytes(z_max, "z_max"),
    }
    if wrong is not None:
        _tensor(op, "wrong", wrong, wrong.ndim, torch.int64, anywhere=True)
        if wrong.numel() != 1:
            message = f"{op}: wrong has shape {_shape(wrong)}, expected one element"
            raise ShapeError(message)
        outputs["wrong"] = _bytes(wrong, "wrong")
    memory = {
        label: array for name, value in inputs.items() for label, array in _memory(name, value)
    }
    _no_overlap(op, outputs, memory)
    chosen = backends.resolve(backend)
    (mask, *_) = _given(op, chosen, mask, *outputs.values(), *memory.values())
    if x.dtype == torch.float16 and not chosen.float16:
        message = f"backend {chosen.name!r}: it has no float16; reference, triton and cuda have"
        raise BackendUnavailable(message)
    route: dict[str, str] = {}
    if fc1_route != "fused":
        if fc1_route != "torch" or op not in chosen.on_device:
            routes = "'fused' and 'torch'" if op in chosen.on_device else "'fused'"
            message = f"backend {chosen.name!r}: fc1_route is {fc1_route!r}, it has {routes}"
            raise BackendUnavailable(message)
        route["route"] = fc1_route
    if wrong is not None:
        computes = chosen.device if op in chosen.on_device else "cpu"
        if wrong.device.type != computes:
            message = f"{op}: wrong lies on {wrong.device}, {chosen.name} computes on {computes}"
            raise DTypeError(message)
    chosen.ffn(
        x,
        fc1_weight,
        fc1_bias,
        fc2_weight,
        fc2_bias,
        residual,
        mask,
        z_max,
        wrong,
        threads=_threads(op, threads),
        **route,
    )


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    out: Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Bring every row to mean 0 and variance 1, scale and shift it, and round it to bfloat16.

    ``out[i] = (x[i] - mean(x[i])) / sqrt(var(x[i]) + epsilon) * weight + bias``, var the mean square
    of what is left.

    Parameters
    ----------
    x : Tensor, [M, D], float32
    weight, bias : Tensor, [D], float32, or None
        Without them: 1 and 0.
    epsilon : float
        Above 0.
    out : Tensor, [M, D], bfloat16
        Overwritten.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the rows.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of ``out`` changes.

    Notes
    -----
    In float32, sums in a fixed order (`pyneurons.reference.layer_norm`): the same bits on every
    backend; a row depends on itself alone. A row with a NaN or infinity becomes NaN. Cost: x is
    read once.
    """
    import torch

    op = "layer_norm"
    _tensor(op, "x", x, 2, torch.float32)
    _tensor(op, "out", out, 2, torch.bfloat16)
    if x.shape[1] < 1:
        message = f"{op}: x has shape {_shape(x)}, expected D of 1 or more"
        raise ShapeError(message)
    _same(op, "out", out, tuple(x.shape), "M, D of x")
    inputs = {"x": _bytes(x)}
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            _tensor(op, name, vector, 1, torch.float32)
            _same(op, name, vector, (x.shape[1],), "D of x")
            inputs[name] = _bytes(vector)
    if not epsilon > 0:
        message = f"{op}: epsilon is {epsilon}, expected more than 0"
        raise ShapeError(message)
    _no_overlap(op, {"out": _bytes(out)}, inputs)
    chosen = backends.resolve(backend)
    chosen.layer_norm(x, weight, bias, epsilon, out, threads=_threads(op, threads))


def attention(
    qkv: Tensor,
    starts: Ints | Tensor,
    heads: int,
    out: Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Let every position attend to itself and what stands before it in its sequence.

    ``out[i] = sum_{j <= i} softmax_j(q[i] . k[j] / sqrt(D / heads)) v[j]`` in each head.

    Parameters
    ----------
    qkv : Tensor, [M, 3 D], bfloat16
        q, k and v side by side, in each the heads side by side. Rows may lie apart, as in `linear`.
    starts : ndarray of int64, [S + 1]
        Bounds of the sequences, from 0 to M.
    heads : int
        How many, a divisor of D.
    out : Tensor, [M, D], bfloat16
        Overwritten. Rows may lie apart.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the sequences and heads.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of an output changes.

    Notes
    -----
    Sums run in float32 in a fixed order, that of AMX (see `pyneurons.reference.attention`) on every
    backend but ``cpp:avx512bf16``, as in `ffn`; a row depends on its own sequence alone. Cost: ``2 T**2 D``
    operations for a sequence of T positions.
    """
    import torch

    op = "attention"
    _rows(op, "qkv", qkv, torch.bfloat16)
    _rows(op, "out", out, torch.bfloat16)
    rows, width = out.shape
    _same(op, "qkv", qkv, (rows, 3 * width), "M, 3 D of out")
    _number(op, "heads", heads, 1, None)
    if width < 1 or width % heads:
        message = f"{op}: heads is {heads}, expected a divisor of D, {width}"
        raise ShapeError(message)
    starts = _vector(op, "starts", starts, np.int64, on_host=True)
    _bounds(op, "starts", starts, last=rows, whole=True)
    _no_overlap(op, {"out": _bytes(out)}, {"qkv": _bytes(qkv), "starts": starts})
    chosen = backends.resolve(backend)
    chosen.attention(qkv, starts, heads, out, threads=_threads(op, threads))


def linear(
    x: Tensor,
    weight: Panels | SplitPanels,
    bias: Tensor | None,
    out: Tensor,
    *,
    backend: str | None = None,
    threads: int = 1,
) -> None:
    """Multiply matrices of bfloat16, or of float32 by way of it: ``out = x @ weight.T + bias``.

    With x in bfloat16 and out in float32, a residual stream: ``out += x @ weight.T + bias``.

    Parameters
    ----------
    x : Tensor, [M, K], bfloat16 or float32
        M may be 0. Rows may lie apart.
    weight : Panels of [N, K] for bfloat16, SplitPanels for float32
    bias : Tensor, [N], the dtype of x, or None
    out : Tensor, [M, N]
        In the dtype of x: overwritten. In float32 where x is bfloat16: added to. Rows may lie apart:
        an odd number of 64 bytes is up to 1.4 times as fast as a multiple of 512.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    threads : int
        How many threads share the rows.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        Before any element of ``out`` changes.

    Notes
    -----
    In bfloat16 sums are those of `ffn`, in float32 and of a fixed order; the bias is added to the
    finished sum, which is then rounded, or added to what is there.

    In float32 ``x`` is taken as three bfloat16, which hold it exactly, the weight as one to three. Of their
    products those are added that float32 could tell from 0: 3, 5 or 6. The order of sums is fixed
    (`pyneurons.reference.linear`) and its own: 256 terms at a time, small products first, then in
    ascending order. Root mean square errors against float64 are .2 to .4 of those of torch's
    float32 for K from 768 to 8,192, and .6 to .9 of them where 1 in 20 elements of x is not 0.

    The same bits on every backend but ``torch`` and, in bfloat16, ``cpp:avx512bf16``; a row depends
    on itself alone. A NaN or infinity
    of x makes its row not finite. Denormals are 0, also where they are parts of an element or sums:
    an element of x below 2**-103, and one of the weight, may lose up to 2**-126, and so may each
    step of a sum. Against that stands what float32 itself may lose, 2**-24 of the largest product:
    results above 1e-30 are as exact as elsewhere.

    Cost: 2 M K N operations for each of the 3, 5 or 6 products.
    """
    import torch

    op = "linear"
    _panels(op, "weight", weight)
    dtype = torch.bfloat16 if isinstance(weight, Panels) else torch.float32
    _rows(op, "x", x, dtype)
    _rows(op, "out", out, *dict.fromkeys((dtype, torch.float32)))
    columns, terms = weight.shape
    if columns < 1 or terms < 1:
        message = f"{op}: weight has shape {_shape(weight)}, expected no empty axis"
        raise ShapeError(message)
    _same(op, "weight", weight, (None, x.shape[1]), "K of x")
    _same(op, "out", out, (x.shape[0], columns), "M of x, N of weight")
    inputs = {"x": _bytes(x), **dict(_memory("weight", weight))}
    if bias is not None:
        _tensor(op, "bias", bias, 1, dtype)
        _same(op, "bias", bias, (columns,), "N of weight")
        inputs["bias"] = _bytes(bias)
    _no_overlap(op, {"out": _bytes(out)}, inputs)
    chosen = backends.resolve(backend)
    chosen.linear(x, weight, bias, out, threads=_threads(op, threads))


@contextmanager
def hold(*arrays: Any, backend: str | None = None) -> Iterator[None]:
    """Keep copies on the backend's device of arrays that do not change.

    Until the block ends, calls that are given these arrays, or views of the same elements, copy nothing
    and look through them for wrong values once. On backends of the CPU there is nothing to keep.

    Parameters
    ----------
    *arrays : ndarray, Tensor or None
        What several calls are given: order and segments above all. Left alone: None, and tensors of
        a device. They must not change until the block ends, nor may the current stream.
    backend : str, optional
        A name from `pyneurons.backends.available`.

    Notes
    -----
    A copy is made by the first call that needs it, and waited for. Cost: the bytes of the arrays on
    the device, and what is derived from bounds, as much again.
    """
    here = [
        shadows.view("array", one, np.dtype(f"i{one.element_size()}"))
        if shadows.is_tensor(one)
        else one
        for one in arrays
        if one is not None
    ]
    if backends.resolve(backend).device == "cpu":
        yield
    else:
        with held.hold(one for one in here if type(one) is not Shadow):
            yield


# --- checks ---------------------------------------------------------------------------------------


def _shape(value: Any) -> str:
    return "[" + ", ".join(str(length) for length in value.shape) + "]"


def _array(
    op: str, name: str, value: Any, axes: int, *dtypes: type[np.generic], writable: bool = False
) -> Any:
    """Return the array, or what stands for a tensor."""
    # Names are made where they are needed: they took half the time of a call's checks.
    if not isinstance(value, np.ndarray):
        value = _view(op, name, value, dtypes)
    if not any(value.dtype == dtype for dtype in dtypes):
        wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        message = f"{op}: {name} has dtype {value.dtype}, expected {wanted}"
        raise DTypeError(message)
    if value.ndim != axes:
        message = f"{op}: {name} has shape {_shape(value)}, expected {axes} axes"
        raise ShapeError(message)
    if not value.flags.aligned:
        message = f"{op}: {name} is not aligned to its elements"
        raise ShapeError(message)
    if writable and not value.flags.writeable:
        message = f"{op}: {name} is read-only, expected an array to write to"
        raise ShapeError(message)
    return value


def _view(op: str, name: str, value: Any, dtypes: tuple[type[np.generic], ...]) -> Any:
    """Return what stands for a tensor; signed integers are taken for unsigned ones of their size."""
    names = [np.dtype(dtype).name for dtype in dtypes]
    if not shadows.is_tensor(value):
        message = (
            f"{op}: {name} is a {type(value).__name__}, expected an ndarray of {' or '.join(names)}"
        )
        raise DTypeError(message)
    _plain_tensor(op, name, value)
    found = str(value.dtype).removeprefix("torch.")
    for wanted in (found, f"u{found}"):
        if wanted in names:
            return shadows.view(name, value, np.dtype(wanted))
    message = f"{op}: {name} has dtype {found}, expected {' or '.join(names)}"
    raise DTypeError(message)


def _plain_tensor(op: str, name: str, value: Any) -> None:
    """Check that a tensor has memory that can be written to, wherever it lies."""
    import torch

    if value.device.type == "meta" or value.layout != torch.strided:
        where = value.device if value.layout == torch.strided else value.layout
        message = f"{op}: {name} lies on {where}, expected a tensor with memory"
        raise DTypeError(message)
    if value.requires_grad:
        message = f"{op}: {name} requires a gradient, expected a plain tensor"
        raise DTypeError(message)


def _unit_stride(op: str, name: str, value: Any) -> None:
    """Rows may lie apart, forward and not inside one another; their elements may not."""
    size = value.itemsize
    if value.size == 0:
        return
    row = value.shape[-1] * size
    good = value.shape[-1] == 1 or value.strides[-1] == size
    for length, stride in zip(value.shape[:-1], value.strides[:-1], strict=True):
        good = good and (length == 1 or (stride >= row and stride % size == 0))
    if not good:
        message = (
            f"{op}: {name} has strides {list(value.strides)} bytes, expected {size} along the last "
            f"axis and {row} or more along the others"
        )
        raise ShapeError(message)


def _matrix(
    op: str, name: str, value: Any, *dtypes: type[np.generic], writable: bool = False
) -> Any:
    value = _array(op, name, value, 2, *dtypes, writable=writable)
    _unit_stride(op, name, value)
    return value


def _vector(
    op: str,
    name: str,
    value: Any,
    *dtypes: type[np.generic],
    writable: bool = False,
    on_host: bool = False,
) -> Any:
    """``on_host``: its values are going to be read."""
    value = _array(op, name, value, 1, *dtypes, writable=writable)
    _unit_stride(op, name, value)
    if on_host and type(value) is Shadow:
        message = (
            f"{op}: {name} lies on {value.tensor.device}, expected the host's memory: its values are "
            f"checked there"
        )
        raise DTypeError(message)
    return value


def _tensor(
    op: str, name: str, value: Any, axes: int, *dtypes: Any, anywhere: bool = False
) -> None:
    _tensor_of(op, name, value, axes, *dtypes, anywhere=anywhere)
    if not value.is_contiguous():
        message = f"{op}: {name} has strides {list(value.stride())}, expected a contiguous tensor"
        raise ShapeError(message)


def _rows(op: str, name: str, value: Any, *dtypes: Any) -> None:
    """Check a matrix whose rows may lie apart."""
    _tensor_of(op, name, value, 2, *dtypes)
    _unit_stride(op, name, _bytes(value))


def _tensor_of(
    op: str, name: str, value: Any, axes: int, *dtypes: Any, anywhere: bool = False
) -> None:
    import torch

    wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    if not isinstance(value, torch.Tensor):
        message = f"{op}: {name} is a {type(value).__name__}, expected a tensor of {wanted}"
        raise DTypeError(message)
    if value.dtype not in dtypes:
        found = str(value.dtype).removeprefix("torch.")
        message = f"{op}: {name} has dtype {found}, expected {wanted}"
        raise DTypeError(message)
    if value.device.type != "cpu" and not anywhere:
        message = f"{op}: {name} lies on {value.device}, expected cpu"
        raise DTypeError(message)
    _plain_tensor(op, name, value)
    if value.dim() != axes:
        message = f"{op}: {name} has shape {_shape(value)}, expected {axes} axes"
        raise ShapeError(message)


def _weight(op: str, name: str, value: Any, dtype: Any) -> None:
    import torch

    laid_out = {torch.bfloat16: Panels, torch.float32: SplitPanels}
    if dtype in laid_out and isinstance(value, laid_out[dtype]):
        return
    _tensor(op, name, value, 2, dtype, anywhere=True)


def _panels(op: str, name: str, value: Any) -> None:
    if not isinstance(value, Panels | SplitPanels):
        message = f"{op}: {name} is a {type(value).__name__}, expected Panels or SplitPanels"
        raise DTypeError(message)


def _memory(name: str, value: Tensor | Panels | SplitPanels) -> Iterator[tuple[str, Any]]:
    """Yield the arrays that a tensor or a weight that is laid out consists of, each with a name."""
    if isinstance(value, SplitPanels):
        for number, part in enumerate(value.parts, start=1):
            label = f"part {number} of {name}"
            yield label, _bytes(part.data, label)
    else:
        yield name, _bytes(value.data if isinstance(value, Panels) else value, name)


def _bytes(tensor: Tensor, name: str = "") -> Any:
    """Return the memory of a tensor as integers of the size of its elements."""
    return shadows.view(name, tensor, np.dtype(f"i{tensor.element_size()}"))


def _given(op: str, chosen: backends.Backend, *values: Any) -> list[Any] | tuple[Any, ...]:
    """Return what the backend gets: arrays, and the tensors of its device that shadows stand for."""
    shadowed = [value for value in values if type(value) is Shadow]
    if not shadowed:
        return values
    for one in shadowed:
        device = one.tensor.device
        if device.type != chosen.device or op not in chosen.on_device:
            message = (
                f"{op}: {one.name} lies on {device}, expected cpu for the backend {chosen.name!r}"
            )
            raise DTypeError(message)
        if device != shadowed[0].tensor.device:
            first = shadowed[0]
            message = f"{op}: {one.name} lies on {device}, {first.name} on {first.tensor.device}"
            raise DTypeError(message)
    return [value.tensor if type(value) is Shadow else value for value in values]


def _same(op: str, name: str, value: Any, expected: tuple[int | None, ...], what: str) -> None:
    shape = tuple(value.shape)
    if len(shape) == len(expected) and all(
        want is None or want == length for length, want in zip(shape, expected, strict=True)
    ):
        return
    wanted = ", ".join(
        str(length if want is None else want) for length, want in zip(shape, expected, strict=True)
    )
    message = f"{op}: {name} has shape {_shape(value)}, expected [{wanted}] ({what})"
    raise ShapeError(message)


def _range(op: str, name: str, value: Any, least: int, most: int) -> None:
    if value.size == 0:
        return
    low, high = held.made_of(value, "range", lambda: (int(value.min()), int(value.max())))
    if low < least or high > most:
        message = f"{op}: {name} has values from {low} to {high}, expected {least} to {most}"
        raise ShapeError(message)


def _room(op: str, name: str, counters: Any, rows: int) -> None:
    """Refuse counters of the host to which so many rows could add more than they hold.

    A call adds less than 2**31; what a scan counts begins at 0 and never comes near. 0.4 ms for
    2,048 rows of 1,024 counters of 16 bits that nobody has touched yet, a tenth of what it takes to
    count 524,288 rows into them; within the noise for `ngram_coverage` (Sapphire Rapids class, one
    core).
    """
    if type(counters) is Shadow or counters.size == 0:
        return
    most = int(np.iinfo(counters.dtype).max)
    highest = int(counters.max())
    if highest > most - rows:
        message = (
            f"{op}: {name} holds {highest}, and {rows} rows could be added: {counters.dtype} ends at "
            f"{most}, and counters never wrap"
        )
        raise IntegrityError(message)


def _number(op: str, name: str, value: Any, least: int, most: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        message = f"{op}: {name} is a {type(value).__name__}, expected an int"
        raise DTypeError(message)
    if value < least or (most is not None and value > most):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        message = f"{op}: {name} is {value}, expected {wanted}"
        raise ShapeError(message)
    return int(value)


def _threads(op: str, threads: int) -> int:
    return _number(op, "threads", threads, 1, 1024)


def _first_shorter(segments: Any) -> int | None:
    """Return the first segment that is shorter than the one before it."""
    return held.made_of(segments, "shorter", lambda: _find_shorter(segments))


def _find_shorter(segments: Any) -> int | None:
    for start in range(0, len(segments) - 1, _CHECKED):
        lengths = np.diff(segments[start : start + _CHECKED + 2])
        if np.any(lengths[1:] < lengths[:-1]):
            return start + int(np.argmax(lengths[1:] < lengths[:-1])) + 1
    return None


def _bounds(
    op: str, name: str, value: Any, last: int, *, whole: bool, ascends: bool = False
) -> None:
    """Bounds of consecutive pieces: from 0 up to `last`, or (not whole) anywhere below it.

    ``ascends``: that they do not decrease is known.
    """
    if len(value) == 0:
        message = f"{op}: {name} is empty, expected one element or more"
        raise ShapeError(message)
    first, end = int(value[0]), int(value[-1])
    good = first == 0 and end == last if whole else first >= 0 and end <= last
    if not good:
        wanted = f"from 0 to {last}" if whole else f"within 0 to {last}"
        message = f"{op}: {name} goes from {first} to {end}, expected {wanted}"
        raise ShapeError(message)
    where = None if ascends else held.made_of(value, "decreases", lambda: _find_decrease(value))
    if where is not None:
        message = f"{op}: {name} decreases at {where}"
        raise ShapeError(message)


def _find_decrease(value: Any) -> int | None:
    for start in range(0, len(value) - 1, _CHECKED):
        some = value[start : start + _CHECKED + 1]
        if np.any(some[1:] < some[:-1]):
            return start + int(np.argmax(some[1:] < some[:-1])) + 1
    return None


def _mask_and_order(op: str, mask: Any, order: Any) -> tuple[Any, Any, int]:
    """Check both and return them with M, the number of rows that they name."""
    mask = _matrix(op, "mask", mask, np.uint32)
    if len(mask) >= 2**31:
        message = f"{op}: mask has {len(mask)} rows, expected fewer than 2**31"
        raise ShapeError(message)
    if order is None:
        return mask, None, len(mask)
    order = _vector(op, "order", order, np.int32, on_host=True)
    if len(order) >= 2**31:
        message = f"{op}: order has {len(order)} elements, expected fewer than 2**31"
        raise ShapeError(message)
    _range(op, "order", order, 0, len(mask) - 1)
    return mask, order, len(order)


def _segments(op: str, segments: Any, rows: int) -> Any:
    segments = _vector(op, "segments", segments, np.int64, on_host=True)
    _bounds(op, "segments", segments, last=rows, whole=False)
    return segments


def _neurons(op: str, name: str, neurons: int, mask: Any) -> None:
    words = mask.shape[1]
    if neurons > 32 * words:
        message = (
            f"{op}: {name} is for {neurons} neurons, expected at most {32 * words} "
            f"(mask has shape {_shape(mask)})"
        )
        raise ShapeError(message)


def _no_overlap(op: str, outputs: dict[str, Any], inputs: dict[str, Any]) -> None:
    names = list(outputs)
    for index, name in enumerate(names):
        others = {**inputs, **{later: outputs[later] for later in names[index + 1 :]}}
        for other, value in others.items():
            if value is not None and np.may_share_memory(outputs[name], value):
                message = f"{op}: {name} overlaps {other}, expected memory of its own"
                raise ShapeError(message)
