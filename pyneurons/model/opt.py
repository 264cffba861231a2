"""One OPT decoder layer as functions, whose results for a sequence depend on that sequence alone.

torch's products give a row other bits when the number of rows changes, and attention does when a
sequence is padded to another length. So the shape of every product is fixed here:

- in bfloat16 linear maps, attention and the feed-forward block are our own, their order of sums
  fixed (`ops.linear`, `ops.attention`, `ops.ffn`);
- in float32 linear maps are torch's, on blocks of `ROWS` rows that begin on 64 bytes, the last block
  padded; or, where a layer is converted with `split`, `ops.linear` by parts of bfloat16;
- in float32 attention is torch's, on sequences padded to `bucket` of their own length, in copies
  laid out by head.

With one thread inside torch (``torch.set_num_threads(1)``) a sequence then gets the same bits
whatever stands before or behind it, in any micro-batch, in any thread. Nothing here is shared
between calls: micro-batches may run in several Python threads, and torch releases the GIL.

The residual stream and every LayerNorm are float32; the compute dtype, float32 or bfloat16, is that
of the products' operands and results, whose sums are float32.
"""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from pyneurons import ops
from pyneurons._memory import aligned_zeros
from pyneurons.errors import DTypeError, ShapeError
from pyneurons.model.config import NORM_EPSILON, POSITION_OFFSET, OptConfig
from pyneurons.panels import WIDTH, Panels, SplitPanels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from pyneurons.model.checkpoint import Embeddings

ROWS: Final = 512
"""Rows of every linear map: a constant of the results, not a tuning knob of a run."""

MICRO_BATCH_TOKENS: Final = 2048
"""Rows of a micro-batch, unless one sequence alone is longer."""

ATTENTION_ROWS: Final = 2048
"""Padded rows that attend in one call; without influence on results."""

COMPUTE_DTYPES: Final = (torch.float32, torch.bfloat16)

SPLIT_PARTS: Final = {torch.bfloat16: 1, torch.float16: 2}
"""Parts of bfloat16 that hold a weight of that dtype; others may need `SplitPanels.MOST`."""


def _untimed(_stage: str) -> AbstractContextManager[None]:
    return nullcontext()


class _Scratch(threading.local):
    """Buffers of one thread, kept from call to call.

    Fresh memory costs a page fault for each 4 KiB: 4 % of a layer's time at hidden size 768.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor; it is good until the same name is taken again."""
        size = math.prod(shape) * dtype.itemsize
        held = self._buffers.get(name)
        if held is None or len(held) < size:
            self._buffers.pop(name, None)
            # A buffer made in inference mode could not be written outside of it.
            with torch.inference_mode(mode=False):
                held = self._buffers[name] = torch.from_numpy(aligned_zeros((size,), np.uint8))
        return held[:size].view(dtype).view(*shape)

    def take_rows(self, name: str, rows: int, columns: int) -> Tensor:
        """Return an uninitialised matrix of bfloat16 whose rows lie `_row_stride` apart."""
        return self.take(name, (rows, _row_stride(columns)), torch.bfloat16)[:, :columns]


