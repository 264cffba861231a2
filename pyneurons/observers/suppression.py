"""Whether neurons push their own triggers out of the residual stream: scores, beside baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from pyneurons.observers.vocabulary import Unembedding

RANDOM_TOKENS = 1000
MATCHED_TOKENS = 40
SEED = 20230909

# More than are compared, because triggers are left out; few neurons have triggers that fill 3/4
# of a text, and then fewer than 1,000 remain, which `random_tokens` tells.
_DRAWN_TOKENS = 4 * RANDOM_TOKENS
_NEURON_BLOCK = 256
_TRIGGER_BLOCK = 32


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
        taken = np.sort(self.place[triggers])
        others = self.by_count.size - taken.size
        centre = self.place[triggers][:, None]
        # Both ways from where the trigger would stand, so that the nearest are among them.
        near = centre - np.searchsorted(taken, centre) + np.arange(-MATCHED_TOKENS, MATCHED_TOKENS)
        inside = (near >= 0) & (near < others)
        # The i-th that is no trigger stands behind as many triggers as begin before it does.
        held = np.where(inside, near, 0)
        place = held + np.searchsorted(taken - np.arange(taken.size), held, side="right")
        tokens = self.by_count[place] if others else np.full_like(near, -1)
        distance = np.abs(self.token_counts[tokens] - self.token_counts[triggers][:, None])
        key = distance * self.by_count.size + np.abs(self.place[tokens] - centre)
        key[~inside], tokens[~inside] = np.iinfo(np.int64).max, -1
        nearest = np.argsort(key, axis=1, kind="stable")[:, :MATCHED_TOKENS]
        return np.take_along_axis(tokens, nearest, axis=1)


def suppression(
    fc2_weight: torch.Tensor,
    unembedding: Unembedding,
    triggers: Mapping[int, list[tuple[int, np.ndarray]]],
    baselines: Baselines,
    pool: Executor,
) -> dict[str, np.ndarray]:
    """Score the triggers of possible detectors in their own updates, beside other tokens.

    score(n, v) = <fc2[:, n], E[v]>; the centred score is score minus its mean over the vocabulary.

    Parameters
    ----------
    fc2_weight : Tensor [D, F]
    unembedding, baselines
        Rows without a tokenizer entry are in neither.
    triggers : dict neuron -> list of (n, token ids)
        The last tokens of the covered n-grams of each possible detector.
    pool : Executor
        Neurons run on it; results do not depend on its size.

    Returns
    -------
    dict
        `COLUMNS`, one entry per (neuron, n, trigger): see `pyneurons.analysis.suppression`.

    Notes
    -----
    Cost: 2 V D operations in float32 for each neuron with triggers; memory:
    `pyneurons.observers.vocabulary.projection_bytes`.
    """
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


def _ranks(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return how many scores are larger than each of ``own``."""
    few = 8  # a sort of 50,000 costs as much as about so many passes
    if own.size <= few:
        return np.array([np.count_nonzero(scores > score) for score in own], dtype=np.int64)
    return scores.size - np.searchsorted(np.sort(scores), own, side="right")


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
        "rank": _ranks(scores, own),
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
