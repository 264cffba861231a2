"""The paper's figures for the page: one specification each, with the numbers of `pyneurons.report.numbers`.

Where a run's model has the shape of a published OPT, the paper's curve lies over its own, dashed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.analysis.coverage import BUCKET_EDGES, bucket_labels
from pyneurons.analysis.positional import STRENGTHS, TYPES
from pyneurons.report import numbers
from pyneurons.report.page import published
from pyneurons.report.page.charts import bars, lines, map_of_types, panels, ranges
from pyneurons.report.page.figure_spec import FigureSpec
from pyneurons.report.source import orders
from pyneurons.report.words import ngram_name, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyneurons.report.source import Source

Rows = list[dict[str, Any]]

OWN: Final = "this run"
PAPER: Final = "published"

_COVERAGE: Final = {1: "2", 2: "12", 3: "13"}
_DETECTION: Final = {1: ("3a", "3b", "4"), 3: ("14a", "14b", "15")}
_CURVE_POINTS: Final = 512
_MOST_TRIGGERS, _MOST_SCORED, _LONGEST_TOKEN = 12, 6, 14


def figures(scans: Sequence[Any]) -> list[FigureSpec]:
    """Return all figures, in the order of the paper's numbers; those of one run have its name."""
    names = _distinct([str(scan.name) for scan in scans])
    runs = list(zip(scans, names, strict=True))
    many = len(runs) > 1
    found = [_dead(runs), _frequency(runs)]
    found += [_coverage(run, name, 1, many=many) for run, name in runs]
    found += _detection(runs, 1)
    for place, (run, name) in enumerate(runs):
        found += _suppression(run, name, many=many)
        found.append(replace(_table(run, name, many=many), run=place))
    for place, (run, name) in enumerate(runs):
        found += [replace(figure, run=place) for figure in _positional(run, name, many=many)]
    for n in (2, 3):
        found += [_coverage(run, name, n, many=many) for run, name in runs]
    return found + _detection(runs, 3)


def _figure(
    number: str,
    title: str,
    says: str,
    definition: str,
    spec: dict[str, Any],
    rows: Rows,
    name: str = "",
) -> FigureSpec:
    """Return a figure; without rows its sentence says why there is nothing to draw."""
    end = f"-{_slug(name)}" if name else ""
    title = f"{title}: {name}" if name else title
    return FigureSpec(f"figure-{number}{end}", title, says, definition, spec if rows else {}, rows)


# -- 1: dead neurons, frequency --------------------------------------------------------------------


def _dead(runs: Sequence[tuple[Source, str]]) -> FigureSpec:
    rows: Rows = []
    sizes = []
    for run, name in runs:
        rows += _by_depth(run, name, numbers.dead_share(run), "dead")
        curve = published.curve(run, "dead")
        if curve and published.size_of(run) not in sizes:
            sizes.append(published.size_of(run))
            depth = numbers.relative_depth(range(len(curve)), len(curve))
            rows += [
                {"run": name, "series": PAPER, "layer": i, "depth": float(x), "dead": y}
                for i, (x, y) in enumerate(zip(depth, curve, strict=True))
            ]
    told = published.published()
    says = (
        "The share of neurons that fire nowhere in the corpus, layer by layer: exact counts of all "
    )
    says += f"positions, {_tokens(runs)}."
    if sizes:
        says += f" Dashed: the paper's curve for OPT-{', OPT-'.join(map(str, sizes))} over "
        says += (
            f"{told['corpus']['dead']}, read off its figure to {told['error']['dead']} % points."
        )
    spec = lines(
        rows,
        "depth",
        "dead",
        "relative depth of the layer",
        "dead neurons, % of a layer",
        [name for _, name in runs],
    )
    return _figure("1a", "Dead neurons", says, "dead", spec, rows)


def _frequency(runs: Sequence[tuple[Source, str]]) -> FigureSpec:
    rows: Rows = []
    for run, name in runs:
        rows += _by_depth(run, name, numbers.alive_frequency(run), "frequency")
    says = "The mean frequency (fires over positions) of the neurons that are not dead, layer by layer: "
    says += f"exact counts of all positions, {_tokens(runs)}."
    label = "mean frequency of alive neurons"
    names = [name for _, name in runs]
    spec = lines(rows, "depth", "frequency", "relative depth of the layer", label, names)
    return _figure("1b", "Frequency of the alive neurons", says, "fires", spec, rows)


