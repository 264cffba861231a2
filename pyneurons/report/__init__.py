"""The paper's figures, drawn of one run or several, in a folder of PNG and SVG files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyneurons.analysis.coverage import BUCKET_EDGES
from pyneurons.errors import InputError
from pyneurons.report import figures_dead, figures_ngrams, figures_positional, numbers
from pyneurons.report.source import Source
from pyneurons.report.style import Line, draw_sentence, legible, matplotlib, save
from pyneurons.report.words import ngram_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from matplotlib.figure import Figure

__all__ = ["Source", "write_figures"]

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
                _line(run, name, numbers.dead_share(run))
                for run, name in zip(runs, names, strict=True)
            ]
        ),
    )
    yield (
        "figure-01b-frequency",
        figures_dead.draw_frequency(
            [
                _line(run, name, numbers.alive_frequency(run))
                for run, name in zip(runs, names, strict=True)
            ]
        ),
    )
    ends = [f"-{_slug(name)}" if len(runs) > 1 else "" for name in names]
    for run, name, end in zip(runs, names, ends, strict=True):
        yield f"figure-02-token-coverage{end}", _coverage(run, name, 1)
    found = {
        n: {
            name: numbers.detection(run, name, n)
            for run, name in zip(runs, names, strict=True)
            if not numbers.why_no_ngrams(run, name, n)
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
    return Line(name, numbers.relative_depth(run.layers, run.n_model_layers), values)


def _coverage(run: Source, name: str, n: int) -> Figure:
    why = numbers.why_no_coverage(run, name, n)
    if why:
        return draw_sentence(why)
    counts, layers = numbers.coverage_counts(run, n), numbers.lower_layers(run)
    return figures_ngrams.draw_coverage(counts, layers, BUCKET_EDGES, n, name)


def _detector_figures(runs: Sequence[numbers.Detection], n: int) -> Iterator[tuple[str, Figure]]:
    what = ngram_name(n)
    first, second = _DETECTOR_FIGURES[n]
    if not runs:
        none = f"No run was scanned with {what}s in the lower half of its layers."
        yield f"figure-{first}-{what}-detectors", draw_sentence(none)
        yield f"figure-{second}-detected-{what}s", draw_sentence(none)
        return
    yield f"figure-{first}-{what}-detectors", figures_ngrams.draw_detectors(runs, n)
    yield f"figure-{second}-detected-{what}s", figures_ngrams.draw_detected(runs, n)


def _overlap(found: Mapping[str, numbers.Detection], run: Source, name: str, n: int) -> Figure:
    if name not in found:
        return draw_sentence(numbers.why_no_ngrams(run, name, n))
    return figures_ngrams.draw_overlap(found[name], n)


def _table(run: Source, name: str) -> Figure:
    why = numbers.why_no_ngrams(run, name, 1)
    return (
        draw_sentence(why) if why else figures_ngrams.draw_table(numbers.detector_rows(run), name)
    )


def _positional_figures(run: Source, name: str, end: str) -> Iterator[tuple[str, Figure]]:
    found = numbers.positional(run, name)
    yield (
        f"figure-07-positional-examples{end}",
        figures_positional.draw_examples(found.examples(run), name, found.why),
    )
    yield (
        f"figure-08-positional-map{end}",
        figures_positional.draw_map(
            [int(i) for i in run.layers], found.layer, found.kind, found.strength,
            found.information, name, found.why,
        ),
    )  # fmt: skip
    layer, own, ranges = found.ranges(run)
    context = run.position_fires(layer).shape[1] if own else 0
    yield (
        f"figure-09-oscillatory-ranges{end}",
        figures_positional.draw_ranges(own, ranges, context, layer, name, found.why),
    )


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
