"""Do detectors push their own triggers up or down the vocabulary? (definition 6, after a scan)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

CRITERIA: Final = ("mean", "majority", "all")
MEASURES: Final = {"raw": "", "centred": "_centred"}
"""Names of the two scores and the ends of their columns."""

_TOKENS: Final = ("random_tokens", "matched_tokens")
_SCORES: Final = ("random_mean", "random_negative", "matched_mean", "matched_negative")


def suppression(rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Sum up, per detector, where its update points with respect to its triggers.

    Parameters
    ----------
    rows : dict of arrays, one row per (detector, trigger)
        ``layer, neuron, n``; ``token``, the trigger (the last token of a covered n-gram);
        ``score``, its projection on the detector's update, ``centred``, the score minus its mean
        over the vocabulary, ``rank``, its place in the vocabulary from the top, from 0.

        Of the 1,000 random corpus tokens, the same on every row of a detector:
        ``random_tokens``, their number, ``random_mean``, their mean score, ``random_negative``,
        how many have a score < 0.

        Of the 40 tokens nearest this trigger in corpus count: ``matched_tokens, matched_mean,
        matched_negative``.

        The centred twins of the last two groups: ``random_mean_centred,
        random_negative_centred, matched_mean_centred, matched_negative_centred``.

    Returns
    -------
    dict
        One row per detector, by layer and neuron: ``layer, neuron, n, triggers``,
        ``best_rank, worst_rank``, ``random_tokens, matched_tokens`` (the matched ones of all its
        triggers together), and for the triggers and each baseline, raw and ``_centred``: the
        ``mean`` score, ``negative`` (how many tokens score < 0) and the three criteria as bool:
        ``mean_below`` (mean < 0), ``majority_below`` (more than half score < 0), ``all_below``.
        Columns of a baseline begin with ``random_`` or ``matched_``. ``random_all_chance`` and
        ``matched_all_chance`` (and their twins): the chance that as many tokens as there are
        triggers, drawn from the baseline, all score < 0; without it ``all_below`` of 5 triggers
        would be held against that of 1,000 tokens.

    Raises
    ------
    InputError
        A trigger has no baseline tokens.
    """
    layer, neuron, n = (
        np.asarray(rows[name]).astype(np.int64) for name in ("layer", "neuron", "n")
    )
    order = np.lexsort((n, neuron, layer))
    layer, neuron, n = layer[order], neuron[order], n[order]
    new = (np.diff(layer) != 0) | (np.diff(neuron) != 0) | (np.diff(n) != 0)
    starts = np.flatnonzero(np.concatenate([[True], new])[: layer.size])

    def each(name: str) -> np.ndarray:
        return np.asarray(rows[name])[order]

    def summed(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts) if starts.size else values[:0]

    for name in _TOKENS:
        if (each(name) < 1).any():
            i = int(np.flatnonzero(each(name) < 1)[0])
            message = f"suppression: {name} is {each(name)[i]} at neuron {layer[i]}.{neuron[i]}"
            raise InputError(message)

    triggers = summed(np.ones(layer.size, dtype=np.int64))
    rank = each("rank").astype(np.int64)
    tokens = {
        "": triggers,
        "random_": each("random_tokens").astype(np.int64)[starts],
        "matched_": summed(each("matched_tokens").astype(np.int64)),
    }
    out: dict[str, Any] = {
        "layer": layer[starts],
        "neuron": neuron[starts],
        "n": n[starts],
        "triggers": triggers,
        "best_rank": np.minimum.reduceat(rank, starts) if starts.size else rank[:0],
        "worst_rank": np.maximum.reduceat(rank, starts) if starts.size else rank[:0],
        "random_tokens": tokens["random_"],
        "matched_tokens": tokens["matched_"],
    }
    for measure, end in MEASURES.items():
        score = each("score" if measure == "raw" else "centred").astype(np.float64)
        matched_sum = each(f"matched_mean{end}").astype(np.float64) * each("matched_tokens")
        means = {
            "": summed(score) / triggers,
            "random_": each(f"random_mean{end}").astype(np.float64)[starts],
            "matched_": summed(matched_sum) / tokens["matched_"],
        }
        negatives = {
            "": summed((score < 0).astype(np.int64)),
            "random_": each(f"random_negative{end}").astype(np.int64)[starts],
            "matched_": summed(each(f"matched_negative{end}").astype(np.int64)),
        }
        for who, number in tokens.items():
            out[f"{who}mean{end}"] = means[who]
            out[f"{who}negative{end}"] = negatives[who]
            out[f"{who}mean_below{end}"] = means[who] < 0
            out[f"{who}majority_below{end}"] = 2 * negatives[who] > number
            out[f"{who}all_below{end}"] = negatives[who] == number
            if who:
                out[f"{who}all_chance{end}"] = _all_negative(negatives[who], number, triggers)
    return out


def shares(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of detectors that point away from their triggers, beside the baselines.

    Parameters
    ----------
    table : dict
        A table of `suppression`, or some of its rows.

    Returns
    -------
    dict
        Six rows: ``measure`` ("raw", "centred"), ``criterion`` ("mean", "majority", "all"),
        ``detectors`` (their number), ``triggers``, ``random`` and ``matched``: the share of
        detectors that meet the criterion on their triggers, and on either baseline;
        ``random_chance, matched_chance``: the mean of ``all_chance``, NaN for the other criteria.
        All shares are NaN without a detector.
    """
    number = len(table["layer"])
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "measure",
            "criterion",
            "detectors",
            "triggers",
            "random",
            "matched",
            "random_chance",
            "matched_chance",
        )
    }

    def mean(name: str) -> float:
        return float(np.mean(table[name])) if number else float("nan")

    for measure, end in MEASURES.items():
        for criterion in CRITERIA:
            columns["measure"].append(measure)
            columns["criterion"].append(criterion)
            columns["detectors"].append(number)
            for name, who in (("triggers", ""), ("random", "random_"), ("matched", "matched_")):
                columns[name].append(mean(f"{who}{criterion}_below{end}"))
            for who in ("random_", "matched_"):
                chance = mean(f"{who}all_chance{end}") if criterion == "all" else float("nan")
                columns[f"{who}chance"].append(chance)
    return {
        name: values if isinstance(values[0], str) else np.array(values)
        for name, values in columns.items()
    }


def _all_negative(negative: np.ndarray, tokens: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return C(negative, drawn) / C(tokens, drawn), with at most all tokens drawn."""
    drawn = np.minimum(drawn, tokens)
    chance = np.ones(drawn.size)
    for step in range(int(drawn.max()) if drawn.size else 0):
        going = step < drawn
        factor = (negative[going] - step) / (tokens[going] - step)
        chance[going] *= np.maximum(factor, 0.0)
    return chance