_scratch = _Scratch()


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer, ready to run: matrices in the compute dtype, norms in float32."""

    heads: int
    norm_before: bool
    attention_norm_weight: Tensor | None  # [D] float32: self_attn_layer_norm
    attention_norm_bias: Tensor | None
    qkv_weight: Tensor | Panels | SplitPanels  # [3 D, D]: q, k, v; as panels in bfloat16
    qkv_bias: Tensor | None
    out_weight: Tensor | Panels | SplitPanels  # [D, D]
    out_bias: Tensor | None
    ffn_norm_weight: Tensor | None  # [D] float32: final_layer_norm of the layer
    ffn_norm_bias: Tensor | None
    fc1_weight: Tensor | Panels | SplitPanels  # [F, D]
    fc1_bias: Tensor | None
    fc2_weight: Tensor | Panels | SplitPanels  # [D, F]
    fc2_bias: Tensor | None


def convert_layer(
    raw: Mapping[str, Tensor], config: OptConfig, dtype: torch.dtype, *, split: bool = False
) -> LayerWeights:
    """Return the weights of a layer in the compute dtype.

    Parameters
    ----------
    raw : dict of str to Tensor
        As `Checkpoint.read_layer` gives them; left as it is. A tensor that is in the compute
        dtype already is shared, not copied.
    config : OptConfig
    dtype : torch.dtype
        float32 or bfloat16.
    split : bool
        Whether float32 matrices become `SplitPanels`, for products by parts of bfloat16.

    Raises
    ------
    NonFiniteError
        For a NaN or infinity in a matrix, in bfloat16 and split.

    Notes
    -----
    Cost: one pass over the weights, and `converted_layer_bytes` of memory (in float32 of q, k, v
    alone where the dtypes are equal).
    """
    _check_dtype("convert_layer", dtype)
    hidden = config.hidden_size

    def get(name: str, kind: torch.dtype = dtype) -> Tensor | None:
        values = raw.get(name)
        return None if values is None else values.to(kind)

    def matrix(name: str, weight: Tensor | None = None) -> Tensor | Panels | SplitPanels:
        weight = raw[name] if weight is None else weight
        if dtype == torch.bfloat16:
            return Panels.rounded(weight, name)
        return SplitPanels.of(weight, name) if split else weight.to(dtype)

    def stacked(suffix: str, shape: tuple[int, ...]) -> Tensor:
        out = torch.empty(shape, dtype=dtype)
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            out[i * hidden : (i + 1) * hidden] = raw[f"self_attn.{name}.{suffix}"]
        return out

    return LayerWeights(
        heads=config.num_attention_heads,
        norm_before=config.do_layer_norm_before,
        attention_norm_weight=get("self_attn_layer_norm.weight", torch.float32),
        attention_norm_bias=get("self_attn_layer_norm.bias", torch.float32),
        qkv_weight=matrix("self_attn.q, k, v", stacked("weight", (3 * hidden, hidden))),
        qkv_bias=stacked("bias", (3 * hidden,)) if config.enable_bias else None,
        out_weight=matrix("self_attn.out_proj.weight"),
        out_bias=get("self_attn.out_proj.bias"),
        ffn_norm_weight=get("final_layer_norm.weight", torch.float32),
        ffn_norm_bias=get("final_layer_norm.bias", torch.float32),
        fc1_weight=matrix("fc1.weight"),
        fc1_bias=get("fc1.bias"),
        fc2_weight=matrix("fc2.weight"),
        fc2_bias=get("fc2.bias"),
    )


def fc1_and_its_norm(
    raw: Mapping[str, Tensor], config: OptConfig
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return fc1's weight and bias, and those of the LayerNorm whose output it reads.

    That LayerNorm is the layer's ``final_layer_norm``, in post-LN models ``self_attn_layer_norm``.
    """
    norm = "final_layer_norm" if config.do_layer_norm_before else "self_attn_layer_norm"
    return (
        raw["fc1.weight"],
        raw.get("fc1.bias"),
        raw.get(f"{norm}.weight"),
        raw.get(f"{norm}.bias"),
    )


def embed(
    ids: np.ndarray | Tensor,
    positions: np.ndarray | Tensor,
    embeddings: Embeddings,
    config: OptConfig,
) -> Tensor:
    """Return the residual stream before the first layer, float32 [m, D].

    ``project_in(tokens[ids]) + positions[positions + 2]``, in float32 in every numeric mode.

    Parameters
    ----------
    ids : integers [m]
        Token ids, 0 to V - 1.
    positions : integers [m]
        Places in their sequences, 0 to max_position_embeddings - 1.
    embeddings : Embeddings
        As `Checkpoint.read_embeddings` gives them.
    config : OptConfig

    Raises
    ------
    ShapeError
        If the lengths differ or a value is out of range.
    """
    rows = _indices("ids", ids, config.vocab_size)
    places = _indices("positions", positions, config.max_position_embeddings)
    if rows.shape != places.shape:
        message = f"embed: positions has shape {list(places.shape)}, expected {list(rows.shape)}"
        raise ShapeError(message)
    hidden = embeddings.positions.index_select(0, places + POSITION_OFFSET).float()
    if embeddings.project_in is None:
        return hidden.add_(embeddings.tokens.index_select(0, rows).float())
    project_in = embeddings.project_in.float()
    x = torch.empty(ROWS, config.word_embed_proj_dim)
    y = torch.empty(ROWS, config.hidden_size)
    for start in range(0, len(rows), ROWS):
        part = hidden[start : start + ROWS]
        _fill(x, embeddings.tokens.index_select(0, rows[start : start + ROWS]))
        _linear(x, project_in, None, y)
        part.add_(y[: len(part)])
    return hidden


