"""The figures: what is drawn, with what data, and what is said when there is none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest

from made_up_runs import MadeUp
from pyneurons.analysis.coverage import BUCKET_EDGES, bucket_counts
from pyneurons.analysis.positional import STRENGTHS, TYPES
from pyneurons.errors import InputError, ShapeError
from pyneurons.report import write_figures
from pyneurons.report.figures_dead import draw_dead
from pyneurons.report.figures_ngrams import (
    draw_coverage,
    draw_detected,
    draw_detectors,
    draw_overlap,
    draw_table,
)
from pyneurons.report.figures_positional import draw_examples, draw_map, draw_ranges
from pyneurons.report.numbers import Curve, Detection, DetectorRow, relative_depth
from pyneurons.report.style import TYPE_COLOURS, Line, legible, printable
from pyneurons.report.textplot import plot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIGURES = [
    "figure-01a-dead",
    "figure-01b-frequency",
    "figure-02-token-coverage",
    "figure-03a-token-detectors",
    "figure-03b-detected-tokens",
    "figure-04-token-overlap",
    "figure-05-detectors",
    "figure-07-positional-examples",
    "figure-08-positional-map",
    "figure-09-oscillatory-ranges",
    "figure-12-bigram-coverage",
    "figure-13-trigram-coverage",
    "figure-14a-trigram-detectors",
    "figure-14b-detected-trigrams",
    "figure-15-trigram-overlap",
]
SHARED = ("01a", "01b", "03a", "03b", "14a", "14b")


def small(**changes: Any) -> MadeUp:
    return MadeUp(**({"n_model_layers": 6, "neurons": 128, "context": 192} | changes))


def words(path: Path) -> list[str]:
    """Return the texts of an SVG file."""
    texts = [
        "".join(element.itertext()).strip()
        for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    ]
    return [text for text in texts if text]


def said(figure: Any) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_figures([small(name="opt")], tmp_path_factory.mktemp("run") / "a" / "figures")


def test_one_run_gives_every_figure_twice(drawn: list[Path]):
    assert [path.name for path in drawn] == [
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")
    ]
    for path in drawn:
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data[:8] == b"\x89PNG\r\n\x1a\n"
            assert int.from_bytes(data[16:20], "big") > 500
        else:
            assert words(path)
    assert sorted(drawn) == sorted(drawn[0].parent.iterdir())


def test_letters_in_svg_are_text(drawn: list[Path]):
    texts = {path.stem: words(path) for path in drawn if path.suffix == ".svg"}
    assert "dead neurons, % of a layer" in texts["figure-01a-dead"]
    assert "mean frequency of alive neurons" in texts["figure-01b-frequency"]
    assert "1-5" in texts["figure-02-token-coverage"]
    assert "expected by chance" in texts["figure-03a-token-detectors"]
    assert "suppressed most" in texts["figure-05-detectors"]
    assert "oscillatory" in texts["figure-07-positional-examples"]
    assert "position" in texts["figure-09-oscillatory-ranges"]


def test_the_same_run_gives_the_same_bytes_and_arrow_tables_do_too(
    drawn: list[Path], tmp_path: Path
):
    @dataclass
    class Arrow(MadeUp):
        def detectors(self, n: int) -> Any:
            return pa.table(super().detectors(n))

        def detected(self, n: int) -> Any:
            # The table of detectors above is an Arrow table; sets are made of Python lists.
            table = {k: np.array(v) for k, v in MadeUp.detected(small(name="opt"), n).items()}
            return pa.table(table)

        def positional(self) -> Any:
            table = super().positional()
            return pa.table({k: v if v.dtype != object else v.tolist() for k, v in table.items()})

    again = write_figures([Arrow(name="opt", n_model_layers=6, neurons=128, context=192)], tmp_path)
    for first, second in zip(drawn, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_several_runs_share_six_figures(tmp_path: Path):
    runs = [
        small(name="$a_{b", ngrams=(1,), positional_counts={}, most_detectors=8),
        small(name="$a_{b", n_model_layers=4, layers=[1, 3], ngrams=(3,), full_sequences=20),
    ]
    paths = write_figures(runs, tmp_path)
    names = [path.stem for path in paths if path.suffix == ".svg"]
    for name in FIGURES:
        own = [name] if name.split("-")[1] in SHARED else [f"{name}-a-b", f"{name}-a-b-2"]
        assert [found for found in names if found.startswith(name)] == own
    assert len(names) == len(set(names))
    # The table: supported detectors of the lower half with most fires, by layer and neuron.
    found = runs[0].detectors(1)
    fields = ("layer", "neuron", "ngram_fires", "support")
    rows = list(zip(*(found[field] for field in fields), strict=True))
    known = [row for row in rows if row[0] < 3 and row[2] == row[3]]
    assert len([row for row in rows if row[0] < 3]) > len(known)
    places = [f"{a}.{b}" for a, b, *_ in sorted(sorted(known, key=lambda row: -row[2])[:12])]
    assert [w for w in words(tmp_path / "figure-05-detectors-a-b.svg") if w in places] == places
    every = {f"{a}.{b}" for a, b, *_ in rows}
    assert every & set(words(tmp_path / "figure-05-detectors-a-b.svg")) == set(places)
    shared = words(tmp_path / "figure-01a-dead.svg")
    assert "$a_{b" in shared
    assert "$a_{b (2)" in shared
    why = " ".join(words(tmp_path / "figure-08-positional-map-a-b-2.svg"))
    assert why == "$a_{b (2) has 20 full-length sequences; it takes 50 to call a neuron positional."
    without = " ".join(words(tmp_path / "figure-12-bigram-coverage-a-b-2.svg"))
    assert without == "$a_{b (2) was scanned without bigrams."


def test_a_run_with_nothing_says_so(tmp_path: Path):
    run = small(
        name="none", most_dead=1000, most_detectors=0, positional_counts={}, ngrams=(1, 2),
        layers=[0, 1], n_model_layers=40,
    )  # fmt: skip
    write_figures([run], tmp_path)
    text = {path.stem: " ".join(words(path)) for path in tmp_path.glob("*.svg")}
    assert text["figure-01b-frequency"] == "No layer has a value to show: every neuron is dead."
    assert "no alive neuron" in text["figure-02-token-coverage"]
    assert "No token detector" in text["figure-03a-token-detectors"]
    assert "No token is detected" in text["figure-03b-detected-tokens"]
    assert "no token is detected" in text["figure-04-token-overlap"]
    assert "no supported token detector" in text["figure-05-detectors"]
    assert text["figure-07-positional-examples"] == "none: no positional neuron."
    assert text["figure-08-positional-map"] == "none: no positional neuron."
    assert text["figure-09-oscillatory-ranges"] == "none: no strong oscillatory neuron."
    assert text["figure-13-trigram-coverage"] == "none was scanned without trigrams."
    assert "No run was scanned with trigrams" in text["figure-14a-trigram-detectors"]


def test_layers_of_the_upper_half_are_said_to_be_missing(tmp_path: Path):
    write_figures([small(layers=[4, 5], positional_counts={})], tmp_path)
    for figure in (FIGURES[2], FIGURES[5], FIGURES[6], FIGURES[11], FIGURES[14]):
        text = " ".join(words(tmp_path / f"{figure}.svg"))
        assert text == "made up was scanned without the lower half of its layers."


def test_what_cannot_be_done_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="runs is empty"):
        write_figures([], tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="is a file"):
        write_figures([small()], file)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        write_figures([small()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_importing_the_report_loads_neither_matplotlib_nor_torch():
    code = "import sys, pyneurons.report; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ----- what is in the panels ----------------------------------------------------------------------


def test_lines_hold_the_values_they_are_given():
    depth = relative_depth([0, 2, 5], 6)
    assert depth.tolist() == [0.0, 0.4, 1.0]
    assert relative_depth([0], 1).tolist() == [0.0]
    lines = [Line("a", depth, np.array([1.0, np.nan, 3.0])), Line("b", depth, depth * 50)]
    axes = draw_dead(lines).axes[0]
    for artist, line in zip(axes.lines, lines, strict=True):
        np.testing.assert_array_equal(artist.get_xdata(), line.x)
        np.testing.assert_array_equal(artist.get_ydata(), line.y)
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 50
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_bars_of_coverage_are_the_counts():
    rng = np.random.default_rng(0)
    covering = (10 ** rng.uniform(-1, 5, (5, 300))).astype(int)
    counts = bucket_counts(covering, np.ones(covering.shape, bool))
    axes = draw_coverage(counts, [3, 4, 5, 6, 7], BUCKET_EDGES, 1, "x").axes[0]
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    # The neurons of no bucket come last, on top.
    np.testing.assert_array_equal(np.array(heights).T, np.roll(counts, -1, axis=1))
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert tops == [300.0] * 5
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "4", "5", "6", "7"]


def detection(**changes: Any) -> Detection:
    given = {
        "name": "x",
        "layer": [0, 1, 2],
        "detectors": [4, 9, 2],
        "supported": [3, 8, 0],
        "detected": [10, 12, 5],
        "cumulative": [10, 20, 21],
        "seen_lower": [0, 2, 4],
        "seen_below": [0, 2, 1],
        "chance": [0.5, 0.25, 0.75],
    } | changes
    return Detection(**{k: v if k == "name" else np.array(v) for k, v in given.items()})


@pytest.mark.parametrize(
    ("draw", "fields"),
    [
        (draw_detectors, ("chance", "supported", "detectors")),
        (draw_detected, ("cumulative", "detected")),
    ],
)
def test_lines_of_detectors(draw: Callable[..., Any], fields: tuple[str, ...]):
    runs = [detection(), detection(name="y", detectors=[1, 1, 1])]
    axes = draw(runs, 1).axes[0]
    expected = [getattr(run, field) for run in runs for field in fields]
    for line, values in zip(axes.lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    cumulative = axes.lines[fields.index(fields[0])]
    assert cumulative.get_linestyle() in (":", "--")
    assert axes.lines[len(fields) - 1].get_linestyle() == "-"


def test_bars_of_the_overlap_add_up_to_what_is_detected():
    axes = draw_overlap(detection(), 3).axes[0]
    below, lower, new = (np.array([bar.get_height() for bar in c]) for c in axes.containers)
    assert below.tolist() == [0, 2, 1]
    assert (below + lower).tolist() == [0, 2, 4]
    assert (below + lower + new).tolist() == [10, 12, 5]
    figure = draw_overlap(detection(layer=[1, 2, 4], seen_below=[-1, 2, -1]), 3)
    assert "was not scanned" in said(figure)
    heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
    assert heights == [0, 2, 0]


def test_the_table_underlines_a_neurons_own_triggers():
    row = DetectorRow("3.7", 1234, [" the", "x$"], [("a", 1.25)], [(" the", -0.5), ("b", -0.25)])
    figure = draw_table([row], "model")
    texts = [text.get_text() for text in figure.axes[0].texts]
    for text in ("3.7", "1,234", "␣the", "x$", "a", "1.2", "−0.5"):  # noqa: RUF001
        assert text in texts
    # Two rules of the head would be one line; the other is under " the" among the suppressed.
    assert len(figure.axes[0].lines) == 2
    many = DetectorRow("3.8", 1, ["word"] * 99, [("word", 1.0)] * 99, [("w" * 99, -1.0)])
    crowded = draw_table([row, many], "model").axes[0]
    assert "…" in [text.get_text() for text in crowded.texts]
    assert all(0 <= text.get_position()[0] < 6.8 for text in crowded.texts)


def test_examples_are_in_the_panel_of_their_type():
    curves = {
        (kind, strength): Curve("1.2", 0.5, np.full(9, i / 10))
        for i, kind in enumerate(TYPES)
        for strength in STRENGTHS
        if (kind, strength) not in (("other", "strong"), ("one", "weak"))
    }
    figure = draw_examples(curves, "x")
    for panel, (strength, kind) in zip(
        figure.axes, ((s, k) for s in STRENGTHS for k in TYPES), strict=True
    ):
        curve = curves.get((kind, strength))
        assert len(panel.lines) == (curve is not None)
        if curve is not None:
            np.testing.assert_array_equal(panel.lines[0].get_ydata(), curve.frequency)
            assert panel.lines[0].get_xdata()[0] == 1
            assert panel.lines[0].get_color() == TYPE_COLOURS[kind][0]
    assert "none in this run" in said(figure)
    assert "no curve is strong" in said(figure)


def test_circles_are_in_the_row_of_their_layer_and_the_order_of_their_type():
    layer = np.array([5, 2, 5, 5, 2])
    kind = ["one", "other", "oscillatory", "oscillatory", "both"]
    strength = ["strong", "weak", "weak", "strong", "weak"]
    figure = draw_map([2, 3, 5], layer, kind, strength, np.array([0.1, 0.2, 0.3, 0.1, 0.4]), "x")
    circles = figure.axes[0].collections[0]
    assert circles.get_offsets().tolist() == [[0, 0], [1, 0], [0, 2], [1, 2], [2, 2]]
    expected = [("both", 1), ("other", 1), ("oscillatory", 0), ("oscillatory", 1), ("one", 0)]
    faces = [tuple(round(255 * part) for part in face[:3]) for face in circles.get_facecolors()]
    assert faces == [
        tuple(bytes.fromhex(TYPE_COLOURS[name][shade][1:])) for name, shade in expected
    ]
    counts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "oscillatory, weak (1)" in counts
    assert "both, strong (0)" in counts


def test_ranges_are_rows_in_the_order_of_their_phase():
    ranges = [[(30, 39), (70, 79)], [(1, 4), (10, 19)], [(1, 9)]]
    axes = draw_ranges([7, 8, 9], ranges, 100, 2, "x").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2.9", "2.8", "2.7"]
    first = axes.collections[1].get_paths()
    assert [path.get_extents().x0 for path in first] == [1, 10]
    assert [path.get_extents().x1 for path in first] == [5, 20]


# ----- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"),
        ("\n\t\r", "\\n\\t\\r"),
        ("é—{$_^\\", "é—{$_^\\"),
        ("日", "\\u65e5"),
        ("🙂", "🙂"),
        ("\U00012345", "\\U00012345"),
        ("א", "\\u05d0"),
        ("\u202e\u200b\x00", "\\u202e\\u200b\\u0000"),
        ("", ""),
    ],
)
def test_tokens_are_written_so_that_all_of_them_is_seen(token: str, shown: str):
    if token == "🙂":  # in some fonts, not in others
        assert printable(token) in ("🙂", "\\U0001f642")
    else:
        assert printable(token) == shown


def test_names_keep_their_spaces():
    assert legible("my run\n日") == "my run\\n\\u65e5"


def test_a_curve_in_text():
    text = plot(np.array([0.0, 0.001, 0.5, 0.999, 1.0]), width=40, height=2)
    assert text == "1 ┤   ▇█\n0 ┤ ▁███\n   0   4"
    assert plot(np.array([1.0, 0.0, 0.0]), height=1) == "1 ┤█\n   0 2"


@pytest.mark.parametrize("width", [4, 10, 72, 200])
@pytest.mark.parametrize("size", [1, 2, 64, 65, 2048])
def test_a_curve_in_text_fits_its_width(width: int, size: int):
    values = np.random.default_rng(size).random(size)
    lines = plot(values, width=width, height=3, first_position=1).split("\n")
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert lines[-1].split()[0] == "1"
    if size > 2 and width >= 72:
        assert lines[-1].split()[-1] == str(size)


def test_columns_in_text_are_means_of_their_positions():
    values = np.zeros(100)
    values[50:] = 1
    text = plot(values, width=13, height=1)
    assert text.split("\n")[0].endswith("┤     █████")
    assert plot(np.zeros(30), width=20).replace("\n", "").strip("┤ 10429") == ""


def test_a_curve_without_positions_and_one_with_too_many_dimensions():
    assert plot(np.zeros(0), height=2) == "1 ┤\n0 ┤"
    with pytest.raises(ShapeError, match="expected \\[T\\]"):
        plot(np.zeros((2, 2)))
