"""Launchers of the feed-forward block in Triton: tensors of one device in, nothing waited for."""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from pyneurons.backends import triton_tiles
from pyneurons.backends.float32_sums import float32_sums
from pyneurons.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pyneurons.backends.triton_tiles import Tiles

FINITE: Final = 2**63 - 1
"""What stands for the first pre-activation that is not finite where there is none."""

PACKED: Final = 64
"""Neurons of a tile of `pack_kernel`: with 128, 183 registers let one program run at a time on sm_90."""

Route: TypeAlias = Literal["fused", "torch"]
"""How fc1 is multiplied: in one kernel with all that is kept of it, or by torch and packed after it."""


def capability(device: Any) -> int:
    """Return the compute capability of a device as 80, 90, ...; 0 for the interpreter."""
    import torch

    if device.type == "cpu":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def multiprocessors(device: Any) -> int:
    """Return how many programs with all registers run at a time; 3 in the interpreter."""
    import torch

    if device.type == "cpu":
        return 3
    number: int = torch.cuda.get_device_properties(device).multi_processor_count
    return number


def stored_tiles(x: Tensor, neurons: int) -> Tiles:
    """Return the stored tiles for a block that reads ``x`` [M, D]."""
    return triton_tiles.entry(capability(x.device), x.element_size(), x.shape[1], neurons).tiles


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
    route: Route = "fused",
    cut: Tiles | None = None,
) -> Tensor:
    """`pyneurons.ops.ffn` in float32, bfloat16 or float16.

    Parameters
    ----------
    x, fc1_weight, fc1_bias, fc2_weight, fc2_bias, residual, mask, z_max
        As there.
    skip : bool
        Whether fc2 leaves out tiles of neurons that are silent in a whole block of rows. The bits
        are the same.
    route : "fused" or "torch"
        "fused": one kernel multiplies, and looks at its float32 sums. "torch": ``torch.addmm`` (on a
        CUDA device cuBLASLt, which adds the bias to its float32 sums) writes z in the compute dtype,
        and a second kernel reads it once, which costs 4.5 % of the time of fc1 at 6.7b's shape and
        1.9 % at 66b's (computed). Which of them is faster: `pyneurons.backends.triton_measure`.
    cut : Tiles, optional
        Instead of the stored ones.

    Returns
    -------
    Tensor, int64 []
        The smallest ``row * F + neuron`` whose pre-activation is not finite, or `FINITE`. The
        outputs hold what came of it.

    Raises
    ------
    ShapeError, DTypeError
        If ``cut`` is of the variant "tma" and the tensors cannot be read so (`Tiles`).

    Notes
    -----
    Sums are float32, in tiles of ascending terms; within a tile the order is that of the tensor
    cores. A row depends on itself alone. Scratch: h, [M, F] in the compute dtype.

    By the route "torch" the order of sums is that of the library, and z is seen after it was rounded.
    So a bit is lost where z is above 0 and is rounded to 0: in float16 up to 2**-25, in bfloat16 up to
    2**-134, where h is 0 by either route. ``z_max`` is the largest rounded z. In float16 a z that
    is rounded to infinity, from 65,520 on, is named as not finite; by the route "fused" it is not,
    and its h is infinite.
    """
    import torch

    device = x.device
    rows, _ = x.shape
    neurons, outer = fc1_weight.shape[0], residual.shape[1]
    strips, _, strip_words = mask.shape
    used = -(-neurons // 32)
    if used < strips * strip_words:
        mask[-1, :, used - (strips - 1) * strip_words :] = 0
    wrong = torch.full((), FINITE, dtype=torch.int64, device=device)
    if rows == 0:
        return wrong
    cut = cut or stored_tiles(x, neurons)
    h = torch.empty(0 if fc2_weight is None else rows, neurons, dtype=x.dtype, device=device)
    alive = torch.empty(-(-rows // cut.block_m), used, dtype=torch.int32, device=device)
    up(x, fc1_weight, fc1_bias, h, mask, z_max, alive, wrong, route=route, cut=cut)
    if fc2_weight is not None and outer > 0:
        down(h, fc2_weight, fc2_bias, residual, alive, skip=skip, cut=cut)
    return wrong


def up(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    h: Tensor,
    mask: Tensor,
    z_max: Tensor,
    alive: Tensor,
    wrong: Tensor,
    *,
    route: Route,
    cut: Tiles,
) -> None:
    """Multiply by fc1, and keep what is kept of the sums.

    Parameters
    ----------
    x, fc1_weight, fc1_bias, mask, z_max, route, cut
        As of `ffn`.
    h : Tensor, compute dtype, [M, F]
        Overwritten with ``max(z, 0)``; with no rows it is not needed.
    alive : Tensor, int32, [ceil(M / block_m), ceil(F / 32)]
        Overwritten with the OR of the mask's words over the rows of a block.
    wrong : Tensor, int64, []
        Lowered to the smallest ``row * F + neuron`` whose pre-activation is not finite.
    """
    if route == "torch":
        _up_by_torch(x, fc1_weight, fc1_bias, h, mask, z_max, alive, wrong, cut)
        return
    rows, inner = x.shape
    neurons = fc1_weight.shape[0]
    tensors = (x, fc1_weight, fc1_bias, h, mask, z_max, alive, wrong)
    sizes = (rows, neurons, inner, x.stride(0), fc1_weight.stride(0), h.stride(0))
    number_of_tiles = -(-rows // cut.block_m) * -(-neurons // cut.block_n)
    has = {"HAS_BIAS": fc1_bias is not None, "HAS_H": len(h) > 0}
    strides = (mask.stride(0), mask.stride(1), mask.shape[2])
    if cut.variant == "tma":
        from pyneurons.kernels import ffn_tma

        _check_tma(cut, {"x": x, "fc1_weight": fc1_weight, "h": h})
        programs = min(number_of_tiles, multiprocessors(x.device))
        launch = ffn_tma.ffn_up_tma_kernel[programs,]
        arguments = (*tensors, *sizes, *strides)
        _with_descriptors(partial(launch, *arguments, **has, **_options(cut, x)), x.device)
        return
    from pyneurons.kernels import ffn as kernels

    kernels.ffn_up_kernel[number_of_tiles,](
        *tensors, *sizes, *strides, **has, WHOLE_K=inner % cut.block_k == 0, **_options(cut, x)
    )


def _up_by_torch(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    h: Tensor,
    mask: Tensor,
    z_max: Tensor,
    alive: Tensor,
    wrong: Tensor,
    cut: Tiles,
) -> None:
    import torch

    from pyneurons.kernels import ffn as kernels

    rows, neurons = len(x), fc1_weight.shape[0]
    z = h if len(h) else torch.empty(rows, neurons, dtype=x.dtype, device=x.device)
    with torch.no_grad(), float32_sums():
        if fc1_bias is None:
            torch.mm(x, fc1_weight.T, out=z)
        else:
            torch.addmm(fc1_bias, x, fc1_weight.T, out=z)
    block_n = min(PACKED, cut.block_n)
    kernels.pack_kernel[-(-rows // cut.block_m) * -(-neurons // block_n),](
        z,
        mask,
        z_max,
        alive,
        wrong,
        rows,
        neurons,
        z.stride(0),
        mask.stride(0),
        mask.stride(1),
        mask.shape[2],
        HAS_H=len(h) > 0,
        BLOCK_M=cut.block_m,
        BLOCK_N=block_n,
        num_warps=cut.warps,
    )


def down(
    h: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    residual: Tensor,
    alive: Tensor,
    *,
    skip: bool,
    cut: Tiles,
) -> None:
    """Add ``h @ fc2_weight.T + fc2_bias`` to the residual; arguments as of `ffn` and `up`."""
    rows, neurons = h.shape
    outer = residual.shape[1]
    listed, number = live_tiles(alive, -(-neurons // cut.block_k), cut, skip=skip)
    tensors = (h, fc2_weight, fc2_bias, residual, listed, number)
    sizes = (rows, outer, neurons, listed.shape[1])
    strides = (h.stride(0), fc2_weight.stride(0), residual.stride(0))
    number_of_tiles = len(listed) * -(-outer // cut.block_n)
    has_bias = fc2_bias is not None
    # The place of a tile is loaded as well, before what lies there: half of the stages go to that.
    options = _options(cut, h) | {"num_stages": 2 * cut.stages - 1}
    if cut.variant == "tma":
        from pyneurons.kernels import ffn_tma

        _check_tma(cut, {"h": h, "fc2_weight": fc2_weight})
        programs = min(number_of_tiles, multiprocessors(h.device))
        launch = ffn_tma.ffn_down_tma_kernel[programs,]
        arguments = (*tensors, *sizes, *strides)
        _with_descriptors(partial(launch, *arguments, HAS_BIAS=has_bias, **options), h.device)
        return
    from pyneurons.kernels import ffn as kernels

    kernels.ffn_down_kernel[number_of_tiles,](
        *tensors,
        *sizes,
        *strides,
        HAS_BIAS=has_bias,
        WHOLE_K=neurons % cut.block_k == 0,
        **options,
    )


def live_tiles(
    alive: Tensor, number_of_tiles: int, cut: Tiles, *, skip: bool
) -> tuple[Tensor, Tensor]:
    """List for each block of rows the tiles of ``block_k`` neurons of which one fires in it.

    Returns
    -------
    listed : Tensor, int32, [blocks, tiles]
        Ascending; all of them where nothing is to be left out.
    number : Tensor, int32, [blocks]
        How many of them there are.
    """
    import torch

    from pyneurons.kernels import ffn as kernels

    blocks, words = alive.shape
    if not skip:
        every = torch.arange(number_of_tiles, dtype=torch.int32, device=alive.device)
        number = torch.full((blocks,), number_of_tiles, dtype=torch.int32, device=alive.device)
        return every.repeat(blocks, 1), number
    listed = torch.empty(blocks, number_of_tiles, dtype=torch.int32, device=alive.device)
    number = torch.empty(blocks, dtype=torch.int32, device=alive.device)
    kernels.live_tiles_kernel[blocks,](
        alive,
        listed,
        number,
        words,
        number_of_tiles,
        WORDS_PER_TILE=cut.block_k // 32,
        BLOCK=1 << (number_of_tiles - 1).bit_length(),
    )
    return listed, number


def _options(cut: Tiles, x: Tensor) -> dict[str, Any]:
    return {
        "BLOCK_M": cut.block_m,
        "BLOCK_N": cut.block_n,
        "BLOCK_K": cut.block_k,
        "BAND": cut.band,
        "INTERPRETED": x.device.type == "cpu",
        "num_warps": cut.warps,
        "num_stages": cut.stages,
    }


def _check_tma(cut: Tiles, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.element_size() != 2:
            message = f"ffn: the variant 'tma' is for 16-bit elements, {name} has {tensor.dtype}"
            raise DTypeError(message)
        if not cut.fits(2, tensor.stride(0)) or tensor.data_ptr() % 16:
            message = (
                f"ffn: the variant 'tma' reads rows that begin at multiples of 16 bytes; {name} has "
                f"rows {2 * tensor.stride(0)} bytes apart, the first "
                f"{tensor.data_ptr() % 16} bytes beyond one"
            )
            raise ShapeError(message)


def _with_descriptors(launch: Callable[[], None], device: Any) -> None:
    """Launch with memory for the descriptors that the programs make, 128 bytes each.

    In a context of its own: the caller's allocator, if there is one, stays as it is.
    """
    import torch
    import triton

    def allocate(size: int, _alignment: int, _stream: int | None) -> Tensor:
        # torch's memory begins at multiples of 512 bytes, and is used again in the stream's order.
        return torch.empty(size, dtype=torch.int8, device=device)

    def run() -> None:
        triton.set_allocator(allocate)
        launch()

    copy_context().run(run)
