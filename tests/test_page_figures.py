"""The figures of the page: the numbers of the analysis, and the paper's over those of an OPT's shape."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from made_up_runs import MadeUp
from pyneurons.analysis.coverage import bucket_counts, lower_half
from pyneurons.report import numbers
from pyneurons.report.page import published
from pyneurons.report.page.definitions import DEFINITIONS
from pyneurons.report.page.figures import OWN, PAPER, figures

PLAIN = [
    "figure-1a", "figure-1b", "figure-2", "figure-3a", "figure-3b", "figure-4", "figure-5", "figure-7",
    "figure-8", "figure-9", "figure-12", "figure-13", "figure-14a", "figure-14b", "figure-15",
]  # fmt: skip


def opt_125m() -> MadeUp:
    return MadeUp(name="opt-125m", n_model_layers=12, hidden_size=768, neurons=3072)


def by_id(runs: list[Any]) -> dict[str, Any]:
    found = figures(runs)
    ids = [figure.id for figure in found]
    assert len(set(ids)) == len(ids)
    return {figure.id: figure for figure in found}


def series(figure: Any, name: str, field: str, run: str | None = None) -> list[float]:
    return [
        row[field]
        for row in figure.rows
        if row["series"] == name and (run is None or row["run"] == run)
    ]


def test_every_figure_of_the_paper_is_there_with_its_words() -> None:
    found = by_id([MadeUp()])
    assert list(found) == PLAIN
    for figure in found.values():
        assert figure.definition in DEFINITIONS
        assert figure.title
        assert figure.says.endswith((".", ".)"))
        assert figure.rows, figure.id
        assert bool(figure.spec) == (figure.id != "figure-5"), "figure 5 is a table"
        if figure.spec:
            assert figure.spec["data"]["values"] is figure.rows
            assert figure.spec["width"] == "container"
            fields = {e["field"] for e in figure.spec["encoding"].values() if e and "field" in e}
            calculated = {t["as"] for t in figure.spec.get("transform", ())}
            assert fields - calculated <= set(figure.rows[0]), figure.id
        json.dumps(figure.spec, allow_nan=False)


def test_the_numbers_are_those_of_the_analysis() -> None:
    run = MadeUp()
    found = by_id([run])
    lower = lower_half(run.layers, run.n_model_layers)
    assert series(found["figure-1a"], OWN, "dead") == (100 * run.dead.mean(axis=1)).tolist()
    alive = [run.frequency[i][~run.dead[i]].mean() for i in range(len(run.layers))]
    assert np.allclose(series(found["figure-1b"], OWN, "frequency"), alive)
    for n, name in ((1, "figure-2"), (2, "figure-12"), (3, "figure-13")):
        counts = bucket_counts(run.coverage(n)[lower], ~run.dead[lower])
        assert [row["neurons"] for row in found[name].rows] == counts.reshape(-1).tolist()
    for n, names in ((1, ("3a", "3b", "4")), (3, ("14a", "14b", "15"))):
        table = {key: np.asarray(values)[lower] for key, values in run.detected(n).items()}
        first, second, third = (found[f"figure-{name}"] for name in names)
        assert series(first, "all", "detectors") == table["detectors"].tolist()
        assert series(first, "supported", "detectors") == table["supported"].tolist()
        assert series(second, "in the layer", "ngrams") == table["detected"].tolist()
        assert series(second, "up to the layer", "ngrams") == table["cumulative"].tolist()
        seen = [sum(r["ngrams"] for r in third.rows if r["layer"] == layer) for layer in range(6)]
        assert seen == table["detected"].tolist()
    positional = numbers.positional(run, run.name)
    assert len(found["figure-8"].rows) == positional.layer.size
    layer, own, spans = positional.ranges(run)
    assert len(found["figure-9"].rows) == sum(len(one) for one in spans)
    assert f"layer {layer}" in found["figure-9"].says
    assert {row["neuron"] for row in found["figure-9"].rows} == {str(neuron) for neuron in own}
    curves = {(row["type"], row["strength"]) for row in found["figure-7"].rows}
    assert curves == set(positional.examples(run))


def test_long_curves_are_means_of_neighbours() -> None:
    run = MadeUp(context=2048, full_sequences=60)
    rows = by_id([run])["figure-7"].rows
    one = [row for row in rows if row["neuron"] == rows[0]["neuron"]]
    layer, neuron = map(int, one[0]["neuron"].split("."))
    curve = run.position_fires(layer)[neuron][1:] / run.full_sequences
    assert len(one) <= 512
    assert one[0]["position"] == 1
    assert one[0]["frequency"] == pytest.approx(curve[:4].mean())
    assert one[-1]["frequency"] == pytest.approx(curve[4 * (len(one) - 1) :].mean())


def test_published_curves_lie_over_models_of_their_shape_alone() -> None:
    plain, opt = by_id([MadeUp()]), by_id([opt_125m()])
    assert not any(PAPER in str(row.get("series")) for f in plain.values() for row in f.rows)
    told = published.published()
    assert series(opt["figure-1a"], PAPER, "dead") == told["dead"]["125m"]
    assert "20M tokens of Wikipedia" in opt["figure-1a"].says
    assert "0.3 % points" in opt["figure-1a"].says
    assert len(opt["figure-8-published"].rows) == 127
    assert {row["neuron"] for row in opt["figure-9"].rows if row["series"] == PAPER} == {
        f"{neuron} ({PAPER})" for neuron in told["oscillatory_ranges"]["125m"]["ranges"]
    }
    larger = MadeUp(name="opt-66b", n_model_layers=64, hidden_size=9216, neurons=36864)
    assert published.size_of(larger) == "66b"
    assert published.curve(larger, "token_detectors")[0] == 342
    assert published.curve(larger, "cumulative_detected_tokens") == 9945


def test_published_detectors_lie_over_a_run() -> None:
    run = MadeUp(n_model_layers=24, hidden_size=2048, neurons=8192, positional_counts={})
    found = by_id([run])
    told = published.published()
    assert series(found["figure-3a"], PAPER, "detectors") == told["token_detectors"]["1.3b"]
    assert "5M tokens" in found["figure-3a"].says
    assert series(found["figure-3b"], f"{PAPER}, in all", "ngrams") == [345]


def test_several_runs_share_axes_and_keep_their_colours() -> None:
    runs = [MadeUp(name="one"), MadeUp(name="one", seed=2), opt_125m()]
    found = by_id(runs)
    names = ["one", "one (2)", "opt-125m"]
    for name in ("figure-1a", "figure-1b", "figure-3a", "figure-14b"):
        colours = found[name].spec["encoding"]["color"]["scale"]
        assert colours["domain"] == names
        assert len(set(colours["range"])) == 3
    assert {"figure-2-one", "figure-2-one--2", "figure-2-opt-125m"} <= set(found)
    assert found["figure-1a"].run is None
    assert [found[f"figure-8-{name}"].run for name in ("one", "one--2", "opt-125m")] == [0, 1, 2]


def test_a_run_keeps_its_colour_where_another_has_nothing_to_show() -> None:
    found = by_id([MadeUp(name="bare", ngrams=(1,)), MadeUp(name="whole")])
    first, second = (found[f"figure-{name}"] for name in ("3a", "14a"))
    scales = [figure.spec["encoding"]["color"]["scale"] for figure in (first, second)]
    assert scales[0] == scales[1]
    assert {row["run"] for row in second.rows} == {"whole"}
    assert "bare was scanned without trigrams" in second.says
    assert "that detect trigrams" in second.says
    assert "without trigrams" in found["figure-15-bare"].says
    assert found["figure-15-whole"].rows


def test_gaps_between_layers_and_ends_of_ranges_are_told() -> None:
    assert "not shown apart" in by_id([MadeUp(layers=[0, 2, 3])])["figure-4"].says
    spec = by_id([MadeUp()])["figure-9"].spec
    assert spec["transform"] == [{"calculate": "datum.end + 1", "as": "after"}]
    twice = by_id([opt_125m(), opt_125m()])["figure-1a"]
    assert twice.says.count("OPT-125m") == 1
    assert len(series(twice, PAPER, "dead")) == 12


def test_what_a_run_cannot_show_it_says() -> None:
    none = MadeUp(name="bare", ngrams=(), full_sequences=9, most_detectors=0, most_dead=0)
    found = by_id([none])
    assert "without tokens" in found["figure-2"].says
    assert "9 full-length sequences" in found["figure-8"].says
    assert found["figure-8"].spec == {}
    upper = MadeUp(name="upper", layers=[10, 11])
    assert "without the lower half" in by_id([upper])["figure-3a"].says
    no_detector = by_id([MadeUp(most_detectors=0)])
    assert "no supported token detector" in no_detector["figure-5"].says
    assert "no token is detected" in no_detector["figure-4"].says


def test_bounds_of_merged_runs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = MadeUp(name="merged")
    monkeypatch.setattr(MadeUp, "exact", lambda self, _: self.dead)
    run.detectors(1)["exact"][:2] = False
    found = by_id([run])
    assert "known in bounds only" in found["figure-2"].says
    assert "2 more neurons of merged runs" in found["figure-3a"].says
