"""Triton kernels as a backend: compiled on a CUDA device, or in Triton's interpreter on the CPU.

The interpreter (``TRITON_INTERPRET=1`` before the first use) is for tests: it makes NumPy calls of
every step of every program, and runs one op at a time.

Two floors. The launchers (functions of this module) take tensors of one device, words and counters
as signed integers, and wait for nothing; CPU tensors go to the interpreter. The backend takes what
`pyneurons.ops` has, NumPy arrays and CPU tensors: the interpreter works in their memory; to a device
they are copied, and the outputs copied back.

Not there yet: ops on tensors that lie on the device, the ops that `load` refuses by name, variants
for Hopper's tensor memory accelerator, and configurations that were measured (those here are chosen
from compiled code).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.backends import Backend, Op
from pyneurons.errors import BackendUnavailable, NonFiniteError
from pyneurons.panels import Panels, SplitPanels
from pyneurons.reference import check_remainder, non_finite

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pyneurons.reference import Counts, Ids, Ints, Keys, Order, Words

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

FINITE: Final = 2**63 - 1
"""What stands for the first pre-activation that is not finite where there is none."""


@dataclass(frozen=True)
class Tiles:
    """How the two products of `ffn` are cut: rows, columns and terms of a tile, and how it runs."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    band: int = 8


def tiles(capability: int, itemsize: int) -> Tiles:
    """Return the tiles for a device of this compute capability (see below) and size of elements.

    128 x 128 with 8 warps is the largest tile whose epilogue keeps its sums in registers on 80 and
    on 90; ``bench/results/triton-*.md`` lists what each kernel takes. In the interpreter they are
    small enough that tests have several along each axis.
    """
    if capability == 0:
        return Tiles(64, 64, 32, warps=1, stages=1)
    if itemsize == 4:
        return Tiles(64, 64, 32, warps=4, stages=3)
    return Tiles(128, 128, 64, warps=8, stages=4 if capability >= 90 else 3)


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


# --- launchers ------------------------------------------------------------------------------------


def capability(device: Any) -> int:
    """Return the compute capability of a device as 80, 90, ...; 0 for the interpreter."""
    import torch

    if device.type == "cpu":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


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
    first, stop, segment = (_on(device, part) for part in parts)
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
    bounds = _on(device, segments)
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


