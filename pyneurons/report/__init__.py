"""The paper's figures, drawn of one run or several, in a folder of PNG and SVG files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.analysis.coverage import BUCKET_EDGES, bucket_counts, lower_half
from pyneurons.analysis.detectors import decided, supported
from pyneurons.analysis.positional import MIN_SEQUENCES, firing_ranges
from pyneurons.errors import InputError
from pyneurons.report import figures_dead, figures_ngrams, figures_positional
from pyneurons.report.source import Source, columns, orders, whole
from pyneurons.report.style import Line, draw_sentence, legible, matplotlib, save

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

__all__ = ["Source", "write_figures"]

_TABLE_ROWS: Final = 12
_LONGEST_NAME: Final = 32
_DETECTOR_FIGURES: Final = {1: ("03a", "03b"), 3: ("14a", "14b")}


def write_figures(runs: Sequence[Source], directory: str | Path) -> list[Path]:
    """Draw the paper's figures and write each as PNG and SVG.

    Figures 1a, 1b, 3a, 3b, 14a and 14b have one line per run; the others are drawn for each run,
    with its name in the file name when there are several. A figure without anything to show says
    so in a sentence.

    Parameters
    ----------
    runs : sequence of `pyneurons.report.source.Source`
        `pyneurons.Scan` is one.
    directory : path
        Made if it does not exist; files of the same names are replaced.

    Returns
    -------
    list of Path
        In the order of the figures.

    Raises
    ------
    InputError
        No run; a directory that is a file; matplotlib is not installed.
    """
    matplotlib()
    if not runs:
        message = "write_figures: runs is empty, expected at least one run"
        raise InputError(message)
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        message = f"report: {directory} is a file; name a folder"
        raise InputError(message)
    directory.mkdir(parents=True, exist_ok=True)
    names = _distinct([run.name for run in runs])
    paths: list[Path] = []
    for name, figure in _figures(runs, names):
        paths += save(figure, directory, name)
    return paths


def _figures(runs: Sequence[Source], names: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Yield (file name, figure), in the order of the paper's numbers."""
    yield (
        "figure-01a-dead",
        figures_dead.draw_dead(
            [
                _line(run, name, 100 * np.asarray(run.dead).mean(axis=1))
                for run, name in zip(runs, names, strict=True)
            ]
        ),
    )
    yield (
        "figure-01b-frequency",
        figures_dead.draw_frequency(
            [_line(run, name, _alive_frequency(run)) for run, name in zip(runs, names, strict=True)]
        ),
    )
    ends = [f"-{_slug(name)}" if len(runs) > 1 else "" for name in names]
    for run, name, end in zip(runs, names, ends, strict=True):
        yield f"figure-02-token-coverage{end}", _coverage(run, name, 1)
    found = {
        n: {
            name: _detection(run, name, n)
            for run, name in zip(runs, names, strict=True)
            if not _missing(run, name, n)
        }
        for n in _DETECTOR_FIGURES
    }
    yield from _detector_figures(list(found[1].values()), 1)
    for run, name, end in zip(runs, names, ends, strict=True):
        yield f"figure-04-token-overlap{end}", _overlap(found[1], run, name, 1)
        yield f"figure-05-detectors{end}", _table(run, name)
        yield from _positional_figures(run, name, end)
        yield f"figure-12-bigram-coverage{end}", _coverage(run, name, 2)
        yield f"figure-13-trigram-coverage{end}", _coverage(run, name, 3)
    yield from _detector_figures(list(found[3].values()), 3)
    for run, name, end in zip(runs, names, ends, strict=True):
        yield f"figure-15-trigram-overlap{end}", _overlap(found[3], run, name, 3)


def _line(run: Source, name: str, values: np.ndarray) -> Line:
    return Line(name, figures_dead.relative_depth(run.layers, run.n_model_layers), values)


def _alive_frequency(run: Source) -> np.ndarray:
    alive = ~np.asarray(run.dead)
    number = alive.sum(axis=1)
    mean = np.full(number.shape, np.nan)
    np.divide((run.frequency * alive).sum(axis=1), number, out=mean, where=number > 0)
    return mean


def _coverage(run: Source, name: str, n: int) -> Figure:
    why = _missing(run, name, n)
    if why:
        return draw_sentence(why)
    lower = lower_half(run.layers, run.n_model_layers)
    in_bounds = int(np.count_nonzero(~run.exact(n)[lower]))
    if in_bounds:
        return draw_sentence(
            f"{legible(name)} was merged from runs that do not list all {figures_ngrams.name_of(n)}s: "
            f"{in_bounds:,} covering numbers are known in bounds only. Runs that keep their bits are "
            "merged exactly."
        )
    counts = bucket_counts(run.coverage(n)[lower], ~np.asarray(run.dead)[lower])
    return figures_ngrams.draw_coverage(
        counts, [int(layer) for layer in np.asarray(run.layers)[lower]], BUCKET_EDGES, n, name
    )


def _detection(run: Source, name: str, n: int) -> figures_ngrams.Detection:
    """Return the lower half of a run's layers."""
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
    return figures_ngrams.Detection(name=name, chance=expected, **counts)