def attention(
    hidden: Tensor,
    lengths: np.ndarray | Sequence[int],
    weights: LayerWeights,
    *,
    backend: str | None = None,
) -> None:
    """Add to ``hidden`` what causal self-attention of each sequence gives.

    ``hidden += out(softmax(q k^T / sqrt(head size)) v)`` with q, k, v of the LayerNorm of
    ``hidden``, or of ``hidden`` itself in post-LN models, whose LayerNorm follows the sum and is
    not part of this.

    Parameters
    ----------
    hidden : Tensor, [m, D], float32
        Rows of whole sequences, end to end. Added to in place.
    lengths : integers [S]
        Lengths of the sequences, at least 1, m in all.
    weights : LayerWeights
    backend : str, optional
        Who computes `ops.attention`, that is the bfloat16 mode, and `ops.linear`, that is weights
        in parts; the rest of float32 runs in torch.
    """
    sizes = _lengths("attention", hidden, lengths)
    run = _attention_bfloat16 if weights.out_weight.dtype == torch.bfloat16 else _attention_float32
    run(hidden, sizes, weights, backend)


def _attention_bfloat16(
    hidden: Tensor, sizes: np.ndarray, weights: LayerWeights, backend: str | None
) -> None:
    """All rows at once: the kernels cut them themselves, and a row depends on no other's place."""
    rows, width = hidden.shape
    x = _scratch.take("x", hidden.shape, torch.bfloat16)
    if weights.norm_before:
        _norm_to(hidden, weights.attention_norm_weight, weights.attention_norm_bias, x, backend)
    else:
        x.copy_(hidden)
    qkv = _scratch.take_rows("qkv", rows, 3 * width)
    _linear(x, weights.qkv_weight, weights.qkv_bias, qkv, backend)
    mixed = _scratch.take_rows("mixed", rows, width)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    ops.attention(qkv, starts, weights.heads, mixed, backend=backend)
    _linear(mixed, weights.out_weight, weights.out_bias, hidden, backend)


