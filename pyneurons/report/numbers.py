"""The numbers behind the figures, for those on paper (PNG, SVG) and those of the page alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.analysis.coverage import bucket_counts, lower_half
from pyneurons.analysis.detectors import decided, supported
from pyneurons.analysis.positional import MIN_SEQUENCES, firing_ranges
from pyneurons.report.source import Source, columns, orders, whole
from pyneurons.report.style import legible
from pyneurons.report.words import ngram_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TABLE_ROWS: Final = 12


def relative_depth(layers: Sequence[int], n_model_layers: int) -> np.ndarray:
    """Return 0 for the first layer of the model and 1 for its last."""
    return np.asarray(layers, dtype=np.float64) / max(n_model_layers - 1, 1)


def dead_share(run: Source) -> np.ndarray:
    """Return the share of dead neurons of each layer in per cent (figure 1a)."""
    share: np.ndarray = 100 * np.asarray(run.dead).mean(axis=1)
    return share


def alive_frequency(run: Source) -> np.ndarray:
    """Return the mean frequency of the alive neurons of each layer, NaN without any (figure 1b)."""
    alive = ~np.asarray(run.dead)
    number = alive.sum(axis=1)
    mean = np.full(number.shape, np.nan)
    np.divide((run.frequency * alive).sum(axis=1), number, out=mean, where=number > 0)
    return mean


def lower_layers(run: Source) -> list[int]:
    """Return the scanned layers of the lower half of the model."""
    keep = lower_half(run.layers, run.n_model_layers)
    return [int(layer) for layer in np.asarray(run.layers)[keep]]


def why_no_ngrams(run: Source, name: str, n: int) -> str:
    """Return why a run has nothing to say about n-grams in its lower half of layers, or ""."""
    if n not in orders(run):
        return f"{legible(name)} was scanned without {ngram_name(n)}s."
    if not lower_half(run.layers, run.n_model_layers).any():
        return f"{legible(name)} was scanned without the lower half of its layers."
    return ""


def why_no_coverage(run: Source, name: str, n: int) -> str:
    """Return why a run's covering numbers cannot be drawn, or ""."""
    why = why_no_ngrams(run, name, n)
    if why:
        return why
    lower = lower_half(run.layers, run.n_model_layers)
    in_bounds = int(np.count_nonzero(~run.exact(n)[lower]))
    if not in_bounds:
        return ""
    return (
        f"{legible(name)} was merged from runs that do not list all {ngram_name(n)}s: {in_bounds:,} covering "
        "numbers are known in bounds only. Runs that keep their bits are merged exactly."
    )


def coverage_counts(run: Source, n: int) -> np.ndarray:
    """Return alive neurons by covering number, of the lower half of layers (figures 2, 12, 13)."""
    lower = lower_half(run.layers, run.n_model_layers)
    return bucket_counts(run.coverage(n)[lower], ~np.asarray(run.dead)[lower])


@dataclass(frozen=True)
class Detection:
    """The detectors of one run by layer: columns of `pyneurons.analysis.ensemble.detected`.

    ``chance`` is the number of detectors expected of neurons that fire at random.
    """

    name: str
    layer: np.ndarray
    detectors: np.ndarray
    supported: np.ndarray
    detected: np.ndarray
    cumulative: np.ndarray
    seen_lower: np.ndarray
    seen_below: np.ndarray
    chance: np.ndarray


def detection(run: Source, name: str, n: int) -> Detection:
    """Return the detectors of the lower half of a run's layers (figures 3, 4, 14, 15)."""
    table = columns(run.detected(n))
    keep = lower_half(whole(table["layer"]), run.n_model_layers)
    chance = dict(
        zip((int(i) for i in run.layers), run.expected_detectors(n).every.tolist(), strict=True)
    )
    counts = {
        field: whole(table[field])[keep]
        for field in (
            "layer", "detectors", "supported", "detected", "cumulative", "seen_lower", "seen_below",
        )
    }  # fmt: skip
    expected = np.array([chance[int(layer)] for layer in counts["layer"]])
    return Detection(name=name, chance=expected, **counts)


