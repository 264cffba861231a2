"""The embedded demo: its corpus, its model, its untrained twin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from pyneurons import demo

FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
)
SPECIAL_IDS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[str]]:
    return demo.demo_corpus()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(demo.model_directory() / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def training() -> dict[str, object]:
    return json.loads((demo.model_directory() / "training.json").read_text(encoding="utf-8"))


def _shapes(directory: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(directory / "model.safetensors", framework="numpy") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        return {name: (one.get_shape(), one.get_dtype()) for name, one in slices.items()}


# --- corpus ---------------------------------------------------------------------------------------


def test_corpus_has_three_domains_in_order(corpus: dict[str, list[str]]) -> None:
    assert list(corpus) == ["code", "prose", "arithmetic"]
    assert tuple(corpus) == demo.DOMAINS
    assert all(text.strip() for texts in corpus.values() for text in texts)


def test_corpus_is_the_same_each_time(corpus: dict[str, list[str]]) -> None:
    assert demo.demo_corpus() == corpus


def test_corpus_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib, pyneurons.demo as d;"
        "print(hashlib.sha256(repr(d.demo_corpus(50000)).encode()).hexdigest())"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            cwd=Path(__file__).parents[1],
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_corpus_is_large_enough(corpus: dict[str, list[str]], tokenizer: Tokenizer) -> None:
    counts = {
        domain: sum(len(one.ids) for one in tokenizer.encode_batch(texts))
        for domain, texts in corpus.items()
    }
    assert sum(counts.values()) >= 500_000
    assert min(counts.values()) >= 140_000


@pytest.mark.parametrize("domain", demo.DOMAINS)
def test_train_and_held_out_are_a_partition(domain: str) -> None:
    everything = list(demo.documents(domain))
    train = list(demo.documents(domain, "train"))
    held_out = list(demo.documents(domain, "held_out"))
    assert len(train) + len(held_out) == len(everything)
    assert sorted(train + held_out) == sorted(everything)
    # The same licence header or an empty package may be two modules; a real text is one.
    assert not {text for text in train if len(text) > 1000} & set(held_out)
    assert 0.03 < len(held_out) / len(everything) < 0.25


@pytest.mark.parametrize("domain", demo.DOMAINS)
def test_held_out_corpus_holds_only_held_out_text(domain: str) -> None:
    held_out = list(demo.documents(domain, "held_out"))
    excerpts = demo.held_out_corpus(100_000)[domain]
    assert excerpts
    assert all(any(text.startswith(one) for text in held_out) for one in excerpts)


def test_corpus_mixes_both_splits(corpus: dict[str, list[str]]) -> None:
    for domain, excerpts in corpus.items():
        held_out = tuple(demo.documents(domain, "held_out"))
        seen = [any(text.startswith(one) for text in held_out) for one in excerpts[:40]]
        assert 10 <= sum(seen) <= 30


def test_code_has_no_docstrings() -> None:
    module = next(text for text in demo.documents("code") if "class JSONDecoder" in text)
    assert "Simple JSON <https://json.org> decoder" not in module
    assert "def raw_decode(self, s, idx=0):" in module
    assert any("Simple JSON <https://json.org> decoder" in text for text in demo.documents("prose"))


def test_arithmetic_does_not_depend_on_the_version_of_python() -> None:
    first = next(demo.documents("arithmetic"))
    assert first.splitlines()[:3] == [
        "What is forty-two plus twenty-five? sixty-seven",
        "What comes next: 28, 18, 8, -2, -12? -22",
        "What comes next: 50, 61, 72, 83, 94? 105",
    ]


def test_arithmetic_is_right() -> None:
    checked = 0
    for text in demo.documents("arithmetic", "held_out"):
        for line in text.splitlines():
            if line.startswith("What is ") and " + " in line:
                a, _, rest = line.removeprefix("What is ").partition(" + ")
                b, _, answer = rest.partition("? ")
                assert int(a) + int(b) == int(answer)
                checked += 1
    assert checked > 100


def test_corpus_of_a_given_size() -> None:
    sizes = {domain: sum(map(len, texts)) for domain, texts in demo.demo_corpus(30_000).items()}
    assert all(30_000 <= size <= 60_000 for size in sizes.values())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown domain 'poetry'"):
        next(demo.documents("poetry"))
    with pytest.raises(ValueError, match="unknown split 'test'"):
        next(demo.documents("code", "test"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        demo.demo_corpus(0)


def test_import_loads_no_torch() -> None:
    program = (
        "import sys, pyneurons.demo;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


# --- tokenizer ------------------------------------------------------------------------------------


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert {token: tokenizer.token_to_id(token) for token in SPECIAL_IDS} == SPECIAL_IDS
    assert tokenizer.get_vocab_size() == 4096
    config = json.loads((demo.model_directory() / "config.json").read_text(encoding="utf-8"))
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (2, 2, 1)


@pytest.mark.parametrize(
    "text", ["", " a", "def f(x):\n\treturn x\n", "naïve 東京 🙂", "a\r\n b  c\x00", "</s> <pad>"]
)
def test_tokenizer_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("token", SPECIAL_IDS)
def test_special_tokens_in_a_text_are_text(tokenizer: Tokenizer, token: str) -> None:
    ids = tokenizer.encode(f"{token} x{token}{token}").ids
    assert min(ids) > max(SPECIAL_IDS.values())


# --- model ----------------------------------------------------------------------------------------


def test_model_is_small() -> None:
    directory = demo.model_directory()
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 8_000_000


def test_weights_are_stored_once_in_float16() -> None:
    shapes = _shapes(demo.model_directory())
    assert {dtype for _, dtype in shapes.values()} == {"F16"}
    assert "lm_head.weight" not in shapes
    assert shapes["model.decoder.embed_tokens.weight"][0] == [4096, 192]
    assert shapes["model.decoder.embed_positions.weight"][0] == [258, 192]
    assert shapes["model.decoder.layers.5.fc1.weight"][0] == [768, 192]


def test_training_was_long_enough_and_helped(training: dict) -> None:
    assert training["finished"]
    assert training["tokens"] >= 18_000_000
    losses = [row["loss"] for row in training["loss"]]
    assert losses[-1] < 0.5 * losses[0]
    first, last = training["held_out_loss"][0], training["held_out_loss"][-1]
    for domain in demo.DOMAINS:
        assert last[domain] < 0.6 * first[domain]
        assert training["data"][domain]["train"]["tokens"] > 0


def test_model_predicts_held_out_text(tokenizer: Tokenizer) -> None:
    import torch
    import transformers

    model = transformers.OPTForCausalLM.from_pretrained(demo.model_directory(), dtype="float32")
    for domain, texts in demo.held_out_corpus(20_000).items():
        ids = [id_ for one in tokenizer.encode_batch(texts) for id_ in [2, *one.ids]]
        rows = torch.tensor(ids[: len(ids) // 256 * 256]).reshape(-1, 256)
        with torch.no_grad():
            loss = model(rows, labels=rows).loss.item()
        assert loss < 0.7 * np.log(4096), domain


# --- twin -----------------------------------------------------------------------------------------


def test_twin_has_the_same_shapes(tmp_path: Path) -> None:
    twin = demo.untrained_twin(tmp_path / "twin")
    assert _shapes(twin) == _shapes(demo.model_directory())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (twin / name).read_bytes() == (demo.model_directory() / name).read_bytes()


def test_twin_starts_as_opt_does(tmp_path: Path) -> None:
    twin = demo.untrained_twin(tmp_path)
    with safe_open(twin / "model.safetensors", framework="numpy") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    for name, values in tensors.items():
        if values.ndim == 2:
            assert float(values.astype(np.float64).std()) == pytest.approx(0.02, rel=0.03), name
        elif "norm" in name and name.endswith("weight"):
            assert (values == 1).all(), name
        else:
            assert (values == 0).all(), name


def test_twin_depends_on_the_seed_alone(tmp_path: Path) -> None:
    one, same, other = (
        (demo.untrained_twin(tmp_path / str(place), seed) / "model.safetensors").read_bytes()
        for place, seed in enumerate((1, 1, 2))
    )
    assert one == same
    assert one != other


def test_twin_loads_in_transformers(tmp_path: Path) -> None:
    import torch
    import transformers

    model = transformers.OPTForCausalLM.from_pretrained(
        demo.untrained_twin(tmp_path), dtype="float32"
    )
    ids = torch.arange(4, 260).reshape(1, 256)
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    # It knows nothing: near the loss of a uniform guess.
    assert loss == pytest.approx(np.log(4096), rel=0.05)
