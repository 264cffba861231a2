"""What the page holds of neurons is what `Scan.neuron` says of them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import checkpoints
import made_up_directories
import pyneurons
from pyneurons.errors import InputError, ShapeError
from pyneurons.report import words
from pyneurons.report.page import document, write_page
from pyneurons.report.page.columns import pack, unpack
from pyneurons.report.page.definitions import DEFINITIONS
from pyneurons.report.page.figures import figures
from pyneurons.report.page.layers import detector_columns, ensemble
from pyneurons.report.page.neurons import (
    CURVE_POINTS,
    UNKNOWN,
    Details,
    bin_edges,
    detecting,
    layer_table,
)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made_up_directories.write(tmp_path_factory.mktemp("page") / "run")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "uint8"),
        ([0, 256], "uint16"),
        ([0, 65536], "uint32"),
        ([0, 2**32], "float64"),
        ([-1, 3], "int8"),
        ([-1, 300], "int32"),
        ([], "uint8"),
    ],
)
def test_counts_come_back_in_the_narrowest_type(values: list[int], dtype: str) -> None:
    found, also = unpack(pack({"a": np.array(values, dtype=np.int64)}, strings=["ü<"]))
    assert found["a"].dtype == dtype
    assert found["a"].tolist() == values
    assert also == {"strings": ["ü<"]}


def test_columns_of_all_types_side_by_side() -> None:
    given = {
        "flags": np.array([True, False, True]),
        "single": np.array([0.1, -np.inf], dtype=np.float32),
        "double": np.array([[0.1], [np.nan]]),
        "negative": np.array([-(2**40)], dtype=np.float64),
    }
    found, _ = unpack(pack(given))
    for name, values in given.items():
        assert np.array_equal(found[name], values.reshape(-1), equal_nan=values.dtype.kind == "f")


def test_the_same_columns_are_the_same_bytes_and_halves_are_refused() -> None:
    assert pack({"a": np.arange(9)}) == pack({"a": np.arange(9)})
    raw = gzip.decompress(base64.b64decode(pack({"a": np.arange(300)})))
    start = 4 + int.from_bytes(raw[:4], "little")
    assert start % 8 == 0
    assert raw[start : start + 4] == bytes([0, 0, 1, 0])  # little-endian
    with pytest.raises(ShapeError, match="float16"):
        pack({"a": np.zeros(1, dtype=np.float16)})


def some(scan: Any) -> list[tuple[int, int]]:
    """Neurons of every kind, in every layer: detectors, positional and dead ones, any."""
    found = {(layer, neuron) for layer in scan.layers for neuron in (0, 1, 170, 299)}
    for n in (1, 2, 3):
        table = scan.detectors(n).to_pydict()
        found |= set(zip(table["layer"], table["neuron"], strict=True))
    table = scan.positional().to_pydict()
    found |= set(zip(table["layer"][:5], table["neuron"][:5], strict=True))
    assert len(found) > 25
    return sorted(found)


def test_the_table_is_what_scan_neuron_says(scan: Any) -> None:
    tables = {layer: layer_table(scan, layer) for layer in scan.layers}
    seen = set()
    for layer, i in some(scan):
        columns, phrases = tables[layer]
        true = scan.neuron((layer, i))
        for name in ("fires", "bos_fires", "separator_fires", "z_max", "z_sup", "z_inf", "mi"):
            assert columns[name][i] == true[name], (layer, i, name)
        for n in (1, 2, 3):
            assert columns[f"ngram_fires_{n}"][i] == true[f"ngram_fires_{n}"]
            assert columns[f"coverage_{n}"][i] == true[f"coverage_{n}"]
        for d, name in enumerate(scan.domain_tokens):
            assert columns["domain_fires"][d, i] == true[f"fires_{name}"]
        assert columns["role"][i] == true["role"]
        flags = [true[n] for n in ("dead", "provably_dead", "provably_on", "positional")]
        assert columns["flags"][i] == sum(2**b for b, flag in enumerate(flags) if flag)
        said = words.role(**{k: true[k] for k in words.role.__annotations__ if k != "return"})
        assert phrases[columns["said"][i]] == said
        seen.add(said)
    assert {"dead", "no detector", "token detector", "trigram detector"} <= seen
    assert any("positional" in said for said in seen)


@pytest.mark.parametrize("size", [300, 128, 7])
def test_details_are_what_scan_neuron_says(scan: Any, size: int) -> None:
    details = {layer: Details(scan, layer, detecting(scan), text=True) for layer in scan.layers}
    strings = scan.strings
    edges = bin_edges(160)
    blocks: dict[Any, Any] = {}
    positional = 0
    for layer, i in some(scan):
        first = i // size * size
        if (layer, first) not in blocks:
            block = details[layer].block(first, min(first + size, 300))
            blocks[layer, first] = unpack(pack(block))[0]
        columns, k = blocks[layer, first], i - first
        true = scan.neuron((layer, i))
        for n in (1, 2, 3):
            begin, end = columns[f"ngrams_{n}_starts"][k : k + 2]
            rows = true["ngrams"][n][: end - begin]
            assert end - begin >= min(words.MOST_NGRAMS, len(true["ngrams"][n]))
            tokens = columns[f"ngrams_{n}_tokens"].reshape(-1, n)[begin:end]
            assert tokens.tolist() == [row["tokens"] for row in rows]
            for name in ("fires", "occurrences", "covered"):
                own = columns[f"ngrams_{n}_{name}"][begin:end]
                assert own.tolist() == [row[name] for row in rows]
        fires = true["position_fires"]
        binned = [int(fires[a:b].sum()) for a, b in itertools.pairwise(edges)]
        assert columns["curve"].reshape(-1, CURVE_POINTS)[k].tolist() == binned
        whole = np.flatnonzero(columns["curve_whole_of"] == k)
        assert bool(whole.size) == true["positional"]
        if true["positional"]:
            positional += 1
            assert columns["curve_whole"].reshape(-1, 160)[whole[0]].tolist() == fires.tolist()
        for side in ("promoted", "suppressed"):
            ids = columns[side].reshape(-1, 10)[k]
            scores = columns[f"{side}_scores"].reshape(-1, 10)[k]
            named = [f"#{t}" if strings[t] is None else strings[t] for t in ids]
            assert list(zip(named, map(float, scores), strict=True)) == true[side]
        begin, end = columns["triggers_starts"][k : k + 2]
        for r, row in zip(range(begin, end), true["triggers"], strict=True):
            for name in ("n", "token", "score", "centred", "rank"):
                assert columns[f"triggers_{name}"][r] == row[name]
        begin, end = columns["contexts_starts"][k : k + 2]
        for r, row in zip(range(begin, end), true["contexts"][: words.MOST_CONTEXTS], strict=True):
            a, b = columns["contexts_tokens_starts"][r : r + 2]
            at = a + columns["contexts_before"][r]
            parts = (
                columns["contexts_tokens"][x:y] for x, y in ((a, at), (at, at + 1), (at + 1, b))
            )
            said = ["".join(map(str, (strings[t] for t in part))) for part in parts]
            assert said == [row["before"], row["token"], row["after"]]
            assert list(scan.domain_tokens)[columns["contexts_domain"][r]] == row["domain"]
            assert columns["contexts_position"][r] == row["position"]
    assert positional >= 5


def test_bins_hold_every_position_once() -> None:
    for positions in (1, 5, 127, 128, 129, 160, 2048):
        edges = bin_edges(positions)
        assert edges[0] == 0
        assert edges[-1] == positions
        assert (np.diff(edges) >= 1).all()
        assert len(edges) - 1 == min(positions, 128)


def test_the_search_knows_what_which_finds(scan: Any) -> None:
    columns, _ = detector_columns(scan)
    table = scan.detectors(2).to_pydict()
    ids = table["covered"][0][0]
    text = "".join(scan.strings[token] for token in ids)
    true = scan.which(text).to_pydict()
    found, at = [], 0
    for i, n in enumerate(columns["n"]):
        for _ in range(columns["starts"][i], columns["starts"][i + 1]):
            tokens = columns["tokens"][at : at + n]
            at += n
            if "".join(str(scan.strings[token]) for token in tokens) == text:
                found.append((columns["layer"][i], columns["neuron"][i], n, columns["coverage"][i]))
    assert at == columns["tokens"].size
    assert found
    names = ("layer", "neuron", "n", "coverage")
    assert found == list(zip(*(true[name] for name in names), strict=True))


class InBounds:
    """A merged run of which neuron 1 is known in bounds only, and nothing is known of triggers."""

    def __init__(self, scan: Any) -> None:
        self._scan = scan

    has_suppression = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scan, name)

    def rows(self, name: str, layer: int) -> dict[str, Any]:
        rows = self._scan.rows(name, layer)
        if name != "neurons":
            return rows
        for n in (1, 2, 3):
            most = rows[f"coverage_{n}"].astype(np.float64)
            rows |= {f"coverage_{n}_least": most - 1, f"coverage_{n}_most": most}
            most = most.copy()
            most[1] = np.nan  # as Arrow gives nulls
            rows[f"coverage_{n}"] = most
        role = rows["role"].astype(np.float64)
        role[1] = np.nan
        positional = np.full(role.size, None, dtype=object)
        return rows | {"role": role, "positional": positional}


def test_what_is_left_open_stays_open(scan: Any) -> None:
    columns, phrases = layer_table(InBounds(scan), 0)
    assert columns["coverage_1"][1] == UNKNOWN
    assert columns["role"][1] == -1
    assert (columns["flags"] & 16 == 16).all()
    if not columns["flags"][1] & 1:
        assert "detector or not" in phrases[columns["said"][1]]
    block = Details(InBounds(scan), 0, detecting(scan), text=False).block(0, 300)
    assert block["triggers_starts"].tolist() == [0] * 301
    assert not [name for name in block if name.startswith("contexts")]


# ----- the file -----------------------------------------------------------------------------------


def test_one_file_or_many_and_older_data_go(scan: Any, tmp_path: Path) -> None:
    path = tmp_path / "my page.html"
    assert write_page([scan], path, one_file_bytes=1000) == [path, tmp_path / "my page.data"]
    folder = tmp_path / "my page.data"
    kept = folder / "notes"
    kept.mkdir()
    first = [entry.name for entry in folder.iterdir() if entry != kept]
    assert len(first) == 1
    assert (folder / first[0] / "r0" / "L2" / "table.js").exists()
    assert f'"data":"my page.data/{first[0]}/"' in path.read_text()
    write_page([scan], path, text=False, one_file_bytes=1000)
    second = [entry.name for entry in folder.iterdir() if entry != kept]
    assert len(second) == 1
    assert first != second
    assert write_page([scan], path) == [path]
    assert list(folder.iterdir()) == [kept]  # not the page's
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["my page.data", "my page.html"]


def test_the_same_run_gives_the_same_page(scan: Any, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_page([scan], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_markup_of_a_run_is_no_markup_of_the_page(scan: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page([scan], path)
    page = path.read_text(encoding="utf-8")
    assert made_up_directories.SCRIPT not in page
    scripts = re.findall(r"<script[^>]*>", page)
    assert page.count("</script>") == len(scripts)
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"@$]', page.split("<script", maxsplit=1)[0])
    assert document.script_json({"a": "</script><!--&\u2028"}).isascii()
    assert "<" not in document.script_json({"a": "</script><!--"})


def test_no_text_of_the_corpus_is_in_a_page_without_text(scan: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page([scan], path, text=False)
    for name, block in re.findall(r'id="block:([^"]+)">([^<]*)<', path.read_text()):
        columns, _ = unpack(block)
        assert not [column for column in columns if column.startswith("contexts")], name


def test_every_figure_links_to_a_definition(scan: Any) -> None:
    drawn = [*figures([scan, scan]), *ensemble(scan, 0)]
    assert {figure.definition for figure in drawn} <= DEFINITIONS.keys()
    names = [figure.id for figure in drawn]
    assert len(set(names)) == len(names)
    for figure in drawn:
        assert re.fullmatch(r"[\w-]+", figure.id)


def test_wrong_places_are_refused(scan: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one run"):
        write_page([], tmp_path / "page.html")
    with pytest.raises(InputError, match=r"NAME\.html"):
        write_page([scan], tmp_path / "page.txt")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, match=r"NAME\.html"):
        write_page([scan], tmp_path / "folder.html")
    (tmp_path / "page.data").touch()
    with pytest.raises(InputError, match=r"page\.data is a file"):
        write_page([scan], tmp_path / "page.html")


def test_reading_a_run_for_the_page_loads_no_torch(scan: Any, tmp_path: Path) -> None:
    code = (
        "import sys, pyneurons; pyneurons.load(sys.argv[1]).report(sys.argv[2]);"
        "print([m for m in ('torch', 'matplotlib', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(scan.directory), str(tmp_path / "p.html")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_libraries_are_those_that_are_named() -> None:
    folder = Path(document.__file__).parent / "assets" / "vendor"
    rows = re.findall(
        r"\| ([\w-]+) \| ([\d.]+) \| `(\w{64})` \|", (folder / "README.md").read_text()
    )
    assert [name for name, _, _ in rows] == ["vega", "vega-lite", "vega-embed"]
    for name, _, sha256 in rows:
        code = (folder / f"{name}.min.js").read_bytes()
        assert hashlib.sha256(code).hexdigest() == sha256
        assert b"</script" not in code
        assert b"<!--" not in code
        assert "Redistribution" in (folder / f"{name}.LICENSE").read_text()


# ----- runs of the engine -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two scans that list few n-grams, merged without bits: most covering numbers have bounds."""
    folder = tmp_path_factory.mktemp("merged")
    checkpoints.make(folder / "model", "pre", seed=3, num_hidden_layers=2)
    generator = np.random.default_rng(3)
    runs = [
        pyneurons.scan(
            folder / "model",
            generator.integers(4, 90, (30, 24)).tolist(),
            out=folder / f"part-{i}",
            context=24, dtype="bfloat16", list_limit=50, flip_sample=60, progress=False,
        )
        for i in range(2)
    ]  # fmt: skip
    return pyneurons.merge(runs, out=folder / "merged", progress=False)


