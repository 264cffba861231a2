"""What the weights of one layer tell: bounds on z, and each update's tokens, scores and ranks."""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor

TOP_TOKENS = 10
RANDOM_TOKENS = 1000
MATCHED_TOKENS = 40
SEED = 20230909
PROJECTIONS = ("dot", "cosine", "final_norm")

# More than are compared, because triggers are left out; few neurons have triggers that fill 3/4
# of a text, and then fewer than 1,000 remain, which `random_tokens` tells.
_DRAWN_TOKENS = 4 * RANDOM_TOKENS
_NEURON_BLOCK = 256
_VOCABULARY_BLOCK = 8192
_TRIGGER_BLOCK = 32
_CHUNK = 32
_LOW = 0xFFFFFFFF
_UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def bounds(
    fc1_weight: torch.Tensor,
    fc1_bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    mode: str,
) -> dict[str, np.ndarray]:
    """Bound the pre-activation of every neuron over all residual vectors (definition 9).

    fc1 reads y * gamma + beta with y in the open ball of radius sqrt(D) of the hyperplane
    sum(y) = 0, so with w one row of fc1 and P = I - 11^T / D

        sup z = sqrt(D) * ||P (w * gamma)|| + w . beta + b,   inf z the same with a minus,
        margin = (2u + u^2 + (D + 2) 2^-24) * (sqrt(D) ||w * gamma|| + |w| . |beta| + |b|).

    Parameters
    ----------
    fc1_weight : Tensor [F, D]
    fc1_bias : Tensor [F] or None
    norm_weight, norm_bias : Tensor [D] or None
        Of the LayerNorm whose output fc1 reads.
    mode : str
        Numeric mode; u is its unit roundoff.

    Returns
    -------
    dict
        ``z_sup``, ``z_inf``, ``margin`` float64 [F]; ``provably_dead`` (sup z + margin <= 0) and
        ``provably_on`` (inf z - margin > 0) bool [F].
    """
    neurons, hidden = fc1_weight.shape
    u = _UNIT_ROUNDOFF[mode]
    factor = 2 * u + u * u + (hidden + 2) * 2.0**-24
    gain = torch.ones(hidden, dtype=torch.float64) if norm_weight is None else norm_weight.double()
    shift = torch.zeros(hidden, dtype=torch.float64) if norm_bias is None else norm_bias.double()
    bias = torch.zeros(neurons, dtype=torch.float64) if fc1_bias is None else fc1_bias.double()
    reach, centre, margin = (np.empty(neurons) for _ in range(3))
    root = math.sqrt(hidden)
    for start in range(0, neurons, 1024):
        part = slice(start, min(start + 1024, neurons))
        weight = fc1_weight[part].double()
        scaled = weight * gain
        projected = scaled - scaled.mean(dim=1, keepdim=True)
        reach[part] = (root * projected.norm(dim=1)).numpy()
        centre[part] = (weight @ shift + bias[part]).numpy()
        size = root * scaled.norm(dim=1) + weight.abs() @ shift.abs() + bias[part].abs()
        margin[part] = (factor * size).numpy()
    z_sup, z_inf = centre + reach, centre - reach
    return {
        "z_sup": z_sup,
        "z_inf": z_inf,
        "margin": margin,
        "provably_dead": z_sup + margin <= 0,
        "provably_on": z_inf - margin > 0,
    }


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
        """Return what `blocks` are multiplied with for updates [B, D]: float32 [B, E]."""
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

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (first row, at most 8,192 rows in float32), to be multiplied with.

        All in one buffer, which the next block overwrites.
        """
        height, width = self.rows.shape
        buffer = torch.empty(min(_VOCABULARY_BLOCK, height), width)
        for start in range(0, height, _VOCABULARY_BLOCK):
            rows = buffer[: min(_VOCABULARY_BLOCK, height - start)]
            rows.copy_(self.rows[start : start + rows.shape[0]])
            if self.projection == "cosine":
                rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
            yield start, rows


def projection_bytes(vocabulary: int, embedding: int, hidden: int, threads: int) -> int:
    """Return what `observe_updates` needs at most at a time, its outputs apart."""
    rows = min(_VOCABULARY_BLOCK, vocabulary)
    # Scores of a block, a quarter more for sums and candidates, and the neurons' directions.
    block = _NEURON_BLOCK * (5 * rows + 8 * (hidden + embedding))
    triggers = _NEURON_BLOCK * (4 * vocabulary + 8 * (hidden + embedding))
    return 4 * rows * embedding + threads * block + triggers


@dataclass(frozen=True)
class Baselines:
    """Tokens that a detector's triggers are compared with (fixed seed)."""

    drawn: np.ndarray  # ids at random rows of the corpus that hold no boundary
    token_counts: np.ndarray  # int64 [V]
    by_count: np.ndarray  # allowed ids in order of corpus count, ties in a fixed random order
    place: np.ndarray  # int64 [V], place of each id in by_count, -1 for ids that are not allowed

    @classmethod
    def build(
        cls, ids: np.ndarray, token_counts: np.ndarray, allowed: np.ndarray, boundary_id: int
    ) -> Baselines:
        """Draw the random tokens and sort the allowed ids (those with a tokenizer entry)."""
        generator = np.random.default_rng(SEED)
        drawn: list[int] = []
        # Rejection instead of an index of all countable rows, which would cost 8 bytes a row.
        for _ in range(64):
            tokens = np.asarray(ids[generator.integers(0, ids.size, size=RANDOM_TOKENS)])
            drawn.extend(tokens[tokens != boundary_id].tolist())
            if len(drawn) >= _DRAWN_TOKENS:
                break
        shuffled = generator.permutation(allowed)
        by_count = shuffled[np.argsort(token_counts[shuffled], kind="stable")]
        place = np.full(token_counts.size, -1, dtype=np.int64)
        place[by_count] = np.arange(by_count.size)
        return cls(np.array(drawn[:_DRAWN_TOKENS], dtype=np.int64), token_counts, by_count, place)

    def random(self, excluded: np.ndarray) -> np.ndarray:
        """Return the first 1,000 drawn tokens that are allowed and none of ``excluded``."""
        keep = (self.place[self.drawn] >= 0) & ~np.isin(self.drawn, excluded)
        first: np.ndarray = self.drawn[keep][:RANDOM_TOKENS]
        return first

    def matched(self, triggers: np.ndarray) -> np.ndarray:
        """Return per trigger the 40 allowed tokens nearest in corpus count, none of ``triggers``.

        Nearest in count, then in place among the tokens sorted by count, then the rarer; [k, 40]
        ids, with -1 where there are no more.
        """
        keep = np.ones(self.by_count.size, dtype=bool)
        keep[self.place[triggers]] = False
        others = self.by_count[keep]
        centre = self.place[triggers][:, None]
        # Both ways from where the trigger would stand, so that the nearest are among them.
        near = (np.cumsum(keep) - keep)[centre] + np.arange(-MATCHED_TOKENS, MATCHED_TOKENS)
        inside = (near >= 0) & (near < others.size)
        tokens = others[np.where(inside, near, 0)] if others.size else np.full_like(near, -1)
        distance = np.abs(self.token_counts[tokens] - self.token_counts[triggers][:, None])
        key = distance * self.by_count.size + np.abs(self.place[tokens] - centre)
        key[~inside], tokens[~inside] = np.iinfo(np.int64).max, -1
        nearest = np.argsort(key, axis=1, kind="stable")[:, :MATCHED_TOKENS]
        return np.take_along_axis(tokens, nearest, axis=1)


