"""The tokens that each neuron's update promotes and suppresses most, exactly, by a cheap first pass.

All scores of a layer are 2 F V D operations, in float32 a fixed cost of half a forward over 100,000
tokens. So they are computed in bfloat16 where the processor multiplies it, with a bound on the error
of each; the few tokens that may be among the ten are scored again, exactly.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyneurons import _core, _env
from pyneurons.observers import score_order, vocabulary_device
from pyneurons.observers.score_order import CARE, LOWEST, TOP_TOKENS, error_bound, from_keys
from pyneurons.observers.unembedding import NEURON_BLOCK, ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from pyneurons.observers.unembedding import Unembedding

_VOCABULARY_BLOCK = 8192
# A neuron with more candidates than this is scored exactly on the whole vocabulary instead.
_MOST_CANDIDATES = 512


def projection_bytes(
    vocabulary: int, embedding: int, hidden: int, neurons: int, threads: int
) -> int:
    """Return what `extremes`, or a layer's suppression, needs at most at a time, outputs apart."""
    rows = min(_VOCABULARY_BLOCK, vocabulary)
    room = min(_MOST_CANDIDATES, vocabulary)
    # Scores of a block, the neurons' directions, rows of candidates; both sides' candidates with
    # their bounds, and the rounded directions.
    block = NEURON_BLOCK * (4 * rows + 8 * (hidden + 2 * embedding)) + 8 * ROWS * embedding
    lists = neurons * (16 * (room + TOP_TOKENS) + 4 * embedding) + 4 * vocabulary
    triggers = NEURON_BLOCK * (4 * vocabulary + 8 * (hidden + embedding))
    return 8 * rows * embedding + threads * block + lists + triggers


