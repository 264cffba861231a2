"""The Python face: what `Scan` answers, what is refused, and that a run survives the disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import checkpoints
import pyneurons
from pyneurons import _core
from pyneurons.errors import BackendUnavailable, InputError, IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = checkpoints.BASE["vocab_size"]


def documents(seed: int = 1, number: int = 90) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.zipf(1.6, size=int(length)).clip(1, VOCABULARY - 5).__add__(3).tolist()
        for length in generator.integers(5, 60, size=number)
    ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    model = checkpoints.build("pre", seed=3)
    for layer in model.model.decoder.layers:
        layer.fc1.bias.data[:48] -= 2.5  # half of the neurons fire seldom or never
    checkpoints.write_model(model, directory)
    checkpoints.write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> pyneurons.Scan:
    corpus = {"a": documents(1), "b": documents(2)}
    out = tmp_path_factory.mktemp("out") / "run"
    return pyneurons.scan(checkpoint, corpus, context=24, out=out, progress=False)


def test_shapes_and_dtypes(run: pyneurons.Scan) -> None:
    shape = (2, checkpoints.BASE["ffn_dim"])
    for name, dtype in {
        "fires": np.int64, "bos_fires": np.int64, "separator_fires": np.int64,
        "frequency": np.float64, "dead": np.bool_, "first_fire": np.int64, "z_max": np.float32,
        "z_sup": np.float64, "z_inf": np.float64, "provably_dead": np.bool_,
        "provably_on": np.bool_, "mi": np.float64,
    }.items():  # fmt: skip
        array = getattr(run, name)
        assert (array.shape, array.dtype) == (shape, dtype), name
    for n in (1, 2, 3):
        assert run.ngram_fires(n).shape == run.coverage(n).shape == shape
    assert run.position_fires(0).shape == (shape[1], 24)
    assert set(run.domain_fires) == {"a", "b"} == set(run.domain_tokens)
    assert sum(run.domain_tokens.values()) == run.tokens == len(run.ids)


def test_parts_add_up(run: pyneurons.Scan) -> None:
    np.testing.assert_array_equal(sum(run.domain_fires.values()), run.fires)
    by_domain = sum(run.position_fires(1, name) for name in run.domain_tokens)
    np.testing.assert_array_equal(by_domain, run.position_fires(1))
    assert run.corpus_tokens == sum(map(len, documents(1))) + sum(map(len, documents(2)))
    for n in (1, 2, 3):
        assert (run.ngram_fires(n) <= run.fires).all()
        assert run.ngram_positions(n) >= run.ngram_fires(n).max()


def test_a_run_comes_back_from_disk(run: pyneurons.Scan, tmp_path: Path) -> None:
    saved = run.save(tmp_path / "copy")
    again = pyneurons.load(saved)
    np.testing.assert_array_equal(again.fires, run.fires)
    assert again.detectors(n=2).equals(run.detectors(n=2))
    assert again.neurons.equals(run.neurons)
    assert again.manifest == run.manifest
    with pytest.raises(InputError, match="exists already"):
        run.save(saved)


def test_the_neuron_table_has_every_neuron(run: pyneurons.Scan) -> None:
    table = run.neurons
    assert table.num_rows == run.fires.size
    np.testing.assert_array_equal(table["fires"].to_numpy(), run.fires.reshape(-1))
    np.testing.assert_array_equal(table["mi"].to_numpy(), run.mi.reshape(-1))
    roles = table["role"].to_numpy().reshape(run.fires.shape)
    for n in (1, 2, 3):
        found = run.detectors(n=n)
        for layer, neuron in zip(
            found["layer"].to_pylist(), found["neuron"].to_pylist(), strict=True
        ):
            assert 1 <= roles[layer, neuron] <= n


def test_one_neuron(run: pyneurons.Scan) -> None:
    alive = int(np.flatnonzero(~run.dead[1])[0])
    known = run.neuron(f"1.{alive}")
    assert known["fires"] == run.fires[1, alive]
    listed = known["ngrams"][1]
    assert listed == sorted(listed, key=lambda row: -row["fires"])
    occurrences = np.bincount(np.asarray(run.ids), minlength=VOCABULARY)
    for row in listed:
        assert row["occurrences"] == occurrences[row["tokens"][0]]
        assert row["precision"] == row["fires"] / row["occurrences"]
    assert known["position_fires"].sum() <= known["fires"]
    assert len(known["contexts"]) == min(16, known["fires"])
    assert run.neuron((1, alive))["fires"] == known["fires"]


@pytest.mark.parametrize("name", ["1", "1.2.3", "a.b", "9.0", "0.96", "0.-1"])
def test_a_wrong_neuron_is_refused(run: pyneurons.Scan, name: str) -> None:
    with pytest.raises(InputError, match="neuron"):
        run.neuron(name)


def test_which_reads_the_detectors(run: pyneurons.Scan) -> None:
    found = run.detectors(n=3).to_pylist()
    assert found, "rare neurons of a random model detect trigrams by chance"
    ids = found[0]["covered"][0]
    text = "".join(run.strings[token] for token in ids)
    rows = run.which(text).to_pylist()
    expected = {(r["layer"], r["neuron"]) for r in found if ids in r["covered"]}
    assert {(r["layer"], r["neuron"]) for r in rows if r["n"] == 3} >= expected
    assert run.which("no such text").num_rows == 0


def test_a_sweep_is_exact_or_refused(checkpoint: Path) -> None:
    corpus = {"a": documents(1), "b": documents(2)}
    short = pyneurons.scan(checkpoint, corpus, context=24, progress=False, list_limit=50)
    whole = pyneurons.scan(checkpoint, corpus, context=24, progress=False, list_limit=10**6)
    sweep: dict[str, Any] = {"n": 2, "K": 40, "coverage": 0.97, "precision": 0.5}
    assert short.detectors(**sweep).equals(whole.detectors(**sweep))
    assert whole.detectors(n=2, K=1000).num_rows >= whole.detectors(n=2).num_rows
    with pytest.raises(InputError, match="list_limit"):
        short.detectors(n=2, K=1000)
    np.testing.assert_array_equal(short.coverage(2, 0.5), whole.coverage(2, 0.5))
    for share in (0.0, 1.5, "most"):
        with pytest.raises(InputError, match="coverage"):
            short.detectors(n=1, coverage=share)


def test_an_order_or_layer_that_was_not_scanned(checkpoint: Path) -> None:
    run = pyneurons.scan(checkpoint, documents(), context=24, progress=False, ngrams=(1,))
    with pytest.raises(InputError, match="n = 2 was not scanned"):
        run.detectors(n=2)
    with pytest.raises(InputError, match="layer 7 was not scanned"):
        run.position_fires(7)
    none = pyneurons.scan(checkpoint, documents(), context=24, progress=False, ngrams=())
    np.testing.assert_array_equal(none.fires, run.fires)


def test_projection_scores_are_those_of_numpy(run: pyneurons.Scan, checkpoint: Path) -> None:
    from transformers import OPTForCausalLM

    model = OPTForCausalLM.from_pretrained(checkpoint)
    embedding = model.get_input_embeddings().weight.detach().double().numpy()
    named = [i for i, string in enumerate(run.strings) if string is not None]
    for layer in run.layers:
        fc2 = model.model.decoder.layers[layer].fc2.weight.detach().double().numpy()
        scores = (embedding @ fc2).T[:, named]  # [F, V']
        rows = run._run.table("suppression", layer=layer).to_pylist()
        for row in rows:
            own = scores[row["neuron"]]
            score = own[named.index(row["token"])]
            assert row["score"] == pytest.approx(score, abs=1e-4)
            assert row["centred"] == pytest.approx(score - own.mean(), abs=1e-4)
            assert abs(row["rank"] - (own > score).sum()) <= 1
        for neuron in (0, 17, 95):
            promoted, suppressed = run.vocabulary(layer, neuron)
            best = np.sort(scores[neuron])
            np.testing.assert_allclose([s for _, s in promoted], best[::-1][:10], atol=1e-4)
            np.testing.assert_allclose([s for _, s in suppressed], best[:10], atol=1e-4)


# ----- what is refused, before any compute ---------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype: 'float8' is not one of"),
        ({"device": "tpu"}, "device: 'tpu' is not one of"),
        ({"projection": "magic"}, "projection"),
        ({"context": 1}, "context: 1 is not between 2 and 64"),
        ({"context": 65}, "the model's maximum"),
        ({"ngrams": (0,)}, "ngrams"),
        ({"layers": [2]}, "layers between 0 and 1"),
        ({"layers": []}, "layers"),
        ({"list_limit": 49}, "list_limit"),
        ({"threads": 0}, "threads"),
        ({"memory": "lots"}, "memory"),
        ({"packing": "tight"}, "packing"),
        ({"errors": "ignore"}, "errors"),
        ({"max_tokens": 3}, "max_tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pyneurons.scan(checkpoint, documents(), **({"progress": False} | options))


def test_a_backend_asked_for_by_name_is_not_replaced(checkpoint: Path) -> None:
    with pytest.raises(BackendUnavailable, match="abacus"):
        pyneurons.scan(checkpoint, documents(), backend="abacus", progress=False)


def test_the_manifest_says_how_float32_is_multiplied(checkpoint: Path) -> None:
    options: dict[str, Any] = {"context": 24, "progress": False, "keep_bits": True}
    for backend in ("auto", "torch", "reference", "cpp:scalar"):
        made = pyneurons.scan(
            checkpoint, documents(4, 30), backend=backend, dtype="float32", **options
        )
        on_amx = backend == "auto" and _core.detect() == "amx"
        assert made.manifest["numeric"]["mode"] == "float32"
        assert made.manifest["numeric"]["float32_products"] == ("split" if on_amx else "torch")


def test_torch_as_a_backend_means_float32(checkpoint: Path) -> None:
    options: dict[str, Any] = {"context": 24, "progress": False, "backend": "torch"}
    made = pyneurons.scan(checkpoint, documents(4, 30), **options)
    assert made.manifest["numeric"]["mode"] == "float32"
    assert made.manifest["environment"]["backend"] == "torch"
    with pytest.raises(InputError, match="'torch' multiplies float32 only"):
        pyneurons.scan(checkpoint, documents(4, 30), dtype="bfloat16", **options)


def test_out_is_not_overwritten(run: pyneurons.Scan, checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"context": 24, "progress": False}
    with pytest.raises(InputError, match="overwrite"):
        pyneurons.scan(checkpoint, documents(), out=run.directory, **options)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a run"):
        pyneurons.scan(checkpoint, documents(), out=tmp_path, overwrite=True, **options)
    assert (tmp_path / "thesis.tex").exists()


def test_bad_input_does_not_cost_a_finished_run(
    run: pyneurons.Scan, checkpoint: Path, tmp_path: Path
) -> None:
    kept = run.save(tmp_path / "run")
    before = sorted(path.name for path in kept.iterdir())
    with pytest.raises(InputError):
        pyneurons.scan(checkpoint, [[1000]], out=kept, overwrite=True, progress=False)
    assert sorted(path.name for path in kept.iterdir()) == before
    again = pyneurons.scan(
        checkpoint, documents(5), context=24, out=kept, overwrite=True, progress=False
    )
    assert again.tokens != run.tokens
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_not_a_run_is_refused(run: pyneurons.Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest"):
        pyneurons.load(tmp_path)
    damaged = run.save(tmp_path / "damaged")
    (damaged / "counts-001.safetensors").unlink()
    with pytest.raises(IntegrityError, match="counts-001"):
        pyneurons.load(damaged)
    manifest = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        pyneurons.load(damaged)


def test_reference_and_cpp_give_the_same_scan(checkpoint: Path) -> None:
    """Counting is exact on every backend; ffn may round differently, so the bits are shared."""
    corpus = documents(4, 30)
    runs = [
        pyneurons.scan(
            checkpoint, corpus, context=24, progress=False, dtype="float32", backend=backend,
            keep_bits=True,
        )
        for backend in ("cpp", "reference")
    ]  # fmt: skip
    equal = all(np.array_equal(runs[0].bits(layer), runs[1].bits(layer)) for layer in (0, 1))
    assert equal
    np.testing.assert_array_equal(runs[0].fires, runs[1].fires)
    for n in (1, 2, 3):
        assert runs[0].detectors(n=n).equals(runs[1].detectors(n=n))
        np.testing.assert_array_equal(runs[0].coverage(n), runs[1].coverage(n))
