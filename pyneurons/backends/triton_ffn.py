"""Launchers of the feed-forward block in Triton: tensors of one device in, nothing waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

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


def capability(device: Any) -> int:
    """Return the compute capability of a device as 80, 90, ...; 0 for the interpreter."""
    import torch

    if device.type == "cpu":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


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
