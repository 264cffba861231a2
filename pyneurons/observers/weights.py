"""What the weights of one layer tell: bounds on z, and each update's tokens, scores and ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
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

    def scores(self, update: torch.Tensor) -> torch.Tensor:
        """Return the scores [B, V'] of updates [B, D], float32."""
        update = update.float()
        if self.projection == "final_norm":
            update = update - update.mean(dim=1, keepdim=True)
            if self.final_norm_gain is not None:
                update = update * self.final_norm_gain.float()
        if self.project_out is not None:
            update = update @ self.project_out.float().T
        out = torch.empty(update.shape[0], self.rows.shape[0])
        for start in range(0, self.rows.shape[0], _VOCABULARY_BLOCK):
            part = slice(start, min(start + _VOCABULARY_BLOCK, self.rows.shape[0]))
            rows = self.rows[part].float()
            out[:, part] = update @ rows.T
            if self.projection == "cosine":
                out[:, part] /= rows.norm(dim=1).clamp_min(1e-30)
        if self.projection == "cosine":
            out /= update.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return out


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

    def matched(self, trigger: int, excluded: np.ndarray) -> np.ndarray:
        """Return the 40 allowed tokens nearest ``trigger`` in corpus count, none of ``excluded``."""
        centre = int(self.place[trigger])
        reach = MATCHED_TOKENS + excluded.size
        near = np.arange(max(0, centre - reach), min(self.by_count.size, centre + reach + 1))
        tokens = self.by_count[near]
        keep = ~np.isin(tokens, excluded)
        tokens, near = tokens[keep], near[keep]
        distance = np.abs(self.token_counts[tokens] - self.token_counts[trigger])
        return tokens[np.lexsort((np.abs(near - centre), distance))[:MATCHED_TOKENS]]


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
        Blocks of 256 neurons run on it; results do not depend on its size.

    Returns
    -------
    vocabulary : dict
        ``neuron``; ``promoted``, ``suppressed`` int32 [F, 10] token ids; ``promoted_scores``,
        ``suppressed_scores`` float32 [F, 10]; ``mean_score`` float32 [F].
    suppression : dict
        One entry per (neuron, n, trigger): see `pyneurons.analysis.suppression`.

    Notes
    -----
    Cost: 2 F V D operations, and 256 x V x 4 bytes a thread.
    """
    neurons = fc2_weight.shape[1]
    starts = range(0, neurons, _NEURON_BLOCK)

    def block(start: int) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        update = fc2_weight[:, start : start + _NEURON_BLOCK].T
        return _observe_block(start, unembedding.scores(update), unembedding, triggers, baselines)

    vocabulary: dict[str, list[np.ndarray]] = {}
    rows: list[dict[str, Any]] = []
    for columns, block_rows in pool.map(block, starts):
        for name, values in columns.items():
            vocabulary.setdefault(name, []).append(values)
        rows.extend(block_rows)
    joined = {name: np.concatenate(parts) for name, parts in vocabulary.items()}
    suppression: dict[str, np.ndarray] = {
        name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in COLUMNS.items()
    }
    return joined, suppression


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


def _observe_block(
    start: int,
    scores: torch.Tensor,
    unembedding: Unembedding,
    triggers: Mapping[int, list[tuple[int, np.ndarray]]],
    baselines: Baselines,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    ids = unembedding.ids
    top = min(TOP_TOKENS, ids.size)
    promoted = torch.topk(scores, top, dim=1)
    suppressed = torch.topk(scores, top, dim=1, largest=False)
    # In parts: the float64 copy of all scores would be twice their size.
    mean = torch.cat([part.double().mean(dim=1) for part in torch.split(scores, 32)])
    columns = {
        "neuron": np.arange(start, start + scores.shape[0], dtype=np.int32),
        "promoted": ids[promoted.indices.numpy()].astype(np.int32),
        "promoted_scores": promoted.values.numpy(),
        "suppressed": ids[suppressed.indices.numpy()].astype(np.int32),
        "suppressed_scores": suppressed.values.numpy(),
        "mean_score": mean.float().numpy(),
    }
    rows: list[dict[str, Any]] = []
    column = np.full(baselines.token_counts.size, -1, dtype=np.int64)
    column[ids] = np.arange(ids.size)
    for local in range(scores.shape[0]):
        for n, tokens in triggers.get(start + local, []):
            rows.extend(
                _trigger_rows(
                    start + local,
                    n,
                    tokens,
                    scores[local].numpy(),
                    float(mean[local]),
                    column,
                    baselines,
                )
            )
    return columns, rows


def _trigger_rows(
    neuron: int,
    n: int,
    tokens: np.ndarray,
    scores: np.ndarray,
    mean: float,
    column: np.ndarray,
    baselines: Baselines,
) -> list[dict[str, Any]]:
    """Return one row for each distinct trigger of one neuron and one n."""
    tokens = np.unique(tokens[column[tokens] >= 0])
    random = scores[column[baselines.random(tokens)]]
    rows = []
    for token in tokens.tolist():
        matched = scores[column[baselines.matched(token, tokens)]]
        score = scores[column[token]]
        row = {
            "neuron": neuron,
            "n": n,
            "token": token,
            "score": score,
            "centred": float(score) - mean,
            "rank": int((scores > score).sum()),
        }
        for name, values in (("random", random), ("matched", matched)):
            average = float(values.mean()) if values.size else math.nan
            row[f"{name}_tokens"] = values.size
            row[f"{name}_mean"] = average
            row[f"{name}_negative"] = int((values < 0).sum())
            row[f"{name}_mean_centred"] = average - mean
            row[f"{name}_negative_centred"] = int((values < mean).sum())
        rows.append(row)
    return rows