def test_bounds_of_a_merged_run(merged: Any, tmp_path: Path) -> None:
    assert not merged.has_suppression
    columns, phrases = layer_table(merged, 1)
    open_ = 0
    for i in range(0, 96, 5):
        true = merged.neuron((1, i))
        for n in (1, 2, 3):
            number = true[f"coverage_{n}"]
            assert columns[f"coverage_{n}"][i] == (UNKNOWN if number is None else number)
            for end in ("least", "most"):
                assert columns[f"coverage_{n}_{end}"][i] == true[f"coverage_{n}_{end}"]
            open_ += number is None
        assert columns["role"][i] == (-1 if true["role"] is None else true["role"])
        said = words.role(**{k: true[k] for k in words.role.__annotations__ if k != "return"})
        assert phrases[columns["said"][i]] == said
    assert open_
    write_page([merged], tmp_path / "page.html")
    assert any("in bounds only" in line for line in words.exactness(merged))


def test_runs_without_ngrams_without_layers_without_text(tmp_path: Path, merged: Any) -> None:
    model = merged.directory.parent / "model"
    ids = np.random.default_rng(5).integers(4, 90, (3, 20)).tolist()
    options: Any = {"context": 24, "dtype": "bfloat16", "progress": False}
    bare = pyneurons.scan(model, ids, ngrams=(), flip_sample=0, **options)
    one = pyneurons.scan(model, ids, layers=[1], **options)
    short = write_page([bare, one, merged], tmp_path / "page.html", text=False)
    assert short == [tmp_path / "page.html"]
    table, _ = layer_table(bare, 0)
    assert not [name for name in table if "ngram" in name]
    assert layer_table(one, 1)[0]["fires"].tolist() == one.fires[0].tolist()
