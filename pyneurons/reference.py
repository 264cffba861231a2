"""Every op in plain NumPy and torch: slow, obvious, the truth that the backends are held to.

The letters of all shapes in this project:

====  ============================================================================
N     rows: positions that were run, sequence after sequence
S     sequences
T     context, the longest sequence
D     hidden size of the model
F     feed-forward neurons of a layer, or of the strip that an op sees
V     vocabulary
L     layers
W     32-bit words in a row of a mask
M     rows that an `order` names, or rows of a block
n     order of an n-gram: how many tokens it has
G     distinct n-grams, each one segment of an order
====  ============================================================================

A *mask* holds one bit per (row, neuron): bit ``f % 32`` of word ``f // 32``, little endian, says
that neuron f fires, that is ``z > 0``. Bits past F are zero.

These functions take checked arguments; `pyneurons.ops` checks them.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pyneurons.errors import IntegrityError, NonFiniteError
from pyneurons.panels import Panels, SplitPanels

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Sums = Callable[["Floats", "Floats", "Floats"], "Floats"]

Words = npt.NDArray[np.uint32]
Order = npt.NDArray[np.int32] | None
Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64 | np.uint8 | np.uint16 | np.uint32]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

NO_NGRAM: Final = 2**64 - 1
"""The key of a row that ends no countable n-gram."""

_ALL: Final = 2**64 - 1


def pack(fires: Bools) -> Words:
    """Return the mask of a boolean matrix.

    Parameters
    ----------
    fires : ndarray of bool, [N, F]
        Whether neuron f fires on row n.

    Returns
    -------
    ndarray of uint32, [N, ceil(F / 32)]
        Bit ``f % 32`` of word ``f // 32`` is ``fires[n, f]``; bits past F are zero.
    """
    rows, neurons = fires.shape
    words = -(-neurons // 32)
    padded = np.zeros((rows, words, 32), dtype=np.uint64)
    padded.reshape(rows, words * 32)[:, :neurons] = fires
    weights = np.uint64(1) << np.arange(32, dtype=np.uint64)
    mask: Words = (padded * weights).sum(axis=2, dtype=np.uint64).astype(np.uint32)
    return mask


def unpack(mask: Words, neurons: int) -> Bools:
    """Return the boolean matrix of a mask, the inverse of `pack`.

    Parameters
    ----------
    mask : ndarray of uint32, [N, W]
        One bit per (row, neuron).
    neurons : int
        F, at most ``32 * W``.

    Returns
    -------
    ndarray of bool, [N, F]
    """
    shifts = np.arange(32, dtype=np.uint32)
    bits = (mask[:, :, np.newaxis] >> shifts) & np.uint32(1)
    return bits.reshape(mask.shape[0], mask.shape[1] * 32)[:, :neurons].astype(bool)


def _row_ids(mask: Words, order: Order) -> Ints:
    if order is None:
        return np.arange(mask.shape[0], dtype=np.int64)
    return order.astype(np.int64)


def segment_counts(mask: Words, order: Order, segments: Ints, counts: Counts) -> None:
    """Add to ``counts`` how often each neuron fires in each segment; see `pyneurons.ops`."""
    rows = _row_ids(mask, order)
    neurons = counts.shape[1]
    for segment in range(len(segments) - 1):
        members = rows[segments[segment] : segments[segment + 1]]
        counts[segment] += unpack(mask[members], neurons).sum(axis=0, dtype=counts.dtype)


def firing_rows(mask: Words, order: Order, rows: Ints, found: Ints) -> None:
    """Note the first rows on which each neuron fires; see `pyneurons.ops`."""
    neurons, limit = rows.shape
    visited = _row_ids(mask, order)
    for neuron in range(neurons):
        fires = (mask[visited, neuron // 32] >> np.uint32(neuron % 32)) & np.uint32(1)
        for row in visited[fires.astype(bool)]:
            if found[neuron] == limit:
                break
            rows[neuron, found[neuron]] = row
            found[neuron] += 1


def first_segments(
    mask: Words, order: Order, segments: Ints, count: Ints, found_segments: Ints32, found: Ints
) -> None:
    """Note the first segments with exactly so many fires; see `pyneurons.ops`."""
    neurons, limit = found_segments.shape
    visited = _row_ids(mask, order)
    for segment, (start, stop) in enumerate(itertools.pairwise(segments.tolist())):
        fires = unpack(mask[visited[start:stop]], neurons).sum(axis=0)
        for neuron in range(neurons):
            if fires[neuron] == count[neuron] and found[neuron] < limit:
                found_segments[neuron, found[neuron]] = segment
                found[neuron] += 1


def mix(key: int, token: int) -> int:
    """Return the hash of an n-gram one token longer: splitmix64 of ``key ^ (token + 1)``."""
    key = ((key ^ (token + 1)) + 0x9E3779B97F4A7C15) & _ALL
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _ALL
    return key ^ (key >> 31)


def ngram_keys(ids: Ids, starts: Ints, n: int, bits: int, boundary_id: int, keys: Keys) -> None:
    """Write the key of the n-gram that ends at each row; see `pyneurons.ops`."""
    tokens = ids.tolist()
    bounds = starts.tolist()
    for start, stop in itertools.pairwise(bounds):
        for row in range(start, stop):
            gram = tokens[row - n + 1 : row + 1] if row - start >= n - 1 else []
            key = NO_NGRAM
            if gram and boundary_id not in gram:
                key = 0
                if n * bits <= 64:
                    for token in gram:
                        key = (key << bits) | token
                else:
                    for token in gram:
                        key = mix(key, token)
                    key = min(key, NO_NGRAM - 1)
            keys[row] = key


def ngram_coverage(
    mask: Words, order: Order, segments: Ints, fires: Ints, histogram: Ints, large: Ints
) -> None:
    """Add to ``histogram`` on how many n-grams each neuron fires c times; see `pyneurons.ops`."""
    rows = _row_ids(mask, order)
    bins, neurons = histogram.shape[0] - 1, histogram.shape[1]
    lengths = np.diff(segments)
    first_large = len(lengths) - large.shape[0]
    added = np.zeros_like(histogram)
    added_large = np.zeros_like(large)
    rest = fires.copy()
    for segment in np.flatnonzero(lengths >= 2):
        members = rows[segments[segment] : segments[segment + 1]]
        count = unpack(mask[members], neurons).sum(axis=0, dtype=np.int64)
        rest -= count
        if lengths[segment] <= bins:
            for neuron in np.flatnonzero(count):
                added[count[neuron], neuron] += 1
        else:
            added_large[segment - first_large] += count
    singletons = int(np.count_nonzero(lengths == 1))
    check_remainder(rest, singletons)
    added[1] += rest
    histogram += added
    large += added_large


def check_remainder(rest: Ints, singletons: int) -> None:
    """Raise IntegrityError unless what is left for n-grams that occur once is 0 to their number."""
    wrong = np.flatnonzero((rest < 0) | (rest > singletons))
    if len(wrong):
        raise IntegrityError(contradicting_fires(int(wrong[0]), int(rest[wrong[0]]), singletons))


def contradicting_fires(neuron: int, rest: int, singletons: int) -> str:
    """Return the message about fires that do not add up."""
    return (
        f"ngram_coverage: fires[{neuron}] leaves {rest} fires for the {singletons} n-grams that "
        f"occur once; mask, order and fires contradict each other"
    )


def ngram_triggers(
    mask: Words,
    order: Order,
    segments: Ints,
    threshold: Ints,
    offsets: Ints,
    segment_of: Ints32,
    fires: Ints,
) -> None:
    """List, per neuron, the n-grams it fires on often enough; see `pyneurons.ops`."""
    rows = _row_ids(mask, order)
    neurons = len(threshold)
    lists: list[list[tuple[int, int]]] = [[] for _ in range(neurons)]
    for segment in range(len(segments) - 1):
        members = rows[segments[segment] : segments[segment + 1]]
        count = unpack(mask[members], neurons).sum(axis=0, dtype=np.int64)
        for which in np.flatnonzero(count >= threshold):
            lists[which].append((segment, int(count[which])))
    check_triggers(np.array([len(one) for one in lists], dtype=np.int64), offsets)
    for neuron, one in enumerate(lists):
        for k, (segment, count_of) in enumerate(one, start=int(offsets[neuron])):
            segment_of[k] = segment
            fires[k] = count_of


def check_triggers(found: Ints, offsets: Ints) -> None:
    """Raise IntegrityError unless each neuron has as many n-grams as its offsets leave room for."""
    wrong = np.flatnonzero(found != np.diff(offsets))
    if len(wrong):
        raise IntegrityError(contradicting_offsets(int(wrong[0]), int(found[wrong[0]]), offsets))


def contradicting_offsets(neuron: int, found: int, offsets: Ints) -> str:
    """Return the message about a list of n-grams that does not fill its place."""
    room = int(offsets[neuron + 1] - offsets[neuron])
    return (
        f"ngram_triggers: neuron {neuron} has {found} n-grams at its threshold, offsets leave room "
        f"for {room}"
    )


def ffn(
    x: Tensor,
    fc1_weight: Tensor | Panels | SplitPanels,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor | Panels | SplitPanels | None,
    fc2_bias: Tensor | None,
    residual: Tensor,
    mask: Words,
    z_max: Tensor,
    wrong: Tensor | None = None,
    *,
    sums: Sums | None = None,
) -> None:
    """Run one feed-forward block and keep who fired; see `pyneurons.ops`.

    float32 and float16 sum in float64 and round once; bfloat16 in the order of ``sums``, by default that
    of AMX. Nothing else is rounded but what fc2 reads.
    """
    import torch

    def linear(rows: Tensor, weight: Tensor | Panels | SplitPanels, bias: Tensor | None) -> Tensor:
        matrix = weight.weight() if isinstance(weight, Panels | SplitPanels) else weight
        if x.dtype != torch.bfloat16:
            y = rows.double() @ matrix.double().T
            return (y if bias is None else y + bias.double()).float()
        zero = np.zeros((len(rows), len(matrix)), dtype=np.float32)
        y = torch.from_numpy(
            (sums or paired_sum)(rows.float().numpy(), matrix.float().numpy().T, zero)
        )
        return y if bias is None else y + bias.float()

    z = linear(x, fc1_weight, fc1_bias)
    strips, rows, strip_words = mask.shape
    neurons = fc1_weight.shape[0]
    places = (~z.isfinite()).flatten().nonzero()
    if len(places):
        note_non_finite(int(places[0]), neurons, wrong)
    fires = np.zeros((rows, strips * strip_words * 32), dtype=bool)
    fires[:, :neurons] = (z > 0).numpy()
    mask[:] = pack(fires).reshape(rows, strips, strip_words).transpose(1, 0, 2)
    if rows:
        torch.maximum(z_max, z.amax(dim=0), out=z_max)
    if fc2_weight is not None:
        residual += linear(torch.where(z > 0, z, 0.0).to(x.dtype), fc2_weight, fc2_bias)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, out: Tensor
) -> None:
    """Write LayerNorm in float32, rounded to bfloat16; see `pyneurons.ops`."""
    import torch

    sums = 64

    def total(rows: Floats) -> Floats:
        """Element e goes to sum e % 64; then the second half is added to the first, and so on."""
        lanes = np.zeros((len(rows), sums), dtype=np.float32)
        for start in range(0, rows.shape[1], sums):
            some = rows[:, start : start + sums]
            lanes[:, : some.shape[1]] += some
        while lanes.shape[1] > 1:
            first, second = np.split(lanes, 2, axis=1)
            lanes = first + second
        return lanes

    values, size = x.numpy(), np.float32(x.shape[1])
    with np.errstate(invalid="ignore"):  # infinity less infinity
        apart = values - total(values) / size
        inverse = np.float32(1) / np.sqrt(total(apart * apart) / size + np.float32(epsilon))
        normed = apart * inverse
    if weight is not None:
        normed = normed * weight.numpy()
    if bias is not None:
        normed = normed + bias.numpy()
    out.copy_(torch.from_numpy(normed))


def attention(qkv: Tensor, starts: Ints, heads: int, out: Tensor, sums: Sums | None = None) -> None:
    """Attend causally, float32 sums in the order of ``sums``, by default AMX's; see `pyneurons.ops`.

    With c the scale times log2 e, the weight of a key is 2^(c s - m): m is c times the score of the
    first key at first. Keys go in blocks of 128 from the start of the sequence. The weights of a block
    have 16 sums, of which the i-th takes keys i and 16 + i of every 32. Where one of a query's is not
    65,536 or less, the query's m grows first, and its sums so far shrink with it:

        m' = max(m, max(c s));  l = l 2^(m - m');  o = o 2^(m - m');

    l += those sums;  o += bfloat16(p) @ v;  at the end out = bfloat16(o (1 / sum(l))), where l's halves
    are added until one is left.
    """
    import torch

    sums = sums or paired_sum
    block = 128
    width = out.shape[1]
    size = width // heads
    scale = np.float32(math.log2(math.e) / math.sqrt(size))
    for first, last in itertools.pairwise(starts.tolist()):
        if first == last:
            continue
        rows = qkv[first:last].float().numpy()
        position = np.arange(last - first)
        for head in range(heads):
            q, k, v = (rows[:, part * width + head * size :][:, :size] for part in range(3))
            maximum = sums(q, k[:1].T, np.zeros((last - first, 1), np.float32))[:, 0] * scale
            totals = np.zeros((last - first, 16), dtype=np.float32)
            o = np.zeros((last - first, size), dtype=np.float32)
            for start in range(0, last - first, block):
                keys, values = (np.zeros((block, size), dtype=np.float32) for _ in range(2))
                there = min(block, last - first - start)
                keys[:there], values[:there] = k[start:][:there], v[start:][:there]
                seen = position >= start  # the others have no key in this block
                scores = sums(q[seen], keys.T, np.zeros((len(q[seen]), block), np.float32))
                scores[np.arange(start, start + block) > position[seen, None]] = -np.inf
                p, partial = weights(scores, scale, maximum[seen])
                with np.errstate(invalid="ignore"):
                    large = ~(partial <= np.float32(65536)).all(axis=1)
                    most = np.fmax.reduce(scores, axis=1) * scale
                    grown = np.where(large & (most > maximum[seen]), most, maximum[seen])
                    shrink = np.where(large, power_of_two(maximum[seen] - grown), np.float32(1))
                maximum[seen] = grown
                p, partial = weights(scores, scale, grown)
                totals[seen] = totals[seen] * shrink[:, None] + partial
                rounded = torch.from_numpy(p).bfloat16().float().numpy()
                o[seen] = sums(rounded, values, o[seen] * shrink[:, None])
            while totals.shape[1] > 1:
                totals = totals[:, : totals.shape[1] // 2] + totals[:, totals.shape[1] // 2 :]
            result = torch.from_numpy(o * (np.float32(1) / totals)).bfloat16()
            out[first:last, head * size : (head + 1) * size] = result


def weights(scores: Floats, scale: np.float32, maximum: Floats) -> tuple[Floats, Floats]:
    """Return the weights of a block of keys, and of each query 16 sums of them; see `attention`."""
    p = power_of_two(multiply_add(scores, scale, -maximum[:, None]))
    partial = np.zeros((len(p), 16), dtype=np.float32)
    with np.errstate(over="ignore"):
        for first in range(0, p.shape[1], 32):
            partial += p[:, first : first + 16] + p[:, first + 16 : first + 32]
    return p, partial


SMALL_PRODUCTS: Final = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2))
"""Parts of x and of the weight whose products come before that of the largest two, in this order."""


def linear(
    x: Tensor,
    weight: Panels | SplitPanels,
    bias: Tensor | None,
    out: Tensor,
    sums: Sums | None = None,
) -> None:
    """Write or add ``x @ weight.T + bias``, in float32 by products of bfloat16 parts; see `pyneurons.ops`.

    ``sums`` is the order of sums in bfloat16, by default AMX's.
    """
    import torch

    if isinstance(weight, Panels):
        zero = np.zeros((len(x), weight.shape[0]), dtype=np.float32)
        terms = weight.weight().float().numpy().T
        y = torch.from_numpy((sums or paired_sum)(x.float().numpy(), terms, zero))
        y = y if bias is None else y + bias.float()
        if out.dtype == torch.float32:
            out += y
        else:
            out.copy_(y)
        return
    left = split(x.numpy())
    right = [part.weight().float().numpy().T for part in weight.parts]
    small = [(i, j) for i, j in SMALL_PRODUCTS if j < len(right)]
    total = np.zeros((len(x), weight.shape[0]), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.shape[1], 256):
            chunks = [
                slice(first, min(first + 32, x.shape[1]))
                for first in range(start, min(start + 256, x.shape[1]), 32)
            ]
            block = np.zeros_like(total)
            for products in (small, [(0, 0)]):
                for chunk in chunks:
                    for i, j in products:
                        block = flushed_paired_sum(left[i][:, chunk], right[j][chunk], block)
            total = flush(total + block)
        added = np.zeros(weight.shape[0], np.float32) if bias is None else flush(bias.numpy())
        out.copy_(torch.from_numpy(flush(total + added)))


def split(x: Floats) -> list[Floats]:
    """Return x as the sum of three, each the 16 leading bits of what is left; denormals are 0."""
    parts = []
    rest = flush(x)
    for _ in range(3):
        part = (rest.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        parts.append(part)
        with np.errstate(invalid="ignore"):
            rest = flush(rest - part)
    return parts


def flush(x: Floats) -> Floats:
    """Return x with zeros for its denormals."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def flushed_paired_sum(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return c + a @ b as `paired_sum` for at most 32 terms, denormals flushed at every step.

    Of fused multiply-adds: the sum of a product of two bfloat16 and a float32 is rounded to float64
    first, which changes the result of the rounding to float32 in no case.
    """
    even, odd = (np.zeros_like(c) for _ in range(2))
    for term in range(a.shape[1]):
        chain = odd if term % 2 else even
        factors = flush(a[:, term, None]).astype(np.float64) * flush(b[term])
        chain[:] = flush((factors + chain).astype(np.float32))
    return flush(c + flush(even + odd))


def paired_sum(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return c + a @ b in the order of AMX's TDPBF16PS.

    32 terms at a time, the even ones in one chain, the odd ones in another, their sum added to c.
    A product of two bfloat16 is exact in float32, so that fused or not is the same.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, a.shape[1], 32):
            even, odd = (np.zeros_like(c) for _ in range(2))
            for term in range(start, min(start + 32, a.shape[1])):
                chain = odd if term % 2 else even
                chain += a[:, term, None] * b[term]
            c = c + (even + odd)
    return c


def chained_sum(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return c + a @ b in the order of VDPBF16PS: of each pair of terms the second, then the first."""
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, a.shape[1], 2):
            for term in (start + 1, start):
                if term < a.shape[1]:
                    c = c + a[:, term, None] * b[term]
    return c