@dataclass(frozen=True)
class _Side:
    """What is known of one end of the scores of each neuron: see `_core.score_candidates`.

    ``low [F, top]`` are lower bounds of scores of different tokens: none of the ``top`` largest
    scores lies below their minimum. The first ``number [F]`` of ``column [F, room]`` are candidates,
    ``upper [F, room]`` the upper bounds of their scores; a number of -1 says that there was no room.
    """

    low: np.ndarray
    column: np.ndarray
    upper: np.ndarray
    number: np.ndarray

    @classmethod
    def empty(cls, neurons: int, top: int, room: int) -> _Side:
        """Nothing is known yet."""
        return cls(
            np.full((neurons, top), -np.inf, dtype=np.float32),
            np.empty((neurons, room), dtype=np.int32),
            np.empty((neurons, room), dtype=np.float32),
            np.zeros(neurons, dtype=np.int32),
        )

    def of(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return views of some neurons."""
        return self.low[part], self.column[part], self.upper[part], self.number[part]

    def candidates(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (neuron, counted from the first of the part and not decreasing; column), int64."""
        low, column, upper, number = self.of(part)
        listed = np.arange(column.shape[1]) < number[:, None]
        listed &= upper >= low.min(axis=1, keepdims=True)
        neuron, place = listed.nonzero()
        return torch.from_numpy(neuron.copy()), torch.from_numpy(
            column[neuron, place].astype(np.int64)
        )


def extremes(
    fc2_weight: torch.Tensor, unembedding: Unembedding, pool: Executor
) -> dict[str, np.ndarray]:
    """Return the promoted and suppressed tokens of every neuron.

    score(n, v) = <direction of fc2[:, n], row v>, the sum in float64, rounded to float32. Where the
    rows lie on another device than the CPU, `pyneurons.observers.vocabulary_device` finds them.

    Parameters
    ----------
    fc2_weight : Tensor [D, F]
        On the device of ``unembedding``.
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
    if not unembedding.threaded:
        return vocabulary_device.extremes(fc2_weight, unembedding)
    neurons, count = fc2_weight.shape[1], unembedding.ids.size
    top = min(TOP_TOKENS, count)
    dtype = torch.bfloat16 if _env.multiplies_bfloat16() else torch.float32
    starts = range(0, neurons, NEURON_BLOCK)
    sides = [_Side.empty(neurons, top, min(_MOST_CANDIDATES, count)) for _ in range(2)]
    unit = CARE * (2.0**-8 if dtype == torch.bfloat16 else 2.0**-24)  # of the rounded scores
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
    most = min(_VOCABULARY_BLOCK, count)
    width = unembedding.rows.shape[1]
    rounded = torch.empty(most, width, dtype=dtype)
    near = torch.empty(neurons, width, dtype=dtype)
    bound = torch.empty(neurons)
    lengths = unembedding.lengths
    share = unembedding.rounding if dtype == torch.bfloat16 else 0.0
    _ = unembedding.total  # before the threads ask for it

    def part_of(start: int) -> slice:
        return slice(start, min(start + NEURON_BLOCK, neurons))

    def directions_of(start: int) -> torch.Tensor:
        return unembedding.directions(fc2_weight[:, part_of(start)].T)

    def approach(start: int) -> None:
        directions, part = directions_of(start), part_of(start)
        near[part] = directions
        lost = (directions - near[part]).norm(dim=1)
        length = directions.norm(dim=1)
        bound[part] = CARE * error_bound(length, lost, share, directions.shape[1])

    def lay(piece: slice, first: int) -> None:
        rows = torch.empty(piece.stop - piece.start, width)
        unembedding.block(first + piece.start, rows)
        rounded[piece] = rows

    def look(start: int, first: int, there: int) -> None:
        if not hasattr(local, "scores"):
            local.scores = torch.empty(NEURON_BLOCK * most, dtype=dtype)
        part = part_of(start)
        shape = (part.stop - part.start, there)
        scores = local.scores[: shape[0] * there].view(shape)
        torch.mm(near[part], rounded[:there].T, out=scores)
        _core.score_candidates(
            (scores.view(torch.uint16) if dtype == torch.bfloat16 else scores).numpy(),
            lengths[first : first + there].numpy(),
            bound[part].numpy(),
            unit,
            first,
            *(side.of(part) for side in sides),
        )

    list(pool.map(approach, starts))
    for first in range(0, count, _VOCABULARY_BLOCK):
        there = min(_VOCABULARY_BLOCK, count - first)
        list(pool.map(functools.partial(lay, first=first), _pieces(there)))
        list(pool.map(functools.partial(look, first=first, there=there), starts))
    for side in sides:
        side.number[(sides[0].number < 0) | (sides[1].number < 0)] = -1

    def settle(start: int) -> None:
        directions, part = directions_of(start), part_of(start)
        mean[part] = unembedding.means(directions).float()
        exact = directions.double().contiguous()
        for side, name, sign in zip(sides, ("promoted", "suppressed"), (1, -1), strict=True):
            neuron, column = side.candidates(part)
            scores = torch.empty(len(neuron))
            for some in _pieces(len(neuron)):
                rows = unembedding.take(column[some])
                _score(rows, exact, neuron[some], scores[some])
            place = torch.arange(len(neuron)) - torch.searchsorted(neuron, neuron)
            width = max(top, int(place.max()) + 1 if len(place) else 0)
            keys = torch.full((len(exact), width), LOWEST, dtype=torch.int64)
            keys[neuron, place] = score_order.keys(sign * scores, column)
            keys = keys.topk(top, dim=1).values
            for crowded in (side.number[part] < 0).nonzero()[0].tolist():
                for first, rows in unembedding.blocks():
                    scores, column = torch.empty(len(rows)), torch.arange(first, first + len(rows))
                    _score(rows, exact, torch.full((len(rows),), crowded), scores)
                    both = torch.cat([keys[crowded], score_order.keys(sign * scores, column)])
                    keys[crowded] = both.topk(top).values
            values, columns = from_keys(keys)
            found[name][part] = unembedding.ids[columns.numpy()]
            found[f"{name}_scores"][part] = sign * values.numpy()

    list(pool.map(settle, starts))
    return {"neuron": np.arange(neurons, dtype=np.int32), **found, "mean_score": mean.numpy()}


def _pieces(number: int) -> Iterator[slice]:
    """Cut a number of rows into pieces that are read together."""
    for first in range(0, number, ROWS):
        yield slice(first, min(first + ROWS, number))


def _score(
    rows: torch.Tensor, directions: torch.Tensor, owner: torch.Tensor, out: torch.Tensor
) -> None:
    """``out[i] = <rows[i], directions[owner[i]]>``, summed in float64, in one order everywhere."""
    _core.exact_scores(rows.numpy(), directions.numpy(), owner.numpy(), out.numpy())