def _by_depth(run: Source, name: str, values: np.ndarray, field: str) -> Rows:
    depth = numbers.relative_depth(run.layers, run.n_model_layers)
    return [
        {"run": name, "series": OWN, "layer": int(layer), "depth": float(x), field: float(y)}
        for layer, x, y in zip(run.layers, depth, values, strict=True)
        if np.isfinite(y)
    ]


def _tokens(runs: Sequence[tuple[Source, str]]) -> str:
    counts = [run.manifest.get("corpus", {}).get("tokens") for run, _ in runs]
    said = ", ".join(f"{count:,}" for count in counts if count is not None)
    return f"{said} tokens" if said else "of each run"


# -- 2, 12, 13: covering numbers -------------------------------------------------------------------


def _coverage(run: Source, name: str, n: int, *, many: bool) -> FigureSpec:
    what = ngram_name(n)
    why = numbers.why_no_coverage(run, name, n)
    rows: Rows = []
    labels = bucket_labels(BUCKET_EDGES)
    if not why:
        counts = numbers.coverage_counts(run, n)
        rows = [
            {"layer": layer, f"{what}s": label, "order": i, "neurons": int(number)}
            for layer, row in zip(numbers.lower_layers(run), counts, strict=True)
            for i, (label, number) in enumerate(zip(labels, row.tolist(), strict=True))
        ]
        why = "" if counts.sum() else f"{name}: no alive neuron in the lower half of the layers."
        rows = rows if counts.sum() else []
    says = why or (
        f"Alive neurons of the lower half of the layers by their covering number, the least number of "
        f"{what}s that hold 95 % of a neuron's fires: exact, from counts of every {what}."
    )
    spec = bars(rows, "neurons", "alive neurons", f"{what}s", labels, ordered=True)
    title = f"{what.capitalize()}s that hold 95 % of a neuron's fires"
    return _figure(_COVERAGE[n], title, says, "covering-number", spec, rows, name if many else "")


# -- 3, 4, 14, 15: detectors -----------------------------------------------------------------------


def _detection(runs: Sequence[tuple[Source, str]], n: int) -> list[FigureSpec]:
    what = ngram_name(n)
    first, second, third = _DETECTION[n]
    whys = [numbers.why_no_ngrams(run, name, n) for run, name in runs]
    found = [
        (run, numbers.detection(run, name, n))
        for (run, name), why in zip(runs, whys, strict=True)
        if not why
    ]
    none, names = " ".join(why for why in whys if why), [name for _, name in runs]
    number: Rows = []
    detected: Rows = []
    for run, one in found:
        number += _series(one, {"all": one.detectors, "supported": one.supported}, "detectors")
        number += _series(one, {"expected by chance": one.chance}, "detectors")
        sets = {"in the layer": one.detected, "up to the layer": one.cumulative}
        detected += _series(one, sets, "ngrams")
        if n == 1:
            number += _published(run, one, "token_detectors", "detectors")
            detected += _published(run, one, "detected_tokens", "ngrams")
            detected += _published_total(run, one)
    says = (
        f"Neurons of the lower half of the layers that detect {what}s: all, those whose {what}s occur at "
        "least 5 times, and how many neurons with as many fires at random positions would make "
        "(simulated)."
    )
    says += _open(found, n) + _overlaid(number, "token detectors", "token_detectors")
    order = ["all", "supported", "expected by chance", PAPER]
    spec = lines(number, "layer", "detectors", "layer", f"{what} detectors", names, order)
    figures_ = [
        _figure(
            first,
            f"{what.capitalize()} detectors",
            _told(says, none, found),
            "detector",
            spec,
            number,
        )
    ]
    says = f"Distinct {what}s that some detector of a layer covers, and those of all layers up to it; exact."
    says += _open(found, n) + _overlaid(detected, "detected tokens", "detected_tokens")
    order = ["in the layer", "up to the layer", PAPER]
    spec = lines(detected, "layer", "ngrams", "layer", f"detected {what}s", names, order)
    says = _told(says, none, found)
    figures_.append(_figure(second, f"Detected {what}s", says, "ensemble", spec, detected))
    made = {one.name: _overlap(run, one, n, third, many=len(runs) > 1) for run, one in found}
    for name, why in zip(names, whys, strict=True):
        title = f"Detected {what}s, and where they were detected before"
        absent = _figure(third, title, why, "ensemble", {}, [], name if len(runs) > 1 else "")
        figures_.append(made.get(name, absent))
    return figures_


