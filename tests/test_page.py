"""The page in Chromium, opened from disk and without a network."""

from __future__ import annotations

import csv
import io
import shutil
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import browser as browsers
import made_up_directories
from pyneurons.report import words
from pyneurons.report.page import write_page
from pyneurons.report.page.figures import figures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE = "<img src=x onerror=alert(1)>"
SHAPE = made_up_directories.Shape(name=IMAGE, domains=("code", "<b>prose</b>"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def scan(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ARG001  (skips first)
    return made_up_directories.write(tmp_path_factory.mktemp("page") / "run", SHAPE)


@dataclass(frozen=True)
class Form:
    path: Path
    many: bool


@pytest.fixture(
    scope="module", params=["one file", pytest.param("many files", marks=pytest.mark.slow)]
)
def form(request: pytest.FixtureRequest, scan: Any) -> Form:
    many = request.param == "many files"
    path = scan.directory.parent / f"a {request.param} #1%.html"
    written = write_page([scan], path, one_file_bytes=0 if many else 10**9)
    assert len(written) == 1 + many
    return Form(path, many)


@pytest.fixture
def visit(browser: Any, form: Form) -> Iterator[browsers.Visit]:
    visited = browsers.Visit(browser, form.path, viewport={"width": 1280, "height": 900})
    yield visited
    visited.close()
    assert any("/r0/" in url for url in visited.asked) <= form.many


def drawn(visit: browsers.Visit, view: str) -> int:
    """Scroll to every figure of a view; return their number when all are drawn."""
    boxes = visit.page.locator(f"#view-{view} .figure")
    for i in range(boxes.count()):
        boxes.nth(i).scroll_into_view_if_needed()
        visit.page.locator(f"#view-{view} .figure >> nth={i}").and_(
            visit.page.locator("[data-state=drawn]")
        ).wait_for()
        canvas = boxes.nth(i).locator("canvas")
        if not canvas.count():  # a table, or a sentence that says why there is nothing to draw
            assert len(boxes.nth(i).locator(".says").inner_text()) > 20
            continue
        colours = canvas.evaluate(
            "c => new Set(new Uint32Array(c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data.buffer)).size"
        )
        assert colours > 5
    return int(boxes.count())


def rows(visit: browsers.Visit) -> list[list[str]]:
    """The rows of the table of neurons that are on the screen."""
    found: list[list[str]] = visit.page.evaluate(
        "[...document.querySelectorAll('#view-neurons .grid .row')]"
        ".sort((a, b) => a.getAttribute('aria-rowindex') - b.getAttribute('aria-rowindex'))"
        ".map(row => [...row.children].map(cell => cell.textContent))"
    )
    return found


def test_every_figure_is_drawn(visit: browsers.Visit, scan: Any) -> None:
    assert IMAGE in visit.open().locator("h1").inner_text()
    assert drawn(visit, "overview") == len(figures([scan]))
    visit.go("#layers/1")
    assert drawn(visit, "layers") == 1 + 3
    facts = visit.go("#overview").inner_text()
    for line in [*words.what_was_run(scan), *words.exactness(scan), words.cost(scan)]:
        assert line in facts


def test_the_libraries_tell_their_versions(visit: browsers.Visit) -> None:
    visit.open()
    told = visit.page.evaluate("[vega.version, vegaLite.version, vegaEmbed.version]")
    assert told == ["6.4.0", "6.4.3", "7.3.0"]


def test_the_table_sorts_and_filters(visit: browsers.Visit, scan: Any, form: Form) -> None:
    section = visit.open("neurons")
    if form.many:  # a layer at first, all when they are asked for
        assert "300 of 300 neurons" in section.inner_text()
        section.locator("select[data-filter=layer]").select_option("all")
        visit.page.get_by_text("900 of 900 neurons").wait_for()
    assert rows(visit)[0][0] == "0.0"
    section.locator(".head button", has_text="fires").click()
    layer, neuron = np.unravel_index(np.argmax(scan.fires), scan.fires.shape)
    visit.page.locator(f".row >> text='{layer}.{neuron}'").wait_for()
    first = rows(visit)
    assert first[0][0] == f"{layer}.{neuron}"
    assert first[0][2] == f"{scan.fires.max():,}"
    counts = [int(row[2].replace(",", "")) for row in first]
    assert counts == sorted(scan.fires.reshape(-1).tolist(), reverse=True)[: len(counts)]
    section.locator("select[data-filter=role]").select_option("token detector")
    role = np.array(scan.neurons["role"]) == 1
    visit.page.get_by_text(f"{role.sum()} of 900 neurons").wait_for()
    assert {row[1].split(",")[0] for row in rows(visit)} == {"token detector"}
    section.locator("select[data-filter=layer]").select_option("1")
    inside = int(role[300:600].sum())
    visit.page.get_by_text(f"{inside} of 300 neurons").wait_for()
    section.locator("select[data-filter=role]").select_option("any")
    section.get_by_label("least frequency, per cent").fill("2")
    section.get_by_label("largest covering number").fill("500")
    keep = (100 * scan.frequency[1] >= 2) & (scan.coverage(1)[1] <= 500)
    visit.page.get_by_text(f"{keep.sum()} of 300 neurons").wait_for()
    section.get_by_label("least mutual information").fill("0.05")
    keep &= scan.mi[1] >= 0.05
    visit.page.get_by_text(f"{keep.sum()} of 300 neurons").wait_for()


def test_proven_dead_neurons_can_be_chosen(visit: browsers.Visit, scan: Any) -> None:
    section = visit.open("neurons")
    section.locator("select[data-filter=layer]").select_option("2")
    section.locator("select[data-filter=role]").select_option("dead, proven")
    number = int(scan.provably_dead[2].sum())
    assert number
    visit.page.get_by_text(f"{number} of 300 neurons").wait_for()


def detector(scan: Any, n: int = 1, layer: int = 1) -> dict[str, Any]:
    table = scan.detectors(n).to_pylist()
    return next(row for row in table if row["layer"] == layer and len(row["covered"]) > 1)


def test_a_neuron_says_what_show_says(visit: browsers.Visit, scan: Any) -> None:
    names = [(row["layer"], row["neuron"]) for row in (detector(scan), detector(scan, 3, 2))]
    positional = scan.positional().to_pylist()[0]
    names += [(positional["layer"], positional["neuron"]), (2, int(np.argmin(scan.fires[2])))]
    visit.open()
    for name in names:
        found = scan.neuron(name)
        section = visit.go(f"#neuron/{name[0]}.{name[1]}")
        said = words.role(**{k: found[k] for k in words.role.__annotations__ if k != "return"})
        assert section.locator("h1").inner_text() == f"neuron {name[0]}.{name[1]}: {said}"
        text = section.inner_text()
        fill = words.TEMPLATES
        assert fill["fires"].format(percent=100 * found["frequency"], **found) in text
        assert fill["bounds"].format(**found) in text
        for domain, share in found["domain_frequency"].items():
            assert fill["domain"].format(domain=domain, percent=100 * share) in text
        curve = fill["curve"].format(mi=found["mi"]) + fill["bias"].format(bias=found["mi_bias"])
        assert curve in text
        for n, listed in found["ngrams"].items():
            if not found[f"ngram_fires_{n}"]:
                continue
            assert words.covers(n, found[f"ngram_fires_{n}"], found[f"coverage_{n}"]) in text
            cells = section.locator(f".ngrams-{n} tr").evaluate_all(
                "rows => rows.slice(1).map(row => [...row.children].map(cell => cell.textContent))"
            )
            assert [row[:5] for row in cells] == [
                [
                    "".join(map(words.visible, row["strings"])),
                    f"{row['fires']:,}",
                    f"{100 * row['fires'] / found[f'ngram_fires_{n}']:.1f}",
                    f"{row['occurrences']:,}",
                    f"{100 * row['precision']:.1f}",
                ]
                for row in listed[: len(cells)]
            ]
        for side in ("promoted", "suppressed"):
            shown = section.locator(f".tokens.{side} > span").all_text_contents()
            assert shown == [
                fill["token_score"].format(token=words.visible(token), score=score)
                for token, score in found[side]
            ]
        assert section.locator(".triggers li").all_text_contents() == [
            fill["trigger"].format(**{**row, "token": words.visible(row["string"])})
            for row in found["triggers"]
        ]
        contexts = section.locator(".contexts li")
        assert contexts.locator("mark").all_text_contents() == [
            words.visible(context["token"]) for context in found["contexts"]
        ]
        assert contexts.locator(".text").all_text_contents() == [
            words.visible(context["before"] + context["token"] + context["after"])
            for context in found["contexts"]
        ]


def test_the_walk_from_a_layer_to_a_neuron_and_back(visit: browsers.Visit) -> None:
    visit.open("layers/1")
    canvas = visit.page.locator("#view-layers canvas >> nth=0")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.51, "y": box["height"] * 0.4})
    section = visit.there("neuron")
    name = section.get_attribute("data-neuron")
    assert name.startswith("1.")
    assert visit.page.url.endswith(f"#neuron/{name}")
    section.get_by_text("next →").click()
    following = f"1.{int(name[2:]) + 1}"
    visit.page.locator(f"#view-neuron[data-neuron='{following}']").wait_for()
    visit.page.go_back()
    visit.page.locator(f"#view-neuron[data-neuron='{name}']").wait_for()
    visit.page.go_back()
    visit.there("layers")
    assert "was not scanned" in visit.go("#neuron/7.1").inner_text()


def test_keys_walk_the_table(visit: browsers.Visit) -> None:
    section = visit.open("neurons")
    section.locator(".grid").focus()
    for key in ("ArrowDown", "ArrowDown", "PageDown", "End", "ArrowUp", "Home", "ArrowDown"):
        visit.page.keyboard.press(key)
    visit.page.keyboard.press("Enter")
    assert visit.there("neuron").get_attribute("data-neuron") == "0.1"


def test_the_search_finds_what_which_finds(visit: browsers.Visit, scan: Any) -> None:
    section = visit.open("neurons")
    box = section.locator("input[type=search]")
    for row in (detector(scan), detector(scan, 2)):
        text = "".join(scan.strings[token] for token in row["covered"][0])
        true = scan.which(text).to_pylist()
        box.fill(text)
        table = section.locator(".found >> nth=0")
        visit.page.locator("#view-neurons [data-state]").and_(
            visit.page.locator(f'[data-state="{text}"]')
        ).wait_for()
        cells = table.locator("tr").evaluate_all(
            "rows => rows.slice(1).map(row => [...row.children].map(cell => cell.textContent))"
        )
        assert [(cell[0], cell[3], cell[4]) for cell in cells] == [
            (f"{t['layer']}.{t['neuron']}", f"{t['fires']:,}", f"{100 * t['coverage']:.1f}")
            for t in true
        ]
    box.fill("nothing like it")
    visit.page.get_by_text("no neuron detects “nothing␣like␣it”").wait_for()
    row = detector(scan)
    text = scan.strings[row["covered"][0][0]]
    box.fill(text)
    section.get_by_role("link", name=f"{row['layer']}.{row['neuron']}", exact=True).first.click()
    assert visit.there("neuron").get_attribute("data-neuron") == f"{row['layer']}.{row['neuron']}"


def test_markup_in_tokens_is_text(visit: browsers.Visit, scan: Any) -> None:
    section = visit.open("neurons")
    section.locator("input[type=search]").fill(made_up_directories.SCRIPT)
    visit.page.locator(f"[data-state='{made_up_directories.SCRIPT}']").wait_for()
    assert made_up_directories.SCRIPT in section.locator(".found >> nth=0").inner_text()
    token = scan.strings.index(made_up_directories.SCRIPT)
    found = next(row for row in scan.detectors(1).to_pylist() if [token] in row["covered"])
    section = visit.go(f"#neuron/{found['layer']}.{found['neuron']}")
    assert made_up_directories.SCRIPT in section.inner_text()
    assert section.locator("script, b, img").count() == 0
    assert "<b>prose</b>" in section.inner_text()


def test_figures_download(visit: browsers.Visit, scan: Any) -> None:
    visit.open()
    # One of each kind; the browser gives no more than ten downloads to one page at a time.
    kinds = ("figure-1a", "figure-2", "figure-5", "figure-8", "figure-9")
    for figure in [figure for figure in figures([scan]) if figure.id in kinds]:
        box = visit.page.locator(f"#figure-{figure.id}")
        box.scroll_into_view_if_needed()
        if not figure.rows:
            assert box.get_by_role("button").count() == 0
            continue
        files = {}
        for name in ("SVG", "CSV") if figure.spec else ("CSV",):
            with visit.page.expect_download() as download:
                box.get_by_role("button", name=name).click()
            assert download.value.suggested_filename == f"{figure.id}.{name.lower()}"
            files[name] = download.value.path().read_text(encoding="utf-8")
        if figure.spec:
            root = ET.fromstring(files["SVG"])
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert len(list(root.iter())) > 20
        told = list(csv.DictReader(io.StringIO(files["CSV"], newline="")))
        assert len(told) == len(figure.rows)
        for row, true in zip(told, figure.rows, strict=True):
            for name, value in true.items():
                if isinstance(value, float) and np.isfinite(value):
                    assert float(row[name]) == value
                elif isinstance(value, str | int) and not isinstance(value, bool):
                    assert row[name] == str(value)


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_dark_and_light_on_a_phone(browser: Any, form: Form, scheme: str) -> None:
    size = {"width": 390, "height": 800}
    visit = browsers.Visit(browser, form.path, viewport=size, color_scheme=scheme)
    for where in ("overview", "neurons", "neuron/1.3", "layers/1", "definitions/dead"):
        visit.open(where)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, where
    visit.open("layers/1")

    def grounds() -> list[str]:
        said: list[str] = visit.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            "document.querySelector('#view-layers .figure').view.background()]"
        )
        return said

    colours = {"light": ["rgb(255, 255, 255)", "#ffffff"], "dark": ["rgb(21, 24, 28)", "#15181c"]}
    assert grounds() == colours.pop(scheme)
    visit.page.locator("#theme").click()
    ((_, other),) = colours.values()
    visit.page.wait_for_function(
        "ground => document.querySelector('#view-layers .figure').view.background() === ground",
        arg=other,
    )
    assert grounds() in colours.values()
    visit.close()


