"""The tokens that each neuron's update promotes and suppresses most, exactly, by a cheap first pass.

All scores of a layer are 2 F V D operations, in float32 a fixed cost of half a forward over 100,000
tokens. So they are computed in bfloat16 where the processor multiplies it, with a bound on the error
of each; the few tokens that may be among the ten are scored again, exactly.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyneurons import _env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

TOP_TOKENS = 10
PROJECTIONS = ("dot", "cosine", "final_norm")

_NEURON_BLOCK = 256
_VOCABULARY_BLOCK = 8192
_CHUNK = 32
_LOW = 0xFFFFFFFF
# A neuron with more candidates than this is scored exactly on the whole vocabulary instead.
_MOST_CANDIDATES = 512
# Neurons whose candidates are scored at a time.
_TOGETHER = 16
# What rounding in the computation of a bound may take from it.
_CARE = 1.01


@dataclass(frozen=True)
class Unembedding:
    """The map from the residual stream to vocabulary scores.

    ``rows [V', E]`` are the rows of the output embedding that have a tokenizer entry (``ids``),
    in the checkpoint's dtype; ``project_out [E, D]`` stands between where there is one (350m).
    """

    rows: torch.Tensor
    ids: np.ndarray
    project_out: torch.Tensor | None
    final_norm_gain: torch.Tensor | None
    projection: str = "dot"

    def directions(self, update: torch.Tensor) -> torch.Tensor:
        """Return what rows are multiplied with for updates [B, D]: float32 [B, E]."""
        update = update.float()
        if self.projection == "final_norm":
            update = update - update.mean(dim=1, keepdim=True)
            if self.final_norm_gain is not None:
                update = update * self.final_norm_gain.float()
        if self.project_out is not None:
            update = update @ self.project_out.float().T
        if self.projection == "cosine":
            update = update / update.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return update

    def block(self, start: int, out: torch.Tensor) -> None:
        """Write rows from ``start`` on, in float32, to ``out``: what directions are multiplied with."""
        out.copy_(self.rows[start : start + out.shape[0]])
        self._finish(out)

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (first row, at most 8,192 rows of `block`), in a buffer that is used again."""
        height, width = self.rows.shape
        buffer = torch.empty(min(_VOCABULARY_BLOCK, height), width)
        for start in range(0, height, _VOCABULARY_BLOCK):
            rows = buffer[: min(_VOCABULARY_BLOCK, height - start)]
            self.block(start, rows)
            yield start, rows

    def take(self, columns: torch.Tensor) -> torch.Tensor:
        """Return single rows of `block`."""
        rows = self.rows.index_select(0, columns).float()
        self._finish(rows)
        return rows

    @functools.cached_property
    def total(self) -> torch.Tensor:
        """The sum of all rows, float64 [E]."""
        total = torch.zeros(self.rows.shape[1], dtype=torch.float64)
        for _, rows in self.blocks():
            # In parts: the float64 copy of a block would be twice its size.
            for few in torch.split(rows, 512):
                total += few.double().sum(dim=0)
        return total

    def _finish(self, rows: torch.Tensor) -> None:
        if self.projection == "cosine":
            rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-30)


def projection_bytes(vocabulary: int, embedding: int, hidden: int, threads: int) -> int:
    """Return what `extremes`, or a layer's suppression, needs at most at a time, outputs apart."""
    rows = min(_VOCABULARY_BLOCK, vocabulary)
    # Scores of a block, rounded and in float32, a quarter more for maxima and candidates; the
    # neurons' directions; the rows of candidates.
    most = min(_MOST_CANDIDATES, vocabulary)
    block = (
        _NEURON_BLOCK * (7 * rows + 8 * (hidden + embedding)) + 12 * _TOGETHER * most * embedding
    )
    triggers = _NEURON_BLOCK * (4 * vocabulary + 8 * (hidden + embedding))
    return 8 * rows * embedding + threads * block + triggers