def _told(says: str, none: str, found: Sequence[Any]) -> str:
    """Return what a figure shows of some runs, and why not of others."""
    return f"{says} {none}".rstrip() if found else none


def _series(one: numbers.Detection, sets: dict[str, np.ndarray], field: str) -> Rows:
    return [
        {"run": one.name, "series": series, "layer": int(layer), field: float(value)}
        for series, values in sets.items()
        for layer, value in zip(one.layer.tolist(), values.tolist(), strict=True)
    ]


def _published(run: Source, one: numbers.Detection, name: str, field: str) -> Rows:
    curve = published.curve(run, name) or []
    return [
        {"run": one.name, "series": PAPER, "layer": i, field: float(value)}
        for i, value in enumerate(curve)
    ]


def _published_total(run: Source, one: numbers.Detection) -> Rows:
    """Return what the paper's lower half detects in all, at its last layer."""
    total = published.curve(run, "cumulative_detected_tokens")
    if total is None or not one.layer.size:
        return []
    last = int(one.layer.max())
    return [{"run": one.name, "series": f"{PAPER}, in all", "layer": last, "ngrams": float(total)}]


def _overlaid(rows: Rows, what: str, name: str) -> str:
    if not any(str(row["series"]).startswith(PAPER) for row in rows):
        return ""
    told = published.published()
    return (
        f" Dashed: the paper's {what} for an OPT of this shape, over {told['corpus']['others']}, read off "
        f"its figure to {told['error'].get(name, told['error']['token_detectors'])}."
    )


def _open(found: Sequence[tuple[Source, numbers.Detection]], n: int) -> str:
    left = sum(numbers.left_open(run, n) for run, _ in found)
    if not left:
        return ""
    return f" {left:,} more neurons of merged runs may be detectors or not, and are left out."


def _overlap(run: Source, one: numbers.Detection, n: int, number: str, *, many: bool) -> FigureSpec:
    what = ngram_name(n)
    unknown = bool((one.seen_below[one.layer > 0] < 0).any())
    below = np.where(one.seen_below >= 0, one.seen_below, 0)
    parts = {
        "new": one.detected - one.seen_lower,
        "in a lower layer, not the one below": one.seen_lower - below,
        "in the layer below": below,
    }
    rows: Rows = [
        {"layer": layer, "seen": series, "order": i, "ngrams": int(value)}
        for i, (series, values) in enumerate(parts.items())
        for layer, value in zip(one.layer.tolist(), values.tolist(), strict=True)
    ]
    if not one.detected.any():
        rows = []
        says = f"{one.name}: no {what} is detected in the lower half of the layers."
    else:
        says = f"The {what}s that each layer detects, and whether lower layers detect them already; exact."
        says += _open([(run, one)], n)
        if unknown:
            says += " Where the layer below was not scanned, what it detects is not shown apart."
        curve = published.curve(run, "detected_tokens_seen_lower") if n == 1 else None
        if curve:
            covered = published.curve(run, "detected_tokens")
            again = ", ".join(
                f"layer {i} {new:,} of {all_:,}"
                for i, (new, all_) in enumerate(zip(curve, covered, strict=False))
            )
            says += f" In the paper, for this size, lower layers detect already: {again}."
    spec = bars(rows, "ngrams", f"detected {what}s", "seen", list(parts), ordered=False)
    title = f"Detected {what}s, and where they were detected before"
    return _figure(number, title, says, "ensemble", spec, rows, one.name if many else "")