def test_several_runs_in_one_page(browser: Any, scan: Any, tmp_path: Path) -> None:
    other = made_up_directories.write(
        tmp_path / "other",
        made_up_directories.Shape(name="other", layers=2, neurons=40, context=64, seed=5),
    )
    path = tmp_path / "both.html"
    write_page([scan, other], path, text=False)
    visit = browsers.Visit(browser, path)
    visit.open("neuron/0.7")
    assert visit.there("neuron").locator(".contexts").count() == 0  # written without text
    visit.page.locator("#run").select_option("1")
    visit.page.wait_for_url("**#1:neuron/0.7")
    found = other.neuron("0.7")
    said = words.TEMPLATES["fires"].format(percent=100 * found["frequency"], **found)
    visit.page.get_by_text(said).wait_for()
    visit.page.get_by_role("link", name="Neurons", exact=True).click()
    visit.page.get_by_text("80 of 80 neurons").wait_for()
    # A figure of one run leads to the neurons of that run, whichever is shown.
    visit.go("#overview")
    for drawn_ in figures([scan, other]):
        if drawn_.rows and not drawn_.spec:
            link = visit.page.locator(f"#figure-{drawn_.id} table a").first
            assert link.get_attribute("href").startswith("#1:") == (drawn_.run == 1)
    visit.close()


