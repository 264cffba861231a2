"""The program a careful user would write: transformers, forward hooks, NumPy.

Nothing of pyneurons is imported. The definitions are those of the paper and of the documentation;
every function follows their sentences in order, and speed matters only where 4,608 neurons and
half a million positions would otherwise take hours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import OPTForCausalLM

Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.bool_]

BOUNDARY = 2
"""`</s>`: BOS at position 0, a separator anywhere else. It is in no n-gram."""

LARGEST_LIST = {1: 5, 2: 50, 3: 50}
"""K: a detector's covering number is at most so much."""

SUPPORT_OCCURRENCES = 5
"""Fires on covered n-grams that occur at least so often are the support."""

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


# ----- the model ---------------------------------------------------------------------------------


def load(directory: Path | str) -> Any:
    """Open a checkpoint in float32, with transformers alone."""
    model = OPTForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def naive_preactivations(
    directory: Path | str | Any, sequences: list[Ids]
) -> list[npt.NDArray[np.float32]]:
    """Return ``fc1(x)`` of every position, one array [N, F] per layer.

    Every sequence runs alone, so nothing is padded and no mask is needed. ``directory`` may be a
    model that `load` returned.
    """
    model = load(directory) if isinstance(directory, (str, Path)) else directory
    layers = model.model.decoder.layers
    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in layers]

    def keep(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            found[layer].append(output.reshape(-1, output.shape[-1]).numpy().copy())

        return hook

    handles = [layer.fc1.register_forward_hook(keep(i)) for i, layer in enumerate(layers)]
    # Short sequences: on a busy machine the waiting of several threads costs 20 times the work.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for sequence in sequences:
                batch = torch.tensor(np.asarray(sequence, dtype=np.int64))[None]
                model.model.decoder(input_ids=batch, use_cache=False)
    finally:
        torch.set_num_threads(threads)
        for handle in handles:
            handle.remove()
    return [np.concatenate(rows) for rows in found]


def naive_bounds(
    directory: Path | str | Any, dtype: str = "float32"
) -> list[dict[str, npt.NDArray[np.float64]]]:
    """Return per layer ``z_sup``, ``z_inf`` and ``margin`` [F] of definition 9, in float64."""
    model = load(directory) if isinstance(directory, (str, Path)) else directory
    config = model.config
    unit = UNIT_ROUNDOFF[dtype]
    size = config.hidden_size
    bounds = []
    for layer in model.model.decoder.layers:
        norm = layer.final_layer_norm if config.do_layer_norm_before else layer.self_attn_layer_norm
        weight = rounded(layer.fc1.weight, dtype)
        bias = np.zeros(len(weight)) if layer.fc1.bias is None else rounded(layer.fc1.bias, dtype)
        gamma = np.ones(size) if norm.weight is None else norm.weight.detach().double().numpy()
        beta = np.zeros(size) if norm.bias is None else norm.bias.detach().double().numpy()
        scaled = weight * gamma
        centred = scaled - scaled.mean(axis=1, keepdims=True)
        radius = np.sqrt(size) * np.linalg.norm(centred, axis=1)
        middle = weight @ beta + bias
        factor = 2 * unit + unit**2 + (size + 2) * 2.0**-24
        magnitude = np.sqrt(size) * np.linalg.norm(scaled, axis=1)
        magnitude = magnitude + np.abs(weight) @ np.abs(beta) + np.abs(bias)
        bounds.append(
            {"z_sup": middle + radius, "z_inf": middle - radius, "margin": factor * magnitude}
        )
    return bounds


def rounded(parameter: torch.Tensor, dtype: str) -> npt.NDArray[np.float64]:
    """Return a weight as the numeric mode sees it."""
    return parameter.detach().to(getattr(torch, dtype)).double().numpy()


# ----- the corpus --------------------------------------------------------------------------------


def split(ids: npt.ArrayLike, starts: npt.ArrayLike) -> list[Ids]:
    """Cut ids that lie end to end into sequences."""
    ids = np.asarray(ids).astype(np.int64)
    starts = np.asarray(starts)
    return [ids[a:b] for a, b in pairwise(starts)]


@dataclass
class Ngrams:
    """Which n-gram ends at each position."""

    n: int
    of_row: Ids  # [N], -1 where no countable n-gram ends
    tokens: list[tuple[int, ...]]  # [G], ascending: an n-gram's id is its place here
    occurrences: Ids  # [G]

    @property
    def positions(self) -> int:
        """How many positions end a countable n-gram."""
        return int((self.of_row >= 0).sum())


def naive_ngrams(
    ids: npt.ArrayLike, starts: npt.ArrayLike, n: int, boundary: int = BOUNDARY
) -> Ngrams:
    """N consecutive tokens of one sequence, none of them the boundary."""
    seen: list[tuple[int, ...] | None] = []
    for sequence in split(ids, starts):
        tokens = sequence.tolist()
        for position in range(len(tokens)):
            gram = tuple(tokens[max(position - n + 1, 0) : position + 1])
            seen.append(gram if len(gram) == n and boundary not in gram else None)
    occurrences = Counter(gram for gram in seen if gram is not None)
    in_order = sorted(occurrences)
    identity = {gram: g for g, gram in enumerate(in_order)}
    return Ngrams(
        n,
        np.array([-1 if gram is None else identity[gram] for gram in seen], dtype=np.int64),
        in_order,
        np.array([occurrences[gram] for gram in in_order], dtype=np.int64),
    )


# ----- one layer's statistics --------------------------------------------------------------------


@dataclass
class Detector:
    """One row of the table of detectors."""

    n: int
    fires: int
    ngram_fires: int
    covering: int
    covered: list[tuple[int, ...]]  # ascending
    coverage: float
    min_occurrences: int
    support: int


@dataclass
class NgramStatistics:
    """What one n says about the neurons of a layer."""

    ngrams: Ngrams
    fires: Ids  # A_n [F]
    counts: list[tuple[Ids, Ids]]  # per neuron: n-gram ids, fires on each (never 0)
    held_by: list[Ids]  # per neuron: fires on its first k n-grams, the largest first, k = 1, 2, ...
    histogram: list[dict[int, int]]  # per neuron: fires on an n-gram -> number of such n-grams
    covering: Ids  # [F], at the share 19/20
    all_fires: Ids  # [F]

    def covering_at(self, share: Fraction) -> Ids:
        """Return the least number of n-grams that hold at least ``share`` of A_n."""
        return np.array(
            [
                covering_number(so_far, int(total), share)
                for so_far, total in zip(self.held_by, self.fires, strict=True)
            ],
            dtype=np.int64,
        )

    def detectors(
        self,
        largest: int | None = None,
        coverage: Fraction = Fraction(19, 20),
        precision: Fraction = Fraction(19, 20),
        min_count: int = 1,
    ) -> dict[int, Detector]:
        """Definition 4, in integers."""
        largest = LARGEST_LIST[self.ngrams.n] if largest is None else largest
        rows = {}
        numbers = self.covering_at(coverage)
        for neuron in np.flatnonzero((numbers >= 1) & (numbers <= largest)).tolist():
            grams, held = self.counts[neuron]
            total = int(self.fires[neuron])
            seen = self.ngrams.occurrences[grams]
            precise = held * precision.denominator >= seen * precision.numerator
            covered = precise & (seen >= min_count)
            share = int(held[covered].sum())
            if share * coverage.denominator < total * coverage.numerator:
                continue
            frequent = covered & (seen >= SUPPORT_OCCURRENCES)
            rows[neuron] = Detector(
                n=self.ngrams.n,
                fires=int(self.all_fires[neuron]),
                ngram_fires=total,
                covering=int(numbers[neuron]),
                covered=[self.ngrams.tokens[g] for g in grams[covered]],
                coverage=share / total,
                min_occurrences=int(seen[covered].min()),
                support=int(held[frequent].sum()),
            )
        return rows


@dataclass
class Statistics:
    """Everything definitions 1 to 7 say about one layer."""

    tokens: int
    fires: Ids
    bos_fires: Ids
    separator_fires: Ids
    domain_fires: dict[str, Ids]
    first_fire: Ids
    position_fires: dict[str | None, Ids]  # None: all domains; [F, T]
    full_sequences: dict[str | None, int]
    mi: dict[str | None, npt.NDArray[np.float64]]
    ngrams: dict[int, NgramStatistics] = field(default_factory=dict)

    @property
    def frequency(self) -> npt.NDArray[np.float64]:
        """Fires over every position run."""
        return self.fires / self.tokens

    @property
    def dead(self) -> Bits:
        """No fire on the whole corpus."""
        return self.fires == 0

    @property
    def bias(self) -> float:
        """About the mutual information of a neuron with no positional effect."""
        return 1 / (2 * self.full_sequences[None])

    def positional(self, threshold: float = 0.05) -> list[int]:
        """Return the neurons above the threshold, nothing subtracted."""
        return np.flatnonzero(self.mi[None] > threshold).tolist()


def covering_number(held_by: Ids, total: int, share: Fraction) -> int:
    """Return the first k whose ``held_by[k - 1]`` is the share of ``total``; 0 without fires."""
    if total == 0:
        return 0
    enough = held_by * share.denominator >= total * share.numerator
    return int(np.argmax(enough)) + 1


def mutual_information(counts: npt.NDArray[np.int64], sequences: int) -> npt.NDArray[np.float64]:
    """Definition 7 of ``counts`` [F, T] over so many full sequences, in nats."""
    if sequences == 0:
        return np.full(len(counts), np.nan)
    frequency = counts / sequences
    mean = frequency.mean(axis=1, keepdims=True)

    def term(share: Any, overall: Any) -> Any:
        overall = np.broadcast_to(overall, share.shape)
        ratio = np.divide(share, overall, out=np.ones_like(share), where=share > 0)
        return share * np.log(ratio)  # 0 log 0 = 0

    return (term(frequency, mean) + term(1 - frequency, 1 - mean)).mean(axis=1)


def naive_statistics(
    bits: Bits,
    ids: npt.ArrayLike,
    starts: npt.ArrayLike,
    sequence_domain: npt.ArrayLike,
    domains: tuple[str, ...],
    context: int,
    boundary: int = BOUNDARY,
    orders: tuple[int, ...] = (1, 2, 3),
    ngrams: dict[int, Ngrams] | None = None,
) -> Statistics:
    """Every statistic of one layer from its bits [N, F].

    ``ngrams`` may hold what `naive_ngrams` said about this corpus, so that several layers share it.
    """
    ids = np.asarray(ids).astype(np.int64)
    starts = np.asarray(starts)
    owner = np.asarray(sequence_domain)
    number, width = bits.shape
    assert starts[0] == 0
    assert starts[-1] == number == len(ids)

    bos = np.zeros(number, dtype=bool)
    for start, stop in pairwise(starts):
        if stop > start:
            bos[start] = ids[start] == boundary
    separator = (ids == boundary) & ~bos

    position: dict[str | None, Ids] = {}
    full: dict[str | None, int] = {}
    fires_in: dict[str, Ids] = {}
    for name in (None, *domains):
        position[name] = np.zeros((width, context), dtype=np.int64)
        full[name] = 0
    for name in domains:
        fires_in[name] = np.zeros(width, dtype=np.int64)
    for sequence, (start, stop) in enumerate(pairwise(starts)):
        rows = bits[start:stop]
        name = domains[owner[sequence]]
        fires_in[name] += rows.sum(axis=0)
        if stop - start == context:
            for key in (None, name):
                position[key] += rows.T
                full[key] += 1

    fires = bits.sum(axis=0).astype(np.int64)
    statistics = Statistics(
        tokens=number,
        fires=fires,
        bos_fires=bits[bos].sum(axis=0).astype(np.int64),
        separator_fires=bits[separator].sum(axis=0).astype(np.int64),
        domain_fires=fires_in,
        first_fire=np.where(fires > 0, bits.argmax(axis=0) if number else 0, -1),
        position_fires=position,
        full_sequences=full,
        mi={name: mutual_information(position[name], full[name]) for name in position},
    )
    for n in orders:
        index = naive_ngrams(ids, starts, n, boundary) if ngrams is None else ngrams[n]
        statistics.ngrams[n] = one_order(bits, fires, index)
    return statistics


def one_order(bits: Bits, all_fires: Ids, index: Ngrams) -> NgramStatistics:
    """Count, for every neuron, the n-grams at whose last token it fires."""
    countable = np.flatnonzero(index.of_row >= 0)
    ends = index.of_row[countable]
    counts = []
    held_by = []
    histogram = []
    width = bits.shape[1]
    total = np.zeros(width, dtype=np.int64)
    covering = np.zeros(width, dtype=np.int64)
    columns = np.ascontiguousarray(bits[countable].T)
    for neuron in range(width):
        per_gram = np.bincount(ends[columns[neuron]], minlength=len(index.tokens))
        grams = np.flatnonzero(per_gram)
        held = per_gram[grams].astype(np.int64)
        counts.append((grams, held))
        total[neuron] = held.sum()
        held_by.append(np.cumsum(np.sort(held)[::-1]))
        covering[neuron] = covering_number(held_by[-1], int(total[neuron]), Fraction(19, 20))
        numbers = np.bincount(held)
        histogram.append({size: int(numbers[size]) for size in np.flatnonzero(numbers).tolist()})
    return NgramStatistics(index, total, counts, held_by, histogram, covering, all_fires)


# ----- all layers --------------------------------------------------------------------------------


@dataclass
class Ensemble:
    """Definition 5, one entry per layer."""

    detectors: list[int] = field(default_factory=list)
    supported: list[int] = field(default_factory=list)  # 20 * support >= 19 * A_n
    detected: list[int] = field(default_factory=list)
    cumulative: list[int] = field(default_factory=list)
    seen_lower: list[int] = field(default_factory=list)  # in any lower layer
    new: list[int] = field(default_factory=list)
    seen_below: list[int] = field(default_factory=list)  # in the layer below
    new_below: list[int] = field(default_factory=list)


def naive_ensemble(detectors: list[dict[int, Detector]]) -> Ensemble:
    """Which n-grams the detectors of each layer detect, and which of them are new there."""
    result = Ensemble()
    lower: set[tuple[int, ...]] = set()
    below: set[tuple[int, ...]] = set()
    for layer in detectors:
        here = {gram for row in layer.values() for gram in row.covered}
        supported = [row for row in layer.values() if 20 * row.support >= 19 * row.ngram_fires]
        result.detectors.append(len(layer))
        result.supported.append(len(supported))
        result.detected.append(len(here))
        result.seen_lower.append(len(here & lower))
        result.new.append(len(here - lower))
        result.seen_below.append(len(here & below))
        result.new_below.append(len(here - below))
        lower |= here
        below = here
        result.cumulative.append(len(lower))
    return result


def runs(flags: npt.NDArray[np.bool_], least: int) -> list[tuple[int, int]]:
    """Return the runs of at least ``least`` True, as (first, past the last)."""
    found = []
    start = 0
    for place, flag in enumerate([*flags.tolist(), False]):
        if not flag:
            if place - start >= least:
                found.append((start, place))
            start = place + 1
    return found


def swings(curve: npt.NDArray[np.float64], width: int) -> int:
    """Return how often the smoothed curve passes from its lowest to its highest quarter or back."""
    smooth = np.array(
        [curve[max(p - width // 2, 0) : p + width // 2 + 1].mean() for p in range(len(curve))]
    )
    low, span = smooth.min(), np.ptp(smooth)
    if span == 0:
        return 0
    state, found = "", 0
    for value in (smooth - low) / span:
        now = "low" if value < 0.25 else "high" if value > 0.75 else state
        found += bool(state) and now != state
        state = now
    return found


def naive_type(counts: npt.NDArray[np.int64], sequences: int) -> tuple[str, str | None] | None:
    """Definition 8 of one curve [T], or None where its words leave room.

    They do where the smoothing decides, where a run of exact 0 or 1 is part of a longer run of
    nearly 0 or 1, and for what strength an oscillation without intervals has.
    """
    share = counts[1:] / sequences
    least = max(8, len(counts) // 64)
    oscillates = {swings(share, width) >= 3 for width in (1, 3, 5)}
    if len(oscillates) > 1:
        return None
    weak = (runs(share <= 0.05, least), runs(share >= 0.95, least))
    strong = (runs(share == 0, least), runs(share == 1, least))
    if strong == weak:
        strength = "strong"
    elif strong == ([], []):
        strength = "weak"
    else:
        return None
    if oscillates == {True}:
        return None if weak == ([], []) else ("oscillatory", strength)
    kinds = bool(weak[0]) + bool(weak[1])
    return ("both" if kinds == 2 else "one", strength) if kinds else ("other", None)