# -- suppression, and figure 5 ---------------------------------------------------------------------


def _suppression(run: Any, name: str, *, many: bool) -> list[FigureSpec]:
    if 1 not in orders(run) or not getattr(run, "has_suppression", False):
        return []
    shares = run.suppression_shares(1, lower_half=True)
    if not int(shares["detectors"][0]):
        return []
    said = {"mean": "mean score < 0", "majority": "most scores < 0", "all": "all scores < 0"}
    who = {"triggers": "own triggers", "random": "random tokens", "matched": "tokens as frequent"}
    rows: Rows = [
        {
            "criterion": said[criterion] + ("" if measure == "raw" else ", centred"),
            "tokens": label,
            "order": j,
            "share": 100 * numbers.suppressing_share(shares, key, i),
        }
        for i, (criterion, measure) in enumerate(
            zip(shares["criterion"], shares["measure"], strict=True)
        )
        for j, (key, label) in enumerate(who.items())
        if np.isfinite(numbers.suppressing_share(shares, key, i))
    ]
    says = (
        f"The share of the {int(shares['detectors'][0]):,} token detectors in the lower half of the layers "
        "whose update lowers their own triggers, beside 1,000 random tokens and the 40 tokens nearest in "
        "frequency (of all scores: the chance that as many of those are all below 0); scores are float32 "
        "sums. The paper: more than 80 % point away from their triggers."
    )
    spec = {
        "width": "container",
        "height": 12 * len(rows),
        "data": {"values": rows},
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "y": {"field": "criterion", "type": "nominal", "title": None, "sort": None},
            "yOffset": {"field": "tokens", "type": "nominal", "sort": list(who.values())},
            "x": {
                "field": "share",
                "type": "quantitative",
                "title": "% of detectors",
                "scale": {"domain": [0, 100]},
            },
            "color": {
                "field": "tokens",
                "type": "nominal",
                "title": None,
                "sort": list(who.values()),
                "legend": {"orient": "bottom"},
            },
        },
    }
    title = "Do detectors push their own triggers down?"
    return [_figure("suppression", title, says, "suppression", spec, rows, name if many else "")]


def _table(run: Source, name: str, *, many: bool) -> FigureSpec:
    why = numbers.why_no_ngrams(run, name, 1)
    rows: Rows = []
    if not why:
        for row in numbers.detector_rows(run):
            rows.append(
                {
                    "neuron": row.place,
                    "fires": row.fires,
                    "detects": "  ".join(_short(token) for token in row.triggers[:_MOST_TRIGGERS]),
                    "promotes most": _scored(row.promoted),
                    "suppresses most": _scored(row.suppressed),
                }
            )
        why = (
            "" if rows else f"{name}: no supported token detector in the lower half of the layers."
        )
    says = why or (
        "The supported token detectors of the lower half with most fires: the tokens that they detect, and "
        "those that their updates promote and suppress most, with scores (float32 sums)."
    )
    return FigureSpec(
        f"figure-5{'-' + _slug(name) if many else ''}",
        f"Token detectors and their updates{': ' + name if many else ''}",
        says,
        "suppression",
        {},
        rows,
    )


def _scored(tokens: Sequence[tuple[str, float]]) -> str:
    return "  ".join(f"{_short(token)} {score:+.2f}" for token, score in tokens[:_MOST_SCORED])


def _short(token: str) -> str:
    """Return a token as it is shown, cut where it is a long run of spaces."""
    said = visible(token)
    return said if len(said) <= _LONGEST_TOKEN else said[: _LONGEST_TOKEN - 1] + "…"


# -- 7, 8, 9: positional neurons -------------------------------------------------------------------