def test_layers_are_read_when_they_are_looked_at(browser: Any, scan: Any, tmp_path: Path) -> None:
    path, _ = write_page([scan], tmp_path / "page.html", one_file_bytes=0)
    visit = browsers.Visit(browser, path)
    visit.open()
    assert len(visit.asked) == 1
    visit.go("#layers/1")
    visit.go("#neuron/2.7")
    folder = path.as_uri().removesuffix(".html") + ".data/"
    read = [url.rpartition("/r0/")[2] for url in visit.asked if url.startswith(folder)]
    assert sorted(read) == ["L1/table.js", "L2/0.js", "L2/table.js", "tokens.js"]
    visit.close()


def test_data_that_were_not_kept_with_the_page_are_told_of(
    browser: Any, scan: Any, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    _, folder = write_page([scan], path, one_file_bytes=0)
    folder.rename(tmp_path / "elsewhere")
    visit = browsers.Visit(browser, path)
    visit.open()
    visit.page.get_by_role("link", name="Neurons", exact=True).click()
    visit.page.get_by_text("keep the folder beside the page").wait_for()
    visit.wrong.clear()  # Chromium tells of the missing file as well
    visit.close()


@pytest.mark.slow
def test_a_run_of_the_size_of_125m_opens_at_once(browser: Any, tmp_path: Path) -> None:
    big = made_up_directories.write(tmp_path / "run", made_up_directories.OF_125M)
    path, folder = write_page([big], tmp_path / "page.html")
    assert path.stat().st_size < 5_000_000
    assert folder.is_dir()
    visit = browsers.Visit(browser, path)
    began = time.perf_counter()
    visit.open()
    visit.page.locator("#view-overview .figure[data-state=drawn] >> nth=0").wait_for()
    assert time.perf_counter() - began < 2
    visit.go("#neuron/7.1500")
    visit.close()


@pytest.mark.slow
def test_a_run_of_the_size_of_66b_stays_usable(browser: Any, tmp_path: Path) -> None:
    huge = made_up_directories.write(tmp_path / "run", made_up_directories.OF_66B)
    path, _ = write_page([huge], tmp_path / "page.html")
    assert path.stat().st_size < 20_000_000
    visit = browsers.Visit(browser, path)
    for where, most_s in (
        ("overview", 5),
        ("neurons", 5),
        ("layers/40", 10),
        ("neuron/63.36863", 5),
    ):
        began = time.perf_counter()
        visit.open(where)
        assert time.perf_counter() - began < most_s, where
    name = next(row for row in huge.detectors(1).to_pylist() if row["layer"] == 3)
    text = huge.strings[name["covered"][0][0]]
    section = visit.open("neurons")
    assert "36,864 of 36,864 neurons" in section.inner_text()
    section.locator("input[type=search]").fill(text)
    section.get_by_role("link", name=f"3.{name['neuron']}", exact=True).first.wait_for()
    assert len([url for url in visit.asked if "/table.js" in url]) == 4  # one layer each
    visit.close()
    shutil.rmtree(tmp_path)  # 3.4 GB, which pytest would keep