def ffn(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor | None,
    fc2_bias: Tensor | None,
    residual: Tensor,
    mask: Tensor,
    z_max: Tensor,
    *,
    skip: bool = True,
) -> Tensor:
    """`pyneurons.ops.ffn` in float32, bfloat16 or float16.

    Parameters
    ----------
    x, fc1_weight, fc1_bias, fc2_weight, fc2_bias, residual, mask, z_max
        As there.
    skip : bool
        Whether fc2 leaves out tiles of neurons that are silent in a whole block of rows. The bits
        are the same.

    Returns
    -------
    Tensor, int64 []
        The smallest ``row * F + neuron`` whose pre-activation is not finite, or `FINITE`. The
        outputs hold what came of it.

    Notes
    -----
    Sums are float32, in tiles of ascending terms; within a tile the order is that of the tensor
    cores. A row depends on itself alone. Scratch: h, [M, F] in the compute dtype.
    """
    import torch

    from pyneurons.kernels import ffn as kernels

    device = x.device
    rows, inner = x.shape
    neurons, outer = fc1_weight.shape[0], residual.shape[1]
    strips, _, strip_words = mask.shape
    used = -(-neurons // 32)
    if used < strips * strip_words:
        mask[-1, :, used - (strips - 1) * strip_words :] = 0
    wrong = torch.full((), FINITE, dtype=torch.int64, device=device)
    if rows == 0:
        return wrong
    cut = tiles(capability(device), x.element_size())
    how = {
        "BLOCK_M": cut.block_m,
        "BLOCK_N": cut.block_n,
        "BLOCK_K": cut.block_k,
        "BAND": cut.band,
        "INTERPRETED": device.type == "cpu",
        "num_warps": cut.warps,
        "num_stages": cut.stages,
    }
    blocks = -(-rows // cut.block_m)
    alive = torch.empty(blocks, used, dtype=torch.int32, device=device)
    h = torch.empty(0 if fc2_weight is None else rows, neurons, dtype=x.dtype, device=device)
    kernels.ffn_up_kernel[blocks * -(-neurons // cut.block_n),](
        x,
        fc1_weight,
        fc1_bias,
        h,
        mask,
        z_max,
        alive,
        wrong,
        rows,
        neurons,
        inner,
        x.stride(0),
        fc1_weight.stride(0),
        h.stride(0),
        mask.stride(0),
        mask.stride(1),
        strip_words,
        HAS_BIAS=fc1_bias is not None,
        HAS_H=fc2_weight is not None,
        WHOLE_K=inner % cut.block_k == 0,
        **how,
    )
    if fc2_weight is None or outer == 0:
        return wrong
    number_of_tiles = -(-neurons // cut.block_k)
    if skip:
        listed = torch.empty(blocks, number_of_tiles, dtype=torch.int32, device=device)
        number = torch.empty(blocks, dtype=torch.int32, device=device)
        kernels.live_tiles_kernel[blocks,](
            alive,
            listed,
            number,
            used,
            number_of_tiles,
            WORDS_PER_TILE=cut.block_k // 32,
            BLOCK=1 << (number_of_tiles - 1).bit_length(),
        )
    else:
        every = torch.arange(number_of_tiles, dtype=torch.int32, device=device)
        listed = every.repeat(blocks, 1)
        number = torch.full((blocks,), number_of_tiles, dtype=torch.int32, device=device)
    kernels.ffn_down_kernel[blocks * -(-outer // cut.block_n),](
        h,
        fc2_weight,
        fc2_bias,
        residual,
        listed,
        number,
        rows,
        outer,
        neurons,
        number_of_tiles,
        h.stride(0),
        fc2_weight.stride(0),
        residual.stride(0),
        HAS_BIAS=fc2_bias is not None,
        WHOLE_K=neurons % cut.block_k == 0,
        **how,
    )
    return wrong


# --- the backend ----------------------------------------------------------------------------------


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
        there = _on(self.device, _signed(counts))
        rows = None if order is None else _on(self.device, order)
        segment_counts(_on(self.device, _signed(mask)), rows, segments, there)
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
        there = _on(self.device, keys)
        ngram_keys(_on(self.device, ids), _on(self.device, starts), n, bits, boundary_id, there)
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
        rows = None if order is None else _on(self.device, order)
        words = _on(self.device, _signed(mask))
        rest = ngram_coverage(
            words, rows, segments, _on(self.device, fires), added, added_large
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
        words = _on(self.device, _signed(mask))
        optional = (_plain(one) for one in (fc1_bias, fc2_weight, fc2_bias))
        bias1, fc2, bias2 = (None if one is None else one.to(self.device) for one in optional)
        fc1 = _plain(fc1_weight).to(self.device)
        stream, highest = residual.to(self.device), z_max.to(self.device)
        with np.errstate(over="ignore", invalid="ignore"):  # of the interpreter
            wrong = int(ffn(x.to(self.device), fc1, bias1, fc2, bias2, stream, words, highest))
        if wrong != FINITE:
            raise NonFiniteError(non_finite(*divmod(wrong, fc1_weight.shape[0])))
        _back(words, mask)
        if self.device.type != "cpu":
            residual.copy_(stream)
            z_max.copy_(highest)


def _on(device: Any, array: npt.NDArray[Any]) -> Tensor:
    """Return an array on the device; on the CPU what may be written is not copied."""
    import torch

    writable = array if array.flags.writeable else array.copy()  # torch warns of the others
    return torch.from_numpy(writable).to(device)


def _back(tensor: Tensor, array: npt.NDArray[Any]) -> None:
    if tensor.device.type != "cpu":
        array[...] = tensor.cpu().numpy().view(array.dtype)


def _signed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return words or counters as signed integers, which shift, count and wrap alike here."""
    return array.view(f"i{array.itemsize}")


def _plain(weight: Any) -> Any:
    """Return a weight that is laid out as it was, and anything else as it is."""
    return weight.weight() if isinstance(weight, Panels | SplitPanels) else weight