def _attention_float32(
    hidden: Tensor, sizes: np.ndarray, weights: LayerWeights, backend: str | None
) -> None:
    """Blocks of `ROWS`: products of torch depend on how many rows there are, and on their place."""
    rows, width = hidden.shape
    padded = -(-rows // ROWS) * ROWS

    # One row more than the blocks: pads are gathered from it (zeros) and scattered to it.
    qkv = _scratch.take("qkv", (padded + 1, 3 * width), torch.float32)
    qkv[padded] = 0
    x = _scratch.take("block", (ROWS, width), torch.float32)
    for start in range(0, rows, ROWS):
        part = hidden[start : start + ROWS]
        if weights.norm_before:
            part = _norm(part, weights.attention_norm_weight, weights.attention_norm_bias)
        _fill(x, part)
        _linear(x, weights.qkv_weight, weights.qkv_bias, qkv[start : start + ROWS], backend)

    mixed = _scratch.take("mixed", (padded + 1, width), torch.float32)
    mixed[rows:padded] = 0
    for index in _attention_groups(sizes, padded):
        _attend(index, qkv, mixed, weights.heads)

    for start in range(0, rows, ROWS):
        part = hidden[start : start + ROWS]
        _linear(mixed[start : start + ROWS], weights.out_weight, weights.out_bias, x, backend)
        part.add_(x[: len(part)])


def decoder_layer(
    hidden: Tensor,
    lengths: np.ndarray | Sequence[int],
    weights: LayerWeights,
    mask: np.ndarray,
    z_max: Tensor,
    *,
    backend: str | None = None,
    last: bool = False,
    clock: Callable[[str], AbstractContextManager[None]] = _untimed,
) -> None:
    """Run one layer in place and keep one bit per (row, neuron): who fired.

    Parameters
    ----------
    hidden : Tensor, [m, D], float32
        Residual stream of whole sequences, end to end; overwritten with the layer's output.
    lengths : integers [S]
        Lengths of the sequences, at least 1, m in all.
    weights : LayerWeights
    mask : ndarray of uint32, [strips, m, strip_words]
        Overwritten; see `pyneurons.ops.ffn`.
    z_max : Tensor, [F], float32
        Running maximum of the pre-activations.
    backend : str, optional
        A name from `pyneurons.backends.available`.
    last : bool
        Leave out fc2 and what follows: only the bits are wanted, ``hidden`` is not the output.
    clock : callable
        Gives a context manager for each stage, named "attention", "norm" or "ffn".

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        If the arguments do not fit together.
    NonFiniteError
        If a pre-activation is NaN or infinite.
    """
    dtype = weights.fc1_weight.dtype
    with clock("attention"):
        attention(hidden, lengths, weights, backend=backend)
    with clock("norm"):
        x = _scratch.take("x", hidden.shape, dtype)
        if weights.norm_before:
            _norm_to(hidden, weights.ffn_norm_weight, weights.ffn_norm_bias, x, backend)
        else:
            _norm_in_place(hidden, weights.attention_norm_weight, weights.attention_norm_bias)
            x.copy_(hidden)
    with clock("ffn"):
        ops.ffn(
            x,
            weights.fc1_weight,
            weights.fc1_bias,
            None if last else weights.fc2_weight,
            None if last else weights.fc2_bias,
            hidden,
            mask,
            z_max,
            backend=backend,
        )
    if not (weights.norm_before or last):
        with clock("norm"):
            _norm_in_place(hidden, weights.ffn_norm_weight, weights.ffn_norm_bias)


def bucket(length: int) -> int:
    """Return the padded length at which a sequence of ``length`` positions attends.

    32, or the next multiple of 64: a function of the sequence's own length alone. Each sequence
    then begins on 64 bytes in float32 and bfloat16, for any hidden size.
    """
    return 32 if length <= 32 else -(-length // 64) * 64


def layer_parameter_count(config: OptConfig) -> int:
    """Return the number of weights in one layer."""
    return sum(math.prod(shape) for shape in config.layer_shapes().values())


def converted_layer_bytes(
    config: OptConfig, dtype: torch.dtype, split: torch.dtype | None = None
) -> int:
    """Return the most bytes of one `LayerWeights` in the compute dtype.

    With ``split``, the dtype of the checkpoint: of float32 weights in parts of bfloat16, and of what
    the largest of them takes while it is split.
    """
    shapes = config.layer_shapes()
    parts = 0 if split is None else SPLIT_PARTS.get(split, SplitPanels.MOST)

    def padded(shape: tuple[int, ...]) -> int:
        return math.prod(-(-side // WIDTH) * WIDTH for side in shape)

    def size(name: str, shape: tuple[int, ...]) -> int:
        if "layer_norm" in name:
            return 4 * math.prod(shape)
        if parts and len(shape) == 2:
            return 2 * parts * padded(shape)
        laid_out = dtype == torch.bfloat16 and len(shape) == 2
        return dtype.itemsize * (padded(shape) if laid_out else math.prod(shape))

    total = sum(size(name, shape) for name, shape in shapes.items())
    if parts:
        # While a matrix is split (see `SplitPanels.of`); q, k and v are one, in float32.
        width, neurons = config.hidden_size, config.ffn_dim
        total += max(2 * width * neurons, (2 + 4) * 3 * width**2) + 24 * 1024 * max(width, neurons)
    return total


def workspace_bytes(config: OptConfig, context: int, dtype: torch.dtype) -> int:
    """Return an upper bound of what one thread allocates in `embed` or `decoder_layer`.

    For a micro-batch of sequences up to ``context`` positions, its ``hidden`` included and its
    mask not.
    """
    width, neurons, item = config.hidden_size, config.ffn_dim, dtype.itemsize
    rows = max(MICRO_BATCH_TOKENS, context)
    padded = -(-rows // ROWS) * ROWS + 1
    attending = max(ATTENTION_ROWS, bucket(context))
    # In `_Scratch`, kept: q, k, v and the result of all rows, x, in float32 one block.
    kept = (padded * 4 + rows + ROWS) * width * item
    if dtype == torch.bfloat16:
        # Rows of q, k and v and of the result lie apart.
        kept += rows * (_row_stride(3 * width) + _row_stride(width) - 4 * width) * item
        # In `ops.ffn`, kept: 384 rows of x, h, what they add, and the list of live pairs; by tiles
        # 512 rows, but h and the list of at most 768 neurons (1,536 with 256 rows), and 156 KiB of
        # sums and bits, in whole huge pages.
        group = min(neurons, 1024)
        by_tiles = 512 * (6 * width + 6 * group) + (156 << 10)
        kept += max(384 * (8 * width + 10 * neurons), -(-by_tiles // _HUGE_PAGE) * _HUGE_PAGE)
        # In `ops.linear`, kept: 512 rows of x, which may be widened to float32, and 76 KiB of sums.
        kept += 512 * 4 * width + (76 << 10)
        # In `ops.attention`, kept: keys and values of one head of one sequence, which may be
        # widened to float32, and a block of queries, scores, weights and sums.
        head = -(-width // config.num_attention_heads // WIDTH) * WIDTH
        kept += 8 * bucket(context) * head + 512 * head + (24 << 10)
        passing = 0
    else:
        # In `_Scratch`, kept: k and v of a group. For a while: its q, k, v and its result, or a
        # block of `ops.ffn`.
        kept += attending * 2 * width * item
        attend = attending * (4 * width * item + 4 * config.num_attention_heads)
        passing = max(ROWS * (neurons + 2 * width) * item, attend + _ATTENTION_BUFFER_BYTES)
        # In `ops.linear`, kept: 128 rows of 768 terms in three parts, and their sums.
        kept += 128 * (6 * 768 + 4 * (max(3 * width, neurons) + WIDTH))
    block = ROWS * width * 2 * 4
    # A quarter more for gaps that the allocator leaves between buffers of changing sizes.
    passing = passing * 5 // 4
    return rows * width * 4 + kept + passing + block + _PRODUCT_BUFFER_BYTES


_HUGE_PAGE: Final = 2 << 20
# Scores of 256 x 512 (query, key) pairs in two dtypes, and running sums, in torch's CPU kernel.
_ATTENTION_BUFFER_BYTES: Final = 2 << 20
# MKL and oneDNN keep panels of both operands for each thread: 6 MB measured.
_PRODUCT_BUFFER_BYTES: Final = 8 << 20


def _check_dtype(op: str, dtype: torch.dtype) -> None:
    if dtype not in COMPUTE_DTYPES:
        message = f"{op}: dtype is {dtype}, expected torch.float32 or torch.bfloat16"
        raise DTypeError(message)


def _indices(name: str, values: np.ndarray | Tensor, limit: int) -> Tensor:
    """Return ``values`` as int64, checked to lie in [0, limit)."""
    found = torch.from_numpy(np.asarray(values).astype(np.int64))
    if found.dim() != 1:
        message = f"embed: {name} has shape {list(found.shape)}, expected one axis"
        raise ShapeError(message)
    if len(found) and (int(found.min()) < 0 or int(found.max()) >= limit):
        message = (
            f"embed: {name} has values from {int(found.min())} to {int(found.max())}, expected "
            f"0 to {limit - 1}"
        )
        raise ShapeError(message)
    return found


def _lengths(op: str, hidden: Tensor, lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return the lengths as int64, checked against ``hidden``."""
    if hidden.dtype != torch.float32:
        message = f"{op}: hidden is {hidden.dtype}, expected torch.float32"
        raise DTypeError(message)
    if hidden.dim() != 2 or not hidden.is_contiguous():
        message = f"{op}: hidden has shape {list(hidden.shape)}, expected contiguous [m, D]"
        raise ShapeError(message)
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.ndim != 1 or (sizes < 1).any() or int(sizes.sum()) != hidden.shape[0]:
        message = (
            f"{op}: lengths must be from 1 on and sum to the {hidden.shape[0]} rows of hidden, "
            f"not {int(sizes.sum())}"
        )
        raise ShapeError(message)
    return sizes


def _attention_groups(lengths: np.ndarray, pad: int) -> Iterator[np.ndarray]:
    """Yield groups of sequences of one bucket: rows [number, bucket], ``pad`` behind their ends."""
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    buckets = np.array([bucket(length) for length in lengths.tolist()], dtype=np.int64)
    for size in np.unique(buckets).tolist():
        members = np.flatnonzero(buckets == size)
        most = max(1, ATTENTION_ROWS // size)
        place = np.arange(size)
        for first in range(0, len(members), most):
            group = members[first : first + most]
            yield np.where(place < lengths[group, None], starts[group, None] + place, np.int64(pad))


def _attend(index: np.ndarray, qkv: Tensor, mixed: Tensor, heads: int) -> None:
    """Overwrite rows ``index`` of ``mixed`` with what sequences of one bucket attend to."""
    number, length = index.shape
    width, dtype = mixed.shape[1], mixed.dtype
    head = width // heads
    flat = index.reshape(-1)
    rows = slice(int(flat[0]), int(flat[0]) + flat.size)
    whole = np.array_equal(flat, np.arange(rows.start, rows.stop))
    places = torch.from_numpy(flat)
    taken = qkv[rows] if whole else qkv.index_select(0, places)
    q, k, v = taken.view(number, length, 3, heads, head).permute(2, 0, 3, 1, 4)
    # k and v by head in memory: on strided ones attention takes 10 % longer (2,048 positions,
    # 32 heads of 128, bfloat16). The scale goes to the float32 scores, not to a rounded q.
    keys = _scratch.take("keys", k.shape, dtype).copy_(k)
    values = _scratch.take("values", v.shape, dtype).copy_(v)
    out = functional.scaled_dot_product_attention(q, keys, values, is_causal=True, scale=head**-0.5)
    out = out.transpose(1, 2).reshape(flat.size, width)
    if whole:
        mixed[rows] = out
    else:
        mixed.index_copy_(0, places, out)


def _row_stride(columns: int) -> int:
    """Return the distance of rows of bfloat16, in elements: an odd number of cache lines.

    Stores to rows a multiple of 512 bytes apart fall on few places of the caches: `ops.linear` of
    768 x 2,304 writes 1.72 TFLOP/s then, 2.02 with 64 bytes more (Sapphire Rapids class, AMX, one
    core).
    """
    line = 32
    return (-(-columns // line) | 1) * line


def _norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, NORM_EPSILON)


def _norm_to(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, out: Tensor, backend: str | None
) -> None:
    """Write the LayerNorm of rows, in float32 by torch, in bfloat16 by `ops.layer_norm`."""
    if out.dtype == torch.bfloat16:
        ops.layer_norm(x, weight, bias, NORM_EPSILON, out, backend=backend)
        return
    for start in range(0, len(x), ROWS):
        out[start : start + ROWS] = _norm(x[start : start + ROWS], weight, bias)


def _norm_in_place(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    for start in range(0, len(hidden), ROWS):
        part = hidden[start : start + ROWS]
        part.copy_(_norm(part, weight, bias))


def _fill(block: Tensor, rows: Tensor) -> None:
    """Copy rows to the head of a block and zeros behind them."""
    block[: len(rows)] = rows
    block[len(rows) :] = 0


def _linear(
    x: Tensor,
    weight: Tensor | Panels | SplitPanels,
    bias: Tensor | None,
    out: Tensor,
    backend: str | None = None,
) -> None:
    """Overwrite ``out`` with ``x @ weight.T + bias``; in torch the bias inside the sum."""
    if isinstance(weight, Panels | SplitPanels):
        ops.linear(x, weight, bias, out, backend=backend)
    elif bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)
