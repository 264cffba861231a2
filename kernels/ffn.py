"""The feed-forward block as two products; between them one bit per (row, neuron), and who is silent."""

import triton
import triton.language as tl


@triton.jit
def either(a, b):
    return a | b


@triton.jit
def tile_of(
    tile, ROWS_INNERMOST: tl.constexpr, rows, columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Return the blocks of a tile: bands of row blocks, so that both operands stay in L2."""
    blocks_m = tl.cdiv(rows, BLOCK_M)
    blocks_n = tl.cdiv(columns, BLOCK_N)
    band = tile // (ROWS_INNERMOST * blocks_n)
    first = band * ROWS_INNERMOST
    height = min(blocks_m - first, ROWS_INNERMOST)
    within = tile % (ROWS_INNERMOST * blocks_n)
    return first + within % height, within // height


@triton.jit
def keep_statistics(
    z,  # float32 [BLOCK_M, BLOCK_N]
    fires,  # z > 0, and inside
    inside,
    block_m,
    block_n,
    mask_ptr,  # int32 [strips, M, strip_words]
    z_max_ptr,  # float32 [F]
    alive_ptr,  # int32 [ceil(M / BLOCK_M), ceil(F / 32)]: the OR over the rows of a block
    wrong_ptr,  # int64 [1]: the smallest row * F + f whose z is not finite
    rows,
    neurons,
    stride_strip,
    stride_mask,
    strip_words,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write what is kept of a tile of pre-activations: bits, who is silent, maxima, what is wrong."""
    row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    neuron = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    WORDS: tl.constexpr = BLOCK_N // 32
    each = tl.reshape(fires.to(tl.int32), [BLOCK_M, WORDS, 32])
    packed = tl.sum(each << tl.arange(0, 32)[None, None, :], axis=2)
    word = block_n * WORDS + tl.arange(0, WORDS)
    real = word * 32 < neurons
    strip = (word // strip_words).to(tl.int64) * stride_strip + word % strip_words
    tl.store(
        mask_ptr + row[:, None].to(tl.int64) * stride_mask + strip[None, :],
        packed,
        mask=(row < rows)[:, None] & real[None, :],
    )
    alive_at = alive_ptr + block_m.to(tl.int64) * tl.cdiv(neurons, 32) + word
    tl.store(alive_at, tl.reduce(packed, 0, either), mask=real)

    # Maxima are taken of the bits as integers, among which -0 is the least: + 0 makes it 0.
    highest = tl.max(tl.where(inside, z, float("-inf")), axis=0) + 0.0
    tl.atomic_max(z_max_ptr + neuron, highest, mask=neuron < neurons, sem="relaxed")

    INFINITY: tl.constexpr = 0x7F800000
    magnitude = tl.where(inside, z.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)
    if tl.max(tl.max(magnitude, axis=1), axis=0) >= INFINITY:
        place = row[:, None].to(tl.int64) * neurons + neuron[None, :]
        place = tl.where(magnitude >= INFINITY, place, 0x7FFFFFFFFFFFFFFF)
        tl.atomic_min(wrong_ptr, tl.min(tl.min(place, axis=1), axis=0), sem="relaxed")


@triton.jit
def ffn_up_kernel(
    x_ptr,  # [M, D]
    weight_ptr,  # [F, D]
    bias_ptr,  # [F], read where HAS_BIAS
    h_ptr,  # [M, F], written where HAS_H
    mask_ptr,  # int32 [strips, M, strip_words]
    z_max_ptr,  # float32 [F]
    alive_ptr,  # int32 [ceil(M / BLOCK_M), ceil(F / 32)]: the OR over the rows of a block
    wrong_ptr,  # int64 [1]: the smallest row * F + f whose z is not finite
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
    WHOLE_K: tl.constexpr,  # D is a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """``z = x @ weight.T + bias`` in float32; a bit is ``z > 0``, ``h = max(z, 0)``.

    The interpreter multiplies bit patterns of bfloat16, and rounds to it towards 0: what goes around
    that is marked INTERPRETED.
    """
    block_m, block_n = tile_of(tl.program_id(0), BAND, rows, neurons, BLOCK_M, BLOCK_N)
    row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    neuron = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # What lies outside reads row 0 instead, and is left out below: loads without conditions.
    row_read = tl.where(row < rows, row, 0).to(tl.int64)
    neuron_read = tl.where(neuron < neurons, neuron, 0).to(tl.int64)
    x_at = x_ptr + row_read[:, None] * stride_x + k[None, :]
    weight_at = weight_ptr + neuron_read[:, None] * stride_weight + k[None, :]

    z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, inner, BLOCK_K):
        if WHOLE_K:
            x = tl.load(x_at)
            weight = tl.load(weight_at)
        else:
            x = tl.load(x_at, mask=(k < inner - start)[None, :], other=0.0)
            weight = tl.load(weight_at, mask=(k < inner - start)[None, :], other=0.0)
        if INTERPRETED:
            x = x.to(tl.float32)
            weight = weight.to(tl.float32)
        z = tl.dot(x, weight.T, z, input_precision="ieee")
        x_at += BLOCK_K
        weight_at += BLOCK_K
    if HAS_BIAS:
        z += tl.load(bias_ptr + neuron_read).to(tl.float32)[None, :]

    inside = (row < rows)[:, None] & (neuron < neurons)[None, :]
    fires = (z > 0) & inside
    if HAS_H:
        h = tl.where(fires, z, 0.0)
        if INTERPRETED:
            if h_ptr.dtype.element_ty == tl.bfloat16:
                bits = h.to(tl.int32, bitcast=True)
                even = (bits >> 16) & 1
                h = ((bits + 0x7FFF + even) & -0x10000).to(tl.float32, bitcast=True)
        h_at = h_ptr + row[:, None].to(tl.int64) * stride_h + neuron[None, :]
        tl.store(h_at, h.to(h_ptr.dtype.element_ty), mask=inside)

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
def pack_kernel(
    z_ptr,  # [M, F], becomes h where HAS_H
    mask_ptr,  # int32 [strips, M, strip_words]
    z_max_ptr,  # float32 [F]
    alive_ptr,  # int32 [ceil(M / BLOCK_M), ceil(F / 32)]
    wrong_ptr,  # int64 [1]
    rows,
    neurons,
    stride_z,
    stride_strip,
    stride_mask,
    strip_words,
    HAS_H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Keep of finished pre-activations what `ffn_up_kernel` keeps of its own; h takes their place."""
    blocks_n = tl.cdiv(neurons, BLOCK_N)
    block_m = tl.program_id(0) // blocks_n
    block_n = tl.program_id(0) % blocks_n
    row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    neuron = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < rows)[:, None] & (neuron < neurons)[None, :]
    at = z_ptr + row[:, None].to(tl.int64) * stride_z + neuron[None, :]
    z = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    fires = (z > 0) & inside
    if HAS_H:
        tl.store(at, tl.where(fires, z, 0.0).to(z_ptr.dtype.element_ty), mask=inside)
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
def live_tiles_kernel(
    alive_ptr,  # int32 [row blocks, words]
    tiles_ptr,  # int32 [row blocks, tiles]
    number_ptr,  # int32 [row blocks]
    words,
    tiles,
    WORDS_PER_TILE: tl.constexpr,
    BLOCK: tl.constexpr,  # at least tiles
):
    """List, ascending, the tiles of neurons of which one fires in the block of rows."""
    block = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, BLOCK)
    any_bit = tl.zeros([BLOCK], tl.int32)
    for j in tl.static_range(WORDS_PER_TILE):
        word = tile * WORDS_PER_TILE + j
        any_bit |= tl.load(alive_ptr + block * words + word, mask=word < words, other=0)
    live = (any_bit != 0).to(tl.int32)
    place = tl.cumsum(live, axis=0) - live
    tl.store(tiles_ptr + block * tiles + place, tile, mask=live != 0)
    tl.store(number_ptr + block, tl.sum(live, axis=0))


@triton.jit
def ffn_down_kernel(
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
    WHOLE_K: tl.constexpr,  # F is a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """``residual += h @ weight.T + bias``, over the listed tiles of BLOCK_K neurons.

    h is 0 in all others: to leave them out changes no bit.
    """
    block_m, block_n = tile_of(tl.program_id(0), BAND, rows, outer, BLOCK_M, BLOCK_N)
    row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    row_read = tl.where(row < rows, row, 0).to(tl.int64)
    column_read = tl.where(column < outer, column, 0).to(tl.int64)
    h_at = h_ptr + row_read[:, None] * stride_h + k[None, :]
    weight_at = weight_ptr + column_read[:, None] * stride_weight + k[None, :]

    y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    list_ptr = tiles_ptr + block_m.to(tl.int64) * tiles
    for i in range(tl.load(number_ptr + block_m)):
        start = tl.load(list_ptr + i) * BLOCK_K
        if WHOLE_K:
            h = tl.load(h_at + start)
            weight = tl.load(weight_at + start)
        else:
            h = tl.load(h_at + start, mask=(k < neurons - start)[None, :], other=0.0)
            weight = tl.load(weight_at + start, mask=(k < neurons - start)[None, :], other=0.0)
        if INTERPRETED:
            h = h.to(tl.float32)
            weight = weight.to(tl.float32)
        y = tl.dot(h, weight.T, y, input_precision="ieee")
    if HAS_BIAS:
        y += tl.load(bias_ptr + column_read).to(tl.float32)[None, :]

    inside = (row < rows)[:, None] & (column < outer)[None, :]
    at = residual_ptr + row[:, None].to(tl.int64) * stride_residual + column[None, :]
    tl.store(at, tl.load(at, mask=inside, other=0.0) + y, mask=inside)
