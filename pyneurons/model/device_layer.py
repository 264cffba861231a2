"""One OPT decoder layer on tensors of one device: torch's products and attention, `ops.ffn`.

A product of torch gives a row other bits when the number of rows changes. So every product of a micro-batch
is made of ``rows`` rows, a constant, those behind the last one zeros; and a sequence attends padded to
`bucket` of its own length, as on the CPU (`pyneurons.model.opt`). Nothing here waits for the device.

The residual stream and every LayerNorm are float32; the compute dtype is float16, bfloat16 or float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from pyneurons import ops
from pyneurons.model.config import NORM_EPSILON, POSITION_OFFSET, OptConfig
from pyneurons.model.opt import bucket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pyneurons.model.checkpoint import Embeddings

BLOCK_ROWS: Final = 4096
"""Rows that are embedded or normalised at a time: temporaries of them, not of a micro-batch."""

ATTENTION_ROWS: Final = 16_384
"""Padded rows that attend in one call, unless one sequence alone is longer; without influence on results."""


@dataclass
class LayerTensors:
    """A layer's tensors on a device, in the compute dtype where they are multiplied.

    Parameters
    ----------
    raw : dict of str to Tensor
        In the checkpoint's dtype, by their names in the layer.
    dtype : torch.dtype
    keep : bool
        Whether tensors that had to be converted are kept, or converted again at each use.
    """

    raw: Mapping[str, Tensor]
    dtype: torch.dtype
    keep: bool = True
    _converted: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str) -> Tensor | None:
        """Return a tensor, or None where the model has none of that name."""
        values = self.raw.get(name)
        dtype = torch.float32 if "layer_norm" in name else self.dtype
        if values is None or values.dtype == dtype:
            return values
        found = self._converted.get(name)
        if found is None:
            found = values.to(dtype)
            if self.keep:
                self._converted[name] = found
        return found

    def replaced(self, others: Mapping[str, Tensor | None]) -> LayerTensors:
        """Return a layer with some tensors replaced by those given, in the compute dtype."""
        found = dict(self.raw) | {
            name: there for name, there in others.items() if there is not None
        }
        return replace(self, raw=found)

    def matrix(self, name: str) -> Tensor:
        """Return a tensor that every model has."""
        found = self(name)
        if found is None:
            raise KeyError(name)
        return found


@dataclass(frozen=True)
class Groups:
    """The sequences of one micro-batch in groups that attend together.

    ``whole``: (first row, number, length) where sequences of one length, which is its own bucket,
    follow each other; ``padded``: rows [number, bucket], behind the end of a sequence ``rows``.
    """

    whole: tuple[tuple[int, int, int], ...]
    padded: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], rows: int) -> Groups:
        """Group sequences of these lengths, end to end, in a micro-batch padded to ``rows``."""
        sizes = np.asarray(lengths, dtype=np.int64)
        starts = np.concatenate(([0], np.cumsum(sizes)))
        buckets = np.array([bucket(length) for length in sizes.tolist()], dtype=np.int64)
        own = buckets == sizes
        whole: list[tuple[int, int, int]] = []
        padded: list[np.ndarray] = []
        edges = np.flatnonzero((np.diff(sizes) != 0) | (np.diff(own) != 0)) + 1
        for run in np.split(np.arange(sizes.size), edges):
            if run.size and own[run[0]]:
                whole.append((int(starts[run[0]]), run.size, int(sizes[run[0]])))
        for size in np.unique(buckets[~own]).tolist():
            members = np.flatnonzero(~own & (buckets == size))
            place = np.arange(size)
            inside = place < sizes[members, None]
            padded.append(np.where(inside, starts[members, None] + place, np.int64(rows)))
        return cls(tuple(whole), tuple(padded))


@dataclass(frozen=True)
class Room:
    """Buffers of one micro-batch on a device; one row more of what is gathered from and scattered to."""

    x: Tensor  # [rows, D]
    qkv: Tensor  # [3, rows + 1, D]
    mixed: Tensor  # [rows + 1, D]

    @classmethod
    def of(cls, memory: Tensor, rows: int, width: int, dtype: torch.dtype) -> Room:
        """Lay the buffers out in memory, uint8 zeros of `room_bytes`."""
        lines = memory.view(dtype).view(5 * rows + 4, width)
        qkv = lines[rows : 4 * rows + 3].view(3, rows + 1, width)
        return cls(lines[:rows], qkv, lines[4 * rows + 3 :])


def room_bytes(rows: int, width: int, dtype: torch.dtype) -> int:
    """Return the size of a `Room`."""
    return dtype.itemsize * (5 * rows + 4) * width


def embed(
    ids: Tensor, positions: Tensor, tables: Embeddings, config: OptConfig, hidden: Tensor
) -> None:
    """Write the residual stream before the first layer, as `pyneurons.model.opt.embed`.

    Parameters
    ----------
    ids, positions : Tensor of int64, [m]
        Checked by whoever read the corpus.
    tables : Embeddings
        On the device.
    config : OptConfig
    hidden : Tensor, [m, D], float32
        Overwritten.
    """
    for start in range(0, len(hidden), BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, len(hidden)))
        tokens = tables.tokens.index_select(0, ids[part]).float()
        if tables.project_in is not None:
            padded = tokens.new_zeros(BLOCK_ROWS, config.word_embed_proj_dim)
            padded[: len(tokens)] = tokens
            tokens = (padded @ tables.project_in.float().t())[: len(tokens)]
        places = tables.positions.index_select(0, positions[part] + POSITION_OFFSET)
        hidden[part] = tokens.add_(places.float())


def decoder_layer(
    hidden: Tensor,
    groups: Groups,
    tensors: LayerTensors,
    config: OptConfig,
    room: Room,
    mask: Tensor,
    z_max: Tensor,
    wrong: Tensor,
    *,
    backend: str | None,
    fc1_route: str = "fused",
    last: bool = False,
) -> None:
    """Run one layer in place and keep one bit per (row, neuron): who fired.

    Parameters
    ----------
    hidden : Tensor, [m, D], float32
        Residual stream of whole sequences, end to end; overwritten with the layer's output.
    groups : Groups
        Of the sequences.
    tensors : LayerTensors
    config : OptConfig
    room : Room
        Of at least m rows; its rows are those of every product.
    mask : Tensor of int32, [strips, m, strip_words]
        Overwritten; see `pyneurons.ops.ffn`.
    z_max : Tensor, [F], float32
        Running maximum of the pre-activations.
    wrong : Tensor of int64, [1]
        See `pyneurons.ops.ffn`.
    backend : str or None
    fc1_route : str
        Of `ops.ffn`.
    last : bool
        Leave out fc2 and what follows: only the bits are wanted, ``hidden`` is not the output.
    """
    rows, before = len(hidden), config.do_layer_norm_before
    _attention(hidden, groups, tensors, config, room)
    x = room.x
    if before:
        _norm(hidden, tensors, "final_layer_norm", x)
    else:
        _norm(hidden, tensors, "self_attn_layer_norm", hidden)
        x[:rows] = hidden
    weights = (
        tensors.matrix("fc1.weight"),
        tensors("fc1.bias"),
        None if last else tensors("fc2.weight"),
        None if last else tensors("fc2.bias"),
    )
    block = partial(ops.ffn, backend=backend, fc1_route=fc1_route, wrong=wrong)
    if fc1_route == "fused" or rows == len(x):
        block(x[:rows], *weights, hidden, mask, z_max)
    else:
        # A product of torch has all rows: those behind the last are the first once more, which neither
        # a maximum nor the first that is not finite sees.
        x[rows:] = x[:1]
        more = hidden.new_zeros(len(x), hidden.shape[1])
        more[:rows] = hidden
        bits = mask.new_empty(mask.shape[0], len(x), mask.shape[2])
        block(x, *weights, more, bits, z_max)
        hidden.copy_(more[:rows])
        mask.copy_(bits[:, :rows])
    if not (before or last):
        _norm(hidden, tensors, "final_layer_norm", hidden)


def _attention(
    hidden: Tensor, groups: Groups, tensors: LayerTensors, config: OptConfig, room: Room
) -> None:
    rows, all_rows = len(hidden), len(room.x)
    x, qkv, mixed = room.x, room.qkv, room.mixed
    if config.do_layer_norm_before:
        _norm(hidden, tensors, "self_attn_layer_norm", x)
    else:
        x[:rows] = hidden
    x[rows:] = 0
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        _linear(x, tensors, f"self_attn.{name}", qkv[i, :all_rows])
    mixed[rows:] = 0
    qkv[:, all_rows] = 0
    heads = config.num_attention_heads
    for first, number, length in groups.whole:
        most = max(1, ATTENTION_ROWS // length)
        for some in range(0, number, most):
            count = min(most, number - some)
            here = slice(first + some * length, first + (some + count) * length)
            mixed[here] = _attend(qkv[:, here], count, heads)
    for index in groups.padded:
        most = max(1, ATTENTION_ROWS // index.shape[1])
        for some in range(0, len(index), most):
            part = index[some : some + most]
            places = torch.from_numpy(part).to(hidden.device).flatten()
            taken = qkv.index_select(1, places)
            mixed.index_copy_(0, places, _attend(taken, len(part), heads))
    _linear(mixed[:all_rows], tensors, "self_attn.out_proj", x)
    hidden.add_(x[:rows])


def _attend(qkv: Tensor, number: int, heads: int) -> Tensor:
    """Return what ``number`` sequences of one length, [3, rows, D], attend to, [rows, D]."""
    _, rows, width = qkv.shape
    head = width // heads
    q, k, v = qkv.view(3, number, rows // number, heads, head).transpose(2, 3).unbind(0)
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=head**-0.5)
    return out.transpose(1, 2).reshape(rows, width)


def _linear(x: Tensor, tensors: LayerTensors, name: str, out: Tensor) -> None:
    weight, bias = tensors.matrix(f"{name}.weight").t(), tensors(f"{name}.bias")
    if bias is None:
        torch.mm(x, weight, out=out)
    else:
        torch.addmm(bias, x, weight, out=out)


def _norm(hidden: Tensor, tensors: LayerTensors, name: str, out: Tensor) -> None:
    """Write the LayerNorm of rows to the head of ``out``, which may be ``hidden`` itself."""
    weight, bias = tensors(f"{name}.weight"), tensors(f"{name}.bias")
    for start in range(0, len(hidden), BLOCK_ROWS):
        part = hidden[start : start + BLOCK_ROWS]
        out[start : start + len(part)] = functional.layer_norm(
            part, part.shape[-1:], weight, bias, NORM_EPSILON
        )