def left_open(run: Source, n: int) -> int:
    """Return how many neurons of the lower half may be detectors or not, in a merged run."""
    found = columns(run.detectors(n))
    lower = lower_half(whole(found["layer"]), run.n_model_layers)
    return int(np.count_nonzero(lower & ~np.asarray(found["exact"], dtype=np.bool_)))


@dataclass(frozen=True)
class DetectorRow:
    """One row of figure 5."""

    place: str
    fires: int
    triggers: list[str]
    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]


def detector_rows(run: Source) -> list[DetectorRow]:
    """Return the supported token detectors of the lower half with most fires (figure 5)."""
    found = decided(columns(run.detectors(1)))
    layer, neuron, fires = (whole(found[field]) for field in ("layer", "neuron", "ngram_fires"))
    keep = lower_half(layer, run.n_model_layers)
    if layer.size:
        keep &= supported(found)
    rows = np.flatnonzero(keep)
    rows = rows[np.lexsort((neuron[rows], layer[rows], -fires[rows]))][:TABLE_ROWS]
    rows = rows[np.lexsort((neuron[rows], layer[rows]))]
    entries = []
    for i in rows:
        promoted, suppressed = run.vocabulary(int(layer[i]), int(neuron[i]))
        strings = found["strings"][i] or [None] * len(found["covered"][i])
        triggers = [
            f"#{ids[0]}" if string is None else string
            for ids, string in zip(found["covered"][i], strings, strict=True)
        ]
        entries.append(
            DetectorRow(f"{layer[i]}.{neuron[i]}", int(fires[i]), triggers, promoted, suppressed)
        )
    return entries


def suppressing_share(shares: Mapping[str, Any], who: str, i: int) -> float:
    """Return a share; for "all", of baselines the chance for as many tokens as a detector has."""
    chance = f"{who}_chance"
    if shares["criterion"][i] == "all" and chance in shares:
        return float(shares[chance][i])
    return float(shares[who][i])


@dataclass(frozen=True)
class Curve:
    """The firing frequency of one neuron at each position, from ``first_position`` on."""

    place: str
    information: float
    frequency: np.ndarray
    first_position: int = 1


@dataclass(frozen=True)
class Positional:
    """The positional neurons of a run (figures 7 to 9); ``why`` says why there cannot be any."""

    layer: np.ndarray
    neuron: np.ndarray
    information: np.ndarray
    kind: list[str]
    strength: list[str]
    why: str

    def examples(self, run: Source) -> dict[tuple[str, str], Curve]:
        """Return the neuron with most information of each (type, strength)."""
        best: dict[tuple[str, str], int] = {}
        for i in np.argsort(-self.information, kind="stable"):
            best.setdefault((self.kind[i], self.strength[i]), int(i))
        return {
            key: Curve(
                f"{self.layer[i]}.{self.neuron[i]}",
                float(self.information[i]),
                run.position_fires(int(self.layer[i]))[self.neuron[i]][1:] / run.full_sequences,
            )
            for key, i in best.items()
        }

    def ranges(self, run: Source) -> tuple[int, list[int], list[list[tuple[int, int]]]]:
        """Return the layer with most strong oscillatory neurons, these, and where each fires."""
        strong = np.array(
            [
                pair == ("oscillatory", "strong")
                for pair in zip(self.kind, self.strength, strict=True)
            ],
            dtype=bool,
        )
        if self.why or not strong.any():
            return 0, [], []
        chosen = int(np.bincount(self.layer[strong]).argmax())
        own = [int(i) for i in self.neuron[strong & (self.layer == chosen)]]
        fires = run.position_fires(chosen)
        return chosen, own, [firing_ranges(fires[i], int(run.full_sequences)) for i in own]


def positional(run: Source, name: str) -> Positional:
    """Return the positional neurons of a run."""
    found = columns(run.positional())
    why = ""
    if int(run.full_sequences) < MIN_SEQUENCES:
        why = (
            f"{legible(name)} has {int(run.full_sequences)} full-length sequences; it takes "
            f"{MIN_SEQUENCES} to call a neuron positional."
        )
    return Positional(
        layer=whole(found["layer"]),
        neuron=whole(found["neuron"]),
        information=np.asarray(found["mi"], dtype=np.float64),
        kind=list(found["type"]),
        strength=list(found["strength"]),
        why=why,
    )