def multiply_add(a: Floats, b: Floats | np.float32, c: Floats) -> Floats:
    """Return a * b + c rounded once, as a fused multiply-add does.

    In float64 the product is exact and the sum nearly; where it is not, its last bit is made odd,
    and then a second rounding to float32 cannot meet a tie that was none.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.multiply(a, b, dtype=np.float64)
        wide = np.asarray(c, dtype=np.float64)
        rounded = product + wide
        other = rounded - product
        rest = (product - (rounded - other)) + (wide - other)
        even = rounded.view(np.int64) % 2 == 0
        nudged = np.nextafter(rounded, np.where(rest > 0, np.inf, -np.inf))
        found: Floats = np.where(np.isfinite(rest) & (rest != 0) & even, nudged, rounded).astype(
            np.float32
        )
        return found


def power_of_two(x: Floats) -> Floats:
    """Return 2^x by a polynomial of degree 3, relative error 9e-5; 0 below 2^-126."""
    with np.errstate(invalid="ignore", over="ignore"):
        bounded = np.minimum(np.maximum(x, np.float32(-200)), np.float32(128))  # NaN stays NaN
        whole = np.floor(bounded)
        part = bounded - whole
        value: Floats = np.full_like(part, 0.07706704)
        for coefficient in (0.227645, 0.69511676, 1.0):
            value = multiply_add(value, part, np.full_like(part, coefficient))
        power = np.nan_to_num(whole).astype(np.int32)
        return np.where(whole < -126, np.float32(0), np.ldexp(value, power))


def note_non_finite(place: int, neurons: int, wrong: Tensor | None) -> None:
    """Lower ``wrong`` to a place ``row * F + neuron``, or raise NonFiniteError where there is none."""
    if wrong is None:
        row, neuron = divmod(place, neurons)
        raise NonFiniteError(non_finite(row, neuron), (row, neuron))
    wrong.clamp_(max=place)


def non_finite(row: int, neuron: int) -> str:
    """Return the message about a pre-activation that is not a finite number."""
    return f"ffn: the pre-activation of neuron {neuron} on row {row} is not finite"