def observe_updates(
    fc2_weight: torch.Tensor,
    unembedding: Unembedding,
    triggers: Mapping[int, list[tuple[int, np.ndarray]]],
    baselines: Baselines,
    pool: Executor,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Project every neuron's update onto the vocabulary.

    score(n, v) = <fc2[:, n], E[v]>; the centred score is score minus its mean over the vocabulary.

    Parameters
    ----------
    fc2_weight : Tensor [D, F]
    unembedding, baselines
        Rows without a tokenizer entry are in neither.
    triggers : dict neuron -> list of (n, token ids)
        The last tokens of the covered n-grams of each possible detector.
    pool : Executor
        Blocks of neurons run on it; results do not depend on its size.

    Returns
    -------
    vocabulary : dict
        ``neuron``; ``promoted``, ``suppressed`` int32 [F, 10] token ids, of equal scores the lower
        id first; ``promoted_scores``, ``suppressed_scores`` float32 [F, 10]; ``mean_score``
        float32 [F].
    suppression : dict
        One entry per (neuron, n, trigger): see `pyneurons.analysis.suppression`.

    Notes
    -----
    Cost: 2 F V D operations; memory: `projection_bytes`.
    """
    return (
        _vocabulary(fc2_weight, unembedding, pool),
        _suppression(fc2_weight, unembedding, triggers, baselines, pool),
    )


# Buffers are made once in the two that follow: glibc puts small arrays that stay into the place of a
# large one that was freed, and the next large one needs a new place (2.4 GB instead of 1 in a scan of
# 125m shape).


def _vocabulary(
    fc2_weight: torch.Tensor, unembedding: Unembedding, pool: Executor
) -> dict[str, np.ndarray]:
    neurons = fc2_weight.shape[1]
    top = min(TOP_TOKENS, unembedding.ids.size)
    lowest = torch.iinfo(torch.int64).min
    promoted, suppressed = (torch.full((neurons, top), lowest, dtype=torch.int64) for _ in range(2))
    total = torch.zeros(neurons, dtype=torch.float64)

    local = threading.local()

    def block(start: int, column: int, rows: torch.Tensor) -> None:
        if not hasattr(local, "scores"):
            local.scores = torch.empty(_NEURON_BLOCK * min(_VOCABULARY_BLOCK, len(unembedding.ids)))
        part = slice(start, min(start + _NEURON_BLOCK, neurons))
        directions = unembedding.directions(fc2_weight[:, part].T)
        scores = local.scores[: directions.shape[0] * rows.shape[0]].view(-1, rows.shape[0])
        torch.mm(directions, rows.T, out=scores)
        # In parts: the float64 copy of all scores would be twice their size.
        total[part] += torch.cat([few.double().sum(dim=1) for few in torch.split(scores, 32)])
        promoted[part] = _merge_largest(promoted[part], scores, column)
        suppressed[part] = _merge_largest(suppressed[part], scores.neg_(), column)

    for column, rows in unembedding.blocks():
        work = functools.partial(block, column=column, rows=rows)
        list(pool.map(work, range(0, neurons, _NEURON_BLOCK)))  # raises what a block raised
    vocabulary = {"neuron": np.arange(neurons, dtype=np.int32)}
    for name, keys, sign in (("promoted", promoted, 1), ("suppressed", suppressed, -1)):
        values, columns = _from_keys(keys)
        vocabulary[name] = unembedding.ids[columns.numpy()].astype(np.int32)
        vocabulary[f"{name}_scores"] = sign * values.numpy()
    vocabulary["mean_score"] = (total / unembedding.ids.size).float().numpy()
    return vocabulary


def _suppression(
    fc2_weight: torch.Tensor,
    unembedding: Unembedding,
    triggers: Mapping[int, list[tuple[int, np.ndarray]]],
    baselines: Baselines,
    pool: Executor,
) -> dict[str, np.ndarray]:
    column_of = np.full(baselines.token_counts.size, -1, dtype=np.int64)
    column_of[unembedding.ids] = np.arange(unembedding.ids.size)
    detectors = sorted(triggers)
    buffer = torch.empty(min(_NEURON_BLOCK, len(detectors)), unembedding.ids.size)
    found = []
    for start in range(0, len(detectors), _NEURON_BLOCK):
        some = detectors[start : start + _NEURON_BLOCK]
        scores = buffer[: len(some)]
        _fill_scores(scores, fc2_weight[:, some].T, unembedding, pool)
        means = [float(own.double().mean()) for own in scores]

        def observe(neuron: int, own: np.ndarray, mean: float) -> list[dict[str, np.ndarray]]:
            return [
                _trigger_columns(neuron, n, tokens, own, mean, column_of, baselines)
                for n, tokens in triggers[neuron]
            ]

        parts = pool.map(observe, some, scores.numpy(), means)
        found += [columns for part in parts for columns in part]
    return {
        name: np.concatenate([np.empty(0, dtype), *(columns[name] for columns in found)])
        for name, dtype in COLUMNS.items()
    }


def _fill_scores(
    out: torch.Tensor, update: torch.Tensor, unembedding: Unembedding, pool: Executor
) -> None:
    """Write the scores [B, V'] of updates [B, D]."""
    directions = unembedding.directions(update)
    for column, rows in unembedding.blocks():

        def multiply(start: int, column: int = column, rows: torch.Tensor = rows) -> None:
            part = slice(start, start + _TRIGGER_BLOCK)
            torch.mm(directions[part], rows.T, out=out[part, column : column + rows.shape[0]])

        list(pool.map(multiply, range(0, out.shape[0], _TRIGGER_BLOCK)))


def _keys(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return int64 numbers in the order of the scores, of equal ones the lower column first."""
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_LOW - columns)


def _from_keys(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (scores, columns) of `_keys`."""
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32), _LOW - (keys & _LOW)


def _merge_largest(kept: torch.Tensor, scores: torch.Tensor, first: int) -> torch.Tensor:
    """Return the keys of the largest of ``kept [B, k]`` and of scores [B, C].

    Column c of the scores counts as ``first + c``. The k largest lie in the k chunks of 32 columns
    whose own largest come first, so that only those are sorted, and of equal scores the lower column
    wins on every machine.
    """
    top = kept.shape[1]
    whole = scores.shape[1] // _CHUNK * _CHUNK
    tail = torch.arange(whole, scores.shape[1])
    candidates = [kept, _keys(scores[:, whole:], tail + first)]
    if whole:
        chunks = scores[:, :whole].view(scores.shape[0], -1, _CHUNK)
        keys = _keys(chunks.amax(dim=2), torch.arange(chunks.shape[1]))
        _, best = _from_keys(keys.topk(min(top, chunks.shape[1]), sorted=False).values)
        columns = (best[:, :, None] * _CHUNK + torch.arange(_CHUNK)).flatten(1)
        candidates.append(_keys(scores.gather(1, columns), columns + first))
    return torch.cat(candidates, dim=1).topk(top).values


COLUMNS: dict[str, type] = {
    "neuron": np.int32,
    "n": np.int32,
    "token": np.int32,
    "score": np.float32,
    "centred": np.float32,
    "rank": np.int32,
    "random_tokens": np.int32,
    "random_mean": np.float32,
    "random_negative": np.int32,
    "random_mean_centred": np.float32,
    "random_negative_centred": np.int32,
    "matched_tokens": np.int32,
    "matched_mean": np.float32,
    "matched_negative": np.int32,
    "matched_mean_centred": np.float32,
    "matched_negative_centred": np.int32,
}


def _trigger_columns(
    neuron: int,
    n: int,
    tokens: np.ndarray,
    scores: np.ndarray,
    mean: float,
    column_of: np.ndarray,
    baselines: Baselines,
) -> dict[str, np.ndarray]:
    """Return `COLUMNS`, one entry for each distinct trigger of one neuron and one n."""
    tokens = np.unique(tokens[column_of[tokens] >= 0])
    own = scores[column_of[tokens]]
    random, matched = baselines.random(tokens), baselines.matched(tokens)
    columns: dict[str, Any] = {
        "neuron": neuron,
        "n": n,
        "token": tokens,
        "score": own,
        "centred": own.astype(np.float64) - mean,
        "rank": [np.count_nonzero(scores > score) for score in own],
    }
    for name, others in (("random", random[None]), ("matched", matched)):
        there = others >= 0
        values = np.where(there, scores[column_of[others]], 0).astype(np.float64)
        number = there.sum(axis=1)
        with np.errstate(invalid="ignore"):  # no others, no mean
            average = values.sum(axis=1) / number
        columns[f"{name}_tokens"] = number
        columns[f"{name}_mean"] = average
        columns[f"{name}_negative"] = ((values < 0) & there).sum(axis=1)
        columns[f"{name}_mean_centred"] = average - mean
        columns[f"{name}_negative_centred"] = ((values < mean) & there).sum(axis=1)
    return {
        name: np.broadcast_to(np.asarray(columns[name], dtype=dtype), tokens.shape)
        for name, dtype in COLUMNS.items()
    }
