"""`pyneurons.observers.vocabulary.extremes` on a device that is not the CPU, in torch's operators.

Products in 16 bits with float32 sums, on tensor cores, give every score with a bound on its error. Of
each end, the best of 32 neighbouring tokens stand for them: the tenth of the best lower bounds is no
more than the tenth score, and groups whose upper bound reaches it are looked at. Tokens whose own upper
bound reaches it are scored again, in float64. What was left out is certain, or the neuron is scored on
the whole vocabulary.

Notes
-----
Not run on a GPU yet; the tests run the same code on CPU tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyneurons.backends.float32_sums import float32_sums
from pyneurons.observers import score_order
from pyneurons.observers.score_order import CARE, LOWEST, TOP_TOKENS, error_bound, from_keys
from pyneurons.observers.unembedding import DOUBLE_ROWS, NEURON_BLOCK

if TYPE_CHECKING:
    from pyneurons.observers.unembedding import Unembedding

_SCORES = 1 << 26
"""Scores of the neurons that are projected together, at most where 16 neurons have fewer."""
_MOST_NEURONS, _LEAST_NEURONS = 1024, 16

_TERMS = 4096
"""Terms that tensor cores sum: the bound grows with them, and with it the number of candidates."""
_ROUNDOFF = 2.0**-22
"""Of one addition there. Aligned addends lose what lies 2^-23 or more below the largest, as does the sum,
with no rounding; what the bounds themselves are rounded by, and scores that become equal in float32, fit
into `_MORE_TERMS`."""
_MORE_TERMS = 8
_ALIGNED = 64
"""Numbers at whose multiples sums are cut: tensor cores take 16 bytes at a time."""

_GROUP = 32
"""Neighbouring tokens, of which the best stands for all: 128 bytes of scores."""
_LEAST_GROUPED = 4096
"""Of a smaller vocabulary, each token is its own group."""
_GROUPS = 128
"""Groups that are looked at; more than reach the tenth score of nearly all neurons."""

_EXACT = 1 << 24
"""Numbers of rows that are scored exactly together."""
_CROWDED = 64
"""Neurons that are scored on the whole vocabulary together."""


def neuron_block(vocabulary: int) -> int:
    """Return the neurons that are projected together."""
    return max(_LEAST_NEURONS, min(_MOST_NEURONS, _SCORES // vocabulary))


def projection_bytes(
    vocabulary: int, embedding: int, hidden: int, *, item: int = 2, cosine: bool = False
) -> int:
    """Return what `extremes`, or a layer's suppression, needs at most on the device.

    Weights and the map itself apart; what torch's operators take for themselves as well.

    Parameters
    ----------
    vocabulary, embedding, hidden : int
        V, E and D.
    item : int
        Bytes of an element of the output embedding.
    cosine : bool
        Whether that is the projection.
    """
    neurons = neuron_block(vocabulary)
    width = _group(vocabulary)
    groups = vocabulary // width
    near = min(_GROUPS, groups) * width + vocabulary % width
    rounded = 2 * vocabulary * embedding if item != 2 or cosine else 0
    kept = rounded + 4 * vocabulary * 3
    # Updates and what becomes of them, in float32 and float64.
    directions = neurons * (8 * hidden + 34 * embedding)
    scores = 4 * neurons * vocabulary * (1 if embedding <= _TERMS else 2)
    select = neurons * (20 * groups + 37 * near)
    exact = 18 * max(_EXACT, near * embedding)
    # A block of `Unembedding.blocks`, some of it in float64; scores of a block of detectors.
    whole = (4 * 8192 + 8 * DOUBLE_ROWS) * embedding
    whole += NEURON_BLOCK * (4 * vocabulary + 8 * DOUBLE_ROWS)
    return kept + directions + scores + max(select + exact, whole)


def extremes(fc2_weight: torch.Tensor, unembedding: Unembedding) -> dict[str, np.ndarray]:
    """Return the promoted and suppressed tokens of every neuron.

    score(n, v) = <direction of fc2[:, n], row v>, the sum in float64, rounded to float32.

    Parameters
    ----------
    fc2_weight : Tensor [D, F]
        On the device of ``unembedding``.
    unembedding : Unembedding

    Returns
    -------
    dict
        As `pyneurons.observers.vocabulary.extremes`: the same tokens, and scores that differ by the
        order of float64 sums alone.

    Notes
    -----
    Cost: 2 F V D operations in 16 bits, two passes over the scores for each end, and some 11 (D 768) to
    15 (D 9216) exact scores for each end of a neuron (Gaussian numbers in float16, 50,272 tokens).
    Memory: `projection_bytes`. The host waits some 10 times for each block of neurons.
    """
    neurons, count = fc2_weight.shape[1], unembedding.ids.size
    top = min(TOP_TOKENS, count)
    first = _FirstPass.of(unembedding)
    means: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {
        "promoted": [],
        "promoted_scores": [],
        "suppressed": [],
        "suppressed_scores": [],
    }
    block = neuron_block(count)
    for start in range(0, neurons, block):
        directions = unembedding.directions(fc2_weight[:, start : start + block].T)
        means.append(unembedding.means(directions).float().cpu().numpy())
        scores, bound = first.scores(directions)
        for name, sign in (("promoted", 1), ("suppressed", -1)):
            # The other end is the same end of the scores of the opposite update.
            if sign < 0:
                scores.neg_()
            exact = sign * directions.double()
            best = _best(scores, bound, exact, first, top)
            values, columns = from_keys(best)
            found[name].append(unembedding.ids[columns.cpu().numpy()].astype(np.int32))
            found[f"{name}_scores"].append(sign * values.cpu().numpy())
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    mean = np.concatenate(means)
    return {"neuron": np.arange(neurons, dtype=np.int32), **joined, "mean_score": mean}


@dataclass(frozen=True)
class _FirstPass:
    """Every score with a bound on its error."""

    unembedding: Unembedding
    rows: torch.Tensor  # [V, E], 16 bits, times a power of two
    lengths: torch.Tensor  # float32 [V], of these rows before they were rounded
    group_lengths: torch.Tensor  # float32 [G], the largest of each group
    share: float  # the most that rounding took from a row, of its length
    width: int  # of a group

    @classmethod
    def of(cls, unembedding: Unembedding) -> _FirstPass:
        rounded = unembedding.rounded
        rows, lengths = rounded.rows, unembedding.lengths * rounded.scale
        width = _group(len(rows))
        whole = lengths[: len(rows) // width * width]
        return cls(
            unembedding,
            rows,
            lengths,
            whole.view(-1, width).amax(dim=1),
            rounded.share,
            width,
        )

    def scores(self, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores [B, V], those of each neuron times a power of two, and bounds [B].

        ``bounds[n] * lengths[v]`` is more than the error of ``scores[n, v]``.
        """
        # The largest element becomes .5 to 1: no element that matters is too small for float16, or
        # too large. The order of scores stays as it is.
        largest = directions.abs().amax(dim=1, keepdim=True)
        exponent = torch.frexp(largest).exponent.clamp(-100, 100)
        scaled = torch.ldexp(directions, -exponent)
        near = scaled.to(self.rows.dtype)
        lost = (scaled - near.float()).norm(dim=1)
        pieces = -(-near.shape[1] // _TERMS)
        step = -(-near.shape[1] // (_ALIGNED * pieces)) * _ALIGNED
        terms = step + pieces + _MORE_TERMS
        bound = CARE * error_bound(scaled.norm(dim=1), lost, self.share, terms, _ROUNDOFF)
        with float32_sums():
            scores = _product(near[:, :step], self.rows[:, :step])
            for begin in range(step, near.shape[1], step):
                part = slice(begin, begin + step)
                scores += _product(near[:, part], self.rows[:, part])
        return scores, bound


def _group(vocabulary: int) -> int:
    return _GROUP if vocabulary >= _LEAST_GROUPED else 1


def _product(directions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return float32 sums of the products of 16-bit numbers."""
    if rows.device.type == "cpu":  # has no such product; tests come here
        return directions.float() @ rows.float().T
    return torch.mm(directions, rows.T, out_dtype=torch.float32)


def _best(
    scores: torch.Tensor, bound: torch.Tensor, exact: torch.Tensor, first: _FirstPass, top: int
) -> torch.Tensor:
    """Return the keys of the largest exact scores of each neuron, int64 [B, top].

    Parameters
    ----------
    scores, bound
        Of `_FirstPass.scores`.
    exact : Tensor [B, E]
        Directions, float64.
    """
    column, upper, number, certain = _candidates(scores, bound, first, top)
    embedding = exact.shape[1]
    # Neurons with as many candidates are scored together: few have many.
    number, order = torch.where(certain, number, top).sort(descending=True)
    counts = number.tolist()
    best = torch.empty(len(exact), top, dtype=torch.int64, device=exact.device)
    start = 0
    while start < len(counts):
        most = max(counts[start], top)
        some = order[start : start + max(1, _EXACT // (most * embedding))]
        place = upper[some].topk(most, dim=1).indices
        token = column[some].gather(1, place)
        rows = first.unembedding.take(token.flatten()).double().view(*token.shape, embedding)
        found = torch.bmm(rows, exact[some].unsqueeze(2)).squeeze(2).float()
        best[some] = score_order.keys(found, token).topk(top, dim=1).values
        start += len(some)
    crowded = (~certain).nonzero().flatten()
    for some in torch.split(crowded, _CROWDED) if len(crowded) else ():
        best[some] = _on_whole_vocabulary(exact[some], first.unembedding, top)
    return best


def _candidates(
    scores: torch.Tensor, bound: torch.Tensor, first: _FirstPass, top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the tokens that may be among the largest.

    Returns
    -------
    column, upper : Tensor [B, C]
        Tokens, each once, and the upper bounds of their scores.
    number : Tensor [B]
        Of them, those with the largest upper bounds are candidates; at least ``top``.
    certain : Tensor [B]
        Whether no other token can be among the largest.
    """
    width, groups = first.width, len(first.group_lengths)
    highest = torch.unflatten(scores[:, : groups * width], 1, (groups, width)).amax(dim=2)
    slack = bound[:, None] * first.group_lengths
    # Of `top` different tokens: the `top`-th largest score is no less.
    least = (highest - slack).topk(top, dim=1).values[:, -1:]
    kept = min(_GROUPS, groups)
    # The next one tells whether those that are left out can matter.
    reach = highest.add_(slack).topk(min(kept + 1, groups), dim=1)
    certain = (reach.values[:, kept:] < least).all(dim=1)
    inside = torch.arange(width, device=scores.device)
    column = (reach.indices[:, :kept, None] * width + inside).flatten(1)
    rest = torch.arange(groups * width, scores.shape[1], device=scores.device)
    column = torch.cat([column, rest.expand(len(column), -1)], dim=1)
    near, slack = scores.gather(1, column), bound[:, None] * first.lengths[column]
    least = torch.maximum(least, (near - slack).topk(top, dim=1).values[:, -1:])
    upper = near.add_(slack)
    return column, upper, (upper >= least).sum(dim=1), certain


def _on_whole_vocabulary(exact: torch.Tensor, unembedding: Unembedding, top: int) -> torch.Tensor:
    """Return the keys of the largest scores of a few neurons, int64 [B, top]."""
    best = torch.full((len(exact), top), LOWEST, dtype=torch.int64, device=exact.device)
    for first, rows in unembedding.blocks():
        for start in range(0, len(rows), DOUBLE_ROWS):
            few = rows[start : start + DOUBLE_ROWS]
            column = first + start + torch.arange(len(few), device=exact.device)
            found = score_order.keys((exact @ few.double().T).float(), column)
            best = torch.cat([best, found], dim=1).topk(top, dim=1).values
    return best