def _positional(run: Source, name: str, *, many: bool) -> Iterator[FigureSpec]:
    found = numbers.positional(run, name)
    why = found.why or ("" if found.layer.size else f"{name}: no positional neuron.")
    end = name if many else ""
    rows: Rows = []
    if not why:
        for (kind, strength), curve in found.examples(run).items():
            rows += _curve_rows(kind, strength, curve)
    says = why or (
        "The neuron with most information of each type, its frequency at each position of sequences that "
        f"fill the context ({run.full_sequences:,} of them); position 0 is not shown."
    )
    spec = panels(rows, TYPES, STRENGTHS)
    yield _figure("7", "Positional neurons", says, "positional-types", spec, rows, end)

    rows = [] if why else _map_rows(found)
    says = why or (
        f"Every positional neuron (I > 0.05 nats) as a circle in the row of its layer: {len(rows):,} in all, "
        "by type, pale where weak; a click opens it."
    )
    layers = [int(layer) for layer in run.layers]
    yield _figure(
        "8",
        "Positional neurons by layer",
        says,
        "positional",
        map_of_types(rows, layers),
        rows,
        end,
    )
    known = published.curve(run, "positional")
    if known:
        rows = _published_map(known)
        told = published.published()["corpus"]["positional"]
        says = f"The paper's map for an OPT of this shape, {len(rows):,} neurons, over {told}."
        spec = map_of_types(rows, list(range(len(known))))
        title = f"Positional neurons by layer, in the paper: OPT-{published.size_of(run)}"
        yield _figure("8-published", title, says, "positional", spec, rows, end)

    layer, own, spans = found.ranges(run)
    rows = [
        {"neuron": str(neuron), "series": OWN, "begin": begin, "end": last}
        for neuron, ranges_ in zip(own, spans, strict=True)
        for begin, last in ranges_
    ]
    says = why or (
        f"Where the strong oscillatory neurons of layer {layer} fire on at least half of the sequences."
        if rows
        else f"{name}: no strong oscillatory neuron."
    )
    paper = published.curve(run, "oscillatory_ranges")
    if rows and paper:
        says += (
            f" Pale: the paper's ranges, layer {paper['layer']} of OPT-{published.size_of(run)}."
        )
        rows += [
            {"neuron": f"{neuron} ({PAPER})", "series": PAPER, "begin": begin, "end": last}
            for neuron, ranges_ in paper["ranges"].items()
            for begin, last in ranges_
        ]
    yield _figure(
        "9", "Ranges of oscillatory neurons", says, "positional-types", ranges(rows), rows, end
    )


def _curve_rows(kind: str, strength: str, curve: numbers.Curve) -> Rows:
    """Return a curve's points; those of long ones are means of neighbours."""
    step = -(-curve.frequency.size // _CURVE_POINTS)
    begins = np.arange(0, curve.frequency.size, step)
    sizes = np.diff(np.append(begins, curve.frequency.size))
    mean = np.add.reduceat(curve.frequency, begins) / sizes
    return [
        {
            "type": kind,
            "strength": strength,
            "neuron": curve.place,
            "information": round(curve.information, 4),
            "position": int(begin) + curve.first_position,
            "frequency": float(y),
        }
        for begin, y in zip(begins.tolist(), mean.tolist(), strict=True)
    ]


def _map_rows(found: numbers.Positional) -> Rows:
    order = np.lexsort(
        (
            -found.information,
            np.array([STRENGTHS.index(strength) for strength in found.strength]),
            np.array([TYPES.index(kind) for kind in found.kind]),
            found.layer,
        )
    )
    layer = found.layer[order]
    place = np.arange(order.size) - np.searchsorted(layer, layer)
    return [
        {
            "layer": int(found.layer[i]),
            "place": int(at),
            "neuron": int(found.neuron[i]),
            "type": found.kind[i],
            "strength": found.strength[i],
            "information": round(float(found.information[i]), 4),
        }
        for i, at in zip(order.tolist(), place.tolist(), strict=True)
    ]


def _published_map(known: Sequence[str]) -> Rows:
    return [
        {
            "layer": layer,
            "place": place,
            "type": published.LETTERS[letter.lower()],
            "strength": "strong" if letter.isupper() else "weak",
        }
        for layer, letters in enumerate(known)
        for place, letter in enumerate(letters)
    ]


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-") or "run"


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names that differ, also as parts of ids."""
    found: list[str] = []
    for name in names:
        number, own = 1, name
        while _slug(own) in {_slug(other) for other in found}:
            number += 1
            own = f"{name} ({number})"
        found.append(own)
    return found
