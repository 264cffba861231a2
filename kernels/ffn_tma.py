"""The two products of `ffn` for Hopper: operands by the tensor memory accelerator, programs that stay.

Every tile is read, and h written, through a descriptor: what lies outside of a matrix reads as 0 and
is not written. A program takes every so many'th tile instead of one, so that there are as many as
fit the device.
"""

import triton
import triton.language as tl

from pyneurons.kernels.ffn import keep_statistics, tile_of


@triton.jit
def ffn_up_tma_kernel(
    x_ptr,  # [M, D]
    weight_ptr,  # [F, D]
    bias_ptr,  # [F], read where HAS_BIAS
    h_ptr,  # [M, F], written where HAS_H
    mask_ptr,  # int32 [strips, M, strip_words]
    z_max_ptr,  # float32 [F]
    alive_ptr,  # int32 [ceil(M / BLOCK_M), ceil(F / 32)]
    wrong_ptr,  # int64 [1]
    rows,
    neurons,
    inner,
    stride_x,
    stride_weight,
    stride_h,
    stride_strip,
    stride_mask,
    strip_words,
    HAS_BIAS: tl.constexpr,
    HAS_H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """`ffn_up_kernel`, with the same outputs."""
    x_tiles = tl.make_tensor_descriptor(
        x_ptr, [rows, inner], [stride_x.to(tl.int64), 1], [BLOCK_M, BLOCK_K]
    )
    weight_tiles = tl.make_tensor_descriptor(
        weight_ptr, [neurons, inner], [stride_weight.to(tl.int64), 1], [BLOCK_N, BLOCK_K]
    )
    if HAS_H:
        h_tiles = tl.make_tensor_descriptor(
            h_ptr, [rows, neurons], [stride_h.to(tl.int64), 1], [BLOCK_M, BLOCK_N]
        )
    tiles = tl.cdiv(rows, BLOCK_M) * tl.cdiv(neurons, BLOCK_N)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        block_m, block_n = tile_of(tile, BAND, rows, neurons, BLOCK_M, BLOCK_N)
        z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for start in range(0, inner, BLOCK_K):
            x = x_tiles.load([block_m * BLOCK_M, start])
            weight = weight_tiles.load([block_n * BLOCK_N, start])
            if INTERPRETED:
                x = x.to(tl.float32)
                weight = weight.to(tl.float32)
            z = tl.dot(x, weight.T, z, input_precision="ieee")
        row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
        neuron = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
        if HAS_BIAS:
            bias = tl.load(bias_ptr + neuron, mask=neuron < neurons, other=0.0)
            z += bias.to(tl.float32)[None, :]
        inside = (row < rows)[:, None] & (neuron < neurons)[None, :]
        fires = (z > 0) & inside
        if HAS_H:
            h = tl.where(fires, z, 0.0)
            if INTERPRETED:
                if h_ptr.dtype.element_ty == tl.bfloat16:
                    bits = h.to(tl.int32, bitcast=True)
                    even = (bits >> 16) & 1
                    h = ((bits + 0x7FFF + even) & -0x10000).to(tl.float32, bitcast=True)
            h_tiles.store([block_m * BLOCK_M, block_n * BLOCK_N], h.to(h_ptr.dtype.element_ty))
        keep_statistics(
            z,
            fires,
            inside,
            block_m,
            block_n,
            mask_ptr,
            z_max_ptr,
            alive_ptr,
            wrong_ptr,
            rows,
            neurons,
            stride_strip,
            stride_mask,
            strip_words,
            BLOCK_M,
            BLOCK_N,
        )


@triton.jit
def ffn_down_tma_kernel(
    h_ptr,  # [M, F]
    weight_ptr,  # [D_out, F]
    bias_ptr,  # [D_out], read where HAS_BIAS
    residual_ptr,  # float32 [M, D_out], accumulated into
    tiles_ptr,  # int32 [ceil(M / BLOCK_M), tiles], ascending
    number_ptr,  # int32 [ceil(M / BLOCK_M)]
    rows,
    outer,
    neurons,
    tiles,
    stride_h,
    stride_weight,
    stride_residual,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """`ffn_down_kernel`, with the same outputs."""
    h_tiles = tl.make_tensor_descriptor(
        h_ptr, [rows, neurons], [stride_h.to(tl.int64), 1], [BLOCK_M, BLOCK_K]
    )
    weight_tiles = tl.make_tensor_descriptor(
        weight_ptr, [outer, neurons], [stride_weight.to(tl.int64), 1], [BLOCK_N, BLOCK_K]
    )
    for tile in range(
        tl.program_id(0), tl.cdiv(rows, BLOCK_M) * tl.cdiv(outer, BLOCK_N), tl.num_programs(0)
    ):
        block_m, block_n = tile_of(tile, BAND, rows, outer, BLOCK_M, BLOCK_N)
        y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        list_ptr = tiles_ptr + block_m.to(tl.int64) * tiles
        for i in range(tl.load(number_ptr + block_m)):
            start = tl.load(list_ptr + i) * BLOCK_K
            h = h_tiles.load([block_m * BLOCK_M, start])
            weight = weight_tiles.load([block_n * BLOCK_N, start])
            if INTERPRETED:
                h = h.to(tl.float32)
                weight = weight.to(tl.float32)
            y = tl.dot(h, weight.T, y, input_precision="ieee")
        row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
        column = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
        if HAS_BIAS:
            bias = tl.load(bias_ptr + column, mask=column < outer, other=0.0)
            y += bias.to(tl.float32)[None, :]
        inside = (row < rows)[:, None] & (column < outer)[None, :]
        at = residual_ptr + row[:, None].to(tl.int64) * stride_residual + column[None, :]
        tl.store(at, tl.load(at, mask=inside, other=0.0) + y, mask=inside)