def _detector_figures(
    runs: Sequence[figures_ngrams.Detection], n: int
) -> Iterator[tuple[str, Figure]]:
    what = figures_ngrams.name_of(n)
    first, second = _DETECTOR_FIGURES[n]
    if not runs:
        none = f"No run was scanned with {what}s in the lower half of its layers."
        yield f"figure-{first}-{what}-detectors", draw_sentence(none)
        yield f"figure-{second}-detected-{what}s", draw_sentence(none)
        return
    yield f"figure-{first}-{what}-detectors", figures_ngrams.draw_detectors(runs, n)
    yield f"figure-{second}-detected-{what}s", figures_ngrams.draw_detected(runs, n)


def _overlap(
    found: Mapping[str, figures_ngrams.Detection], run: Source, name: str, n: int
) -> Figure:
    if name not in found:
        return draw_sentence(_missing(run, name, n))
    return figures_ngrams.draw_overlap(found[name], n)


def _missing(run: Source, name: str, n: int) -> str:
    """Return why a run has nothing to say about n-grams in its lower half of layers, or ""."""
    if n not in orders(run):
        return f"{legible(name)} was scanned without {figures_ngrams.name_of(n)}s."
    if not lower_half(run.layers, run.n_model_layers).any():
        return f"{legible(name)} was scanned without the lower half of its layers."
    return ""


def _table(run: Source, name: str) -> Figure:
    why = _missing(run, name, 1)
    if why:
        return draw_sentence(why)
    found = decided(columns(run.detectors(1)))
    layer, neuron, fires = (whole(found[field]) for field in ("layer", "neuron", "ngram_fires"))
    keep = lower_half(layer, run.n_model_layers)
    if layer.size:
        keep &= supported(found)
    rows = np.flatnonzero(keep)
    rows = rows[np.lexsort((neuron[rows], layer[rows], -fires[rows]))][:_TABLE_ROWS]
    rows = rows[np.lexsort((neuron[rows], layer[rows]))]
    entries = []
    for i in rows:
        promoted, suppressed = run.vocabulary(int(layer[i]), int(neuron[i]))
        strings = found["strings"][i] or [None] * len(found["covered"][i])
        triggers = [
            f"#{ids[0]}" if string is None else string
            for ids, string in zip(found["covered"][i], strings, strict=True)
        ]
        place = f"{layer[i]}.{neuron[i]}"
        entries.append(
            figures_ngrams.DetectorRow(place, int(fires[i]), triggers, promoted, suppressed)
        )
    return figures_ngrams.draw_table(entries, name)


def _positional_figures(run: Source, name: str, end: str) -> Iterator[tuple[str, Figure]]:
    found = columns(run.positional())
    layer, neuron = whole(found["layer"]), whole(found["neuron"])
    information = np.asarray(found["mi"], dtype=np.float64)
    kind, strength = list(found["type"]), list(found["strength"])
    sequences = int(run.full_sequences)
    why = ""
    if sequences < MIN_SEQUENCES:
        why = (
            f"{legible(name)} has {sequences} full-length sequences; it takes {MIN_SEQUENCES} "
            "to call a neuron positional."
        )
    examples: dict[tuple[str, str], int] = {}
    for i in np.argsort(-information, kind="stable"):
        examples.setdefault((kind[i], strength[i]), int(i))
    curves = {
        key: figures_positional.Curve(
            f"{layer[i]}.{neuron[i]}",
            float(information[i]),
            run.position_fires(int(layer[i]))[neuron[i]][1:] / sequences,
        )
        for key, i in examples.items()
    }
    yield f"figure-07-positional-examples{end}", figures_positional.draw_examples(curves, name, why)
    yield (
        f"figure-08-positional-map{end}",
        figures_positional.draw_map(
            [int(i) for i in run.layers], layer, kind, strength, information, name, why
        ),
    )
    strong = np.array(
        [pair == ("oscillatory", "strong") for pair in zip(kind, strength, strict=True)], dtype=bool
    )
    yield (
        f"figure-09-oscillatory-ranges{end}",
        _ranges(run, name, layer[strong], neuron[strong], why),
    )


def _ranges(run: Source, name: str, layer: np.ndarray, neuron: np.ndarray, why: str) -> Figure:
    if why or not layer.size:
        return figures_positional.draw_ranges([], [], 0, 0, name, why)
    chosen = int(np.bincount(layer).argmax())
    own = [int(i) for i in neuron[layer == chosen]]
    fires = run.position_fires(chosen)
    ranges = [firing_ranges(fires[i], int(run.full_sequences)) for i in own]
    return figures_positional.draw_ranges(own, ranges, fires.shape[1], chosen, name)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names that differ, as file names too, and that a legend shows."""
    out: list[str] = []
    for given in names:
        base = legible(given).lstrip("_")[:_LONGEST_NAME] or "run"
        name, number = base, 1
        while _slug(name) in {_slug(other) for other in out}:
            number += 1
            name = f"{base} ({number})"
        out.append(name)
    return out


def _slug(name: Any) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", str(name).lower()).strip("-.") or "run"