@dataclass(eq=False)
class _Side:
    """What is known of one end of the scores, of one block of neurons.

    ``low [B, top]`` are lower bounds of scores of different tokens: none of the ``top`` largest
    scores lies below their minimum. Candidates are (neuron, column, upper bound of the score).
    """

    low: torch.Tensor
    neuron: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    column: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    upper: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def see(
        self,
        scores: torch.Tensor,
        best: torch.Tensor,
        bound: torch.Tensor,
        length: torch.Tensor,
        unit: float,
        first: int,
        sign: int,
    ) -> None:
        """Take in the scores of a block of columns.

        Parameters
        ----------
        scores : [B, C], C a multiple of 32
            With errors of at most ``unit * |score| + bound[b] * length[c]``.
        best : [B, C / 32]
            The largest of each 32 (with the sign -1: of the negated ones), float32.
        bound : [B]
        length : [C], 0 in columns that are not there
        unit : float
        first : int
            What column 0 counts as.
        sign : 1 or -1
            Whether scores are sought that are large, or small.
        """
        lengths = length.view(-1, _CHUNK)
        margin = unit * best.abs() + bound[:, None] * lengths.amax(dim=1)
        low = torch.cat([self.low, best - margin], dim=1)
        self.low = low.topk(self.low.shape[1], dim=1).values
        least = self.low[:, -1]
        neuron, chunk = (best + margin >= least[:, None]).nonzero(as_tuple=True)
        some = sign * scores.view(len(scores), -1, _CHUNK)[neuron, chunk]
        upper = some + unit * some.abs() + bound[neuron, None] * lengths[chunk]
        row, place = ((upper >= least[neuron, None]) & (lengths[chunk] > 0)).nonzero(as_tuple=True)
        self.neuron = torch.cat([self.neuron, neuron[row]])
        self.column = torch.cat([self.column, first + chunk[row] * _CHUNK + place])
        self.upper = torch.cat([self.upper, upper[row, place]])
        self._keep(self.upper >= least[self.neuron])

    def drop(self, neurons: torch.Tensor) -> None:
        """Forget the candidates of neurons (bool [B])."""
        self._keep(~neurons[self.neuron])

    def crowded(self) -> torch.Tensor:
        """Which neurons have more candidates than is worth keeping, bool [B]."""
        return torch.bincount(self.neuron, minlength=len(self.low)) > _MOST_CANDIDATES

    def by_neuron(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield some neurons [k] and the columns of their candidates [k, m], -1 where fewer."""
        counts = torch.bincount(self.neuron, minlength=len(self.low))
        neurons = counts.nonzero().flatten()
        neurons = neurons[counts[neurons].argsort()]  # those with equally many together
        place = torch.empty(len(self.low), dtype=torch.int64)
        place[neurons] = torch.arange(len(neurons))
        order = place[self.neuron].argsort(stable=True)
        owner, column = place[self.neuron][order], self.column[order]
        for first in range(0, len(neurons), _TOGETHER):
            last = min(first + _TOGETHER, len(neurons))
            own = slice(*torch.searchsorted(owner, torch.tensor([first, last])).tolist())
            row = owner[own] - first
            rank = torch.arange(len(row)) - torch.searchsorted(row, row)
            columns = torch.full((last - first, int(rank.max()) + 1), -1)
            columns[row, rank] = column[own]
            yield neurons[first:last], columns

    def _keep(self, which: torch.Tensor) -> None:
        self.neuron, self.column = self.neuron[which], self.column[which]
        self.upper = self.upper[which]


def extremes(
    fc2_weight: torch.Tensor, unembedding: Unembedding, pool: Executor
) -> dict[str, np.ndarray]:
    """Return the promoted and suppressed tokens of every neuron.

    score(n, v) = <direction of fc2[:, n], row v>, the sum in float64, rounded to float32.

    Parameters
    ----------
    fc2_weight : Tensor [D, F]
    unembedding : Unembedding
    pool : Executor
        Blocks of neurons run on it; results do not depend on its size.

    Returns
    -------
    dict
        ``neuron``; ``promoted``, ``suppressed`` int32 [F, 10] token ids, of equal scores the lower
        id first; ``promoted_scores``, ``suppressed_scores`` float32 [F, 10]; ``mean_score``
        float32 [F].

    Notes
    -----
    Cost: 2 F V D operations, in bfloat16 where the processor has it, and some 100 exact scores a
    neuron; memory: `projection_bytes`.
    """
    neurons, count = fc2_weight.shape[1], unembedding.ids.size
    top = min(TOP_TOKENS, count)
    dtype = torch.bfloat16 if _env.multiplies_bfloat16() else torch.float32
    starts = range(0, neurons, _NEURON_BLOCK)
    sides = {
        start: tuple(
            _Side(torch.full((min(_NEURON_BLOCK, neurons - start), top), -torch.inf))
            for _ in range(2)
        )
        for start in starts
    }
    unit = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-24  # of the rounded scores
    dense = torch.zeros(neurons, dtype=torch.bool)
    mean = torch.empty(neurons)
    found = {
        "promoted": np.empty((neurons, top), dtype=np.int32),
        "promoted_scores": np.empty((neurons, top), dtype=np.float32),
        "suppressed": np.empty((neurons, top), dtype=np.int32),
        "suppressed_scores": np.empty((neurons, top), dtype=np.float32),
    }
    # Buffers are made once: glibc puts small arrays that stay into the place of a large one that
    # was freed, and the next large one needs a new place (2.4 GB instead of 1 in a scan of 125m).
    local = threading.local()
    most = -(-min(_VOCABULARY_BLOCK, count) // _CHUNK) * _CHUNK
    buffer = torch.empty(most, unembedding.rows.shape[1])
    rounded = torch.empty_like(buffer, dtype=dtype)

    def directions_of(start: int) -> torch.Tensor:
        return unembedding.directions(fc2_weight[:, start : start + _NEURON_BLOCK].T)

    def look(
        start: int, first: int, rows: torch.Tensor, length: torch.Tensor, share: float
    ) -> None:
        if not hasattr(local, "scores"):
            local.rounded = torch.empty(_NEURON_BLOCK * most, dtype=dtype)
            local.scores = torch.empty(_NEURON_BLOCK * most)
        directions = directions_of(start)
        part = slice(start, start + len(directions))
        size, shape = len(directions) * len(rows), (len(directions), len(rows))
        near = directions.to(dtype)
        scores = local.scores[:size].view(shape)
        # float32 for what follows: the largest of bfloat16 take 8 times as long to find.
        scores.copy_(torch.mm(near, rows.T, out=local.rounded[:size].view(shape)))
        lost = (directions - near).norm(dim=1)
        bound = _CARE * _error(directions.norm(dim=1), lost, share, directions.shape[1])
        chunks = scores.view(len(scores), -1, _CHUNK)
        there = min(len(rows), count - first)
        for side, sign in zip(sides[start], (1, -1), strict=True):
            scores[:, there:] = -sign * torch.inf
            best = chunks.amax(dim=2) if sign > 0 else -chunks.amin(dim=2)
            side.see(scores, best, bound, length, _CARE * unit, first, sign)
            dense[part] |= side.crowded()
        for side in sides[start]:
            side.drop(dense[part])

    for first in range(0, count, _VOCABULARY_BLOCK):
        there = min(_VOCABULARY_BLOCK, count - first)
        padded = -(-there // _CHUNK) * _CHUNK
        unembedding.block(first, buffer[:there])
        buffer[there:padded] = 0
        length = buffer[:padded].norm(dim=1)
        # A row of zeros has the exact score 0, but is there.
        length[:there].clamp_min_(1e-30)
        rows = rounded[:padded].copy_(buffer[:padded])
        buffer[:there] -= rows[:there]
        share = float((buffer[:there].norm(dim=1) / length[:there]).max())
        block = functools.partial(look, first=first, rows=rows, length=length, share=share)
        list(pool.map(block, starts))

    def settle(start: int) -> None:
        directions = directions_of(start)
        part = slice(start, start + len(directions))
        mean[part] = (directions.double() @ unembedding.total / count).float()
        for side, name, sign in zip(sides[start], ("promoted", "suppressed"), (1, -1), strict=True):
            keys = torch.full((len(directions), top), -(2**63), dtype=torch.int64)
            for neuron, column in side.by_neuron():
                rows = unembedding.take(column.flatten().clamp_min(0)).view(*column.shape, -1)
                exact = torch.bmm(rows.double(), directions[neuron, :, None].double())[:, :, 0]
                some = _keys(sign * exact.float(), column)
                some[column < 0] = -(2**63)
                keys[neuron] = torch.cat([keys[neuron], some], dim=1).topk(top, dim=1).values
            own = dense[part].nonzero().flatten()
            for neuron in own.tolist() if len(own) else ():
                for first, rows in unembedding.blocks():
                    exact = (rows.double() @ directions[neuron].double()).float()
                    column = torch.arange(first, first + len(rows))
                    both = torch.cat([keys[neuron], _keys(sign * exact, column)])
                    keys[neuron] = both.topk(top).values
            values, columns = _from_keys(keys)
            found[name][part] = unembedding.ids[columns.numpy()]
            found[f"{name}_scores"][part] = sign * values.numpy()

    _ = unembedding.total  # before the threads ask for it
    del buffer, rounded
    list(pool.map(settle, starts))
    return {"neuron": np.arange(neurons, dtype=np.int32), **found, "mean_score": mean.numpy()}


def _error(length: torch.Tensor, lost: torch.Tensor, share: float, terms: int) -> torch.Tensor:
    """Bound the error of products with rounded operands, for each length of the other operand.

    |<d, r> - <d', r'>| <= |d - d'| |r| + |d'| |r - r'|, and a float32 sum of n terms is off by at
    most (n + 2) 2^-24 |d'| |r'|. What rounding takes is measured: a third of what it might take.

    Parameters
    ----------
    length, lost : [B]
        |d| and |d - d'|.
    share : float
        The largest |r - r'| / |r|.
    terms : int
    """
    sums = (terms + 2) * 2.0**-24
    return lost + (length + lost) * (share + sums * (1 + share))


def _keys(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return int64 numbers in the order of the scores, of equal ones the lower column first."""
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_LOW - columns)


def _from_keys(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (scores, columns) of `_keys`."""
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32), _LOW - (keys & _LOW)
