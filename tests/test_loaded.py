"""A model as an object is scanned as its directory is, wherever accelerate has put its weights."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, init_empty_weights
from transformers import GPT2Config, GPT2LMHeadModel, OPTForCausalLM, OPTModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

import checkpoints
import pyneurons
from pyneurons.engine.weight_ring import LayerLayout
from pyneurons.errors import InputError, IntegrityError, NonFiniteError, PyneuronsError
from pyneurons.model.checkpoint import Checkpoint
from pyneurons.model.loaded import LoadedModel
from pyneurons.model.tokenizer import tokenizer_of
from pyneurons.result import Run, columns_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDS = [np.random.default_rng(seed).integers(3, 100, size=50).tolist() for seed in range(12)]


def at_hand(model: OPTForCausalLM, _: Path) -> Any:
    return model


def without_head(model: OPTForCausalLM, _: Path) -> Any:
    return model.model


def memory_offloaded(model: OPTForCausalLM, _: Path) -> Any:
    return cpu_offload(model, torch.device("cpu"))


def disk_offloaded(model: OPTForCausalLM, folder: Path) -> Any:
    return disk_offload(model, str(folder), torch.device("cpu"))


def dispatched(model: OPTForCausalLM, folder: Path, **options: Any) -> Any:
    """The first layer in memory, the rest on disk."""
    places = {"model.decoder.embed_tokens": "cpu", "model.decoder.embed_positions": "disk"}
    for name, child in model.model.decoder.named_children():
        if name in {"project_in", "project_out", "final_layer_norm"} and child is not None:
            places[f"model.decoder.{name}"] = "disk"
    for layer in range(model.config.num_hidden_layers):
        places[f"model.decoder.layers.{layer}"] = "disk" if layer else "cpu"
    places["lm_head"] = "cpu"
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), **options)


def whole_layers(model: OPTForCausalLM, folder: Path) -> Any:
    """As `dispatched`; a hook brings a layer as a whole, and its parts have none."""
    return dispatched(model, folder, preload_module_classes=["OPTDecoderLayer"])


PLACES = [at_hand, without_head, memory_offloaded, disk_offloaded, dispatched, whole_layers]


def meta(model: torch.nn.Module) -> int:
    return sum(parameter.device.type == "meta" for parameter in model.parameters())


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("variant", ["pre", "350m", "no_bias", "no_affine"])
def test_every_tensor_is_that_of_the_directory(
    place: Callable[[Any, Path], Any], variant: str, tmp_path: Path
) -> None:
    model = checkpoints.make(tmp_path / "saved", variant, dtype=torch.float16)
    there = place(model.half(), tmp_path / "offloaded")
    offloaded = meta(there)
    assert (offloaded > 0) == (place not in {at_hand, without_head})
    saved, loaded = Checkpoint(tmp_path / "saved"), LoadedModel(there)
    assert loaded.config == saved.config
    assert loaded.dtype == saved.dtype == torch.float16
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, entry in saved.tensors.items():
        other = loaded.tensors[name]
        assert (other.dtype, other.shape, other.bytes) == (entry.dtype, entry.shape, entry.bytes)
        values = loaded.read(name)
        assert values.is_contiguous()
        assert torch.equal(values, saved.read(name)), name
        assert torch.equal(loaded.read(name, slice(3, 9)), saved.read(name, slice(3, 9)))
        into = torch.zeros(entry.shape, dtype=torch.float16)
        loaded.read_into(name, into)
        assert torch.equal(into, values)
    assert loaded.embedding_bytes == saved.embedding_bytes == loaded.read_embeddings().nbytes
    assert loaded.layer_bytes(1) == saved.layer_bytes(1)
    assert loaded.fc2_bytes(1) == saved.fc2_bytes(1)
    assert LayerLayout.of(loaded, 1) == LayerLayout.of(saved, 1)
    assert meta(there) == offloaded  # nothing stays where it was brought


def arrays(run: pyneurons.Scan) -> dict[str, Any]:
    read = Run.open(run.directory)
    names = ("fires", "first_fire", "z_max", "position_fires", "coverage_2", "z_sup", "margin")
    found = {
        f"{layer} {name}": read.layer_array(layer, name) for layer in run.layers for name in names
    }
    for table in ("ngrams", "vocabulary", "suppression", "examples", "tokens"):
        found |= {f"{table} {name}": v for name, v in columns_of(read.table(table)).items()}
    return found


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_scan_of_the_object_is_that_of_the_directory(
    place: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    model = checkpoints.make(tmp_path / "saved", num_hidden_layers=3)
    given = {"context": 32, "dtype": "float32", "progress": False}
    expected = pyneurons.scan(tmp_path / "saved", IDS, **given)
    found = pyneurons.scan(place(model, tmp_path / "offloaded"), IDS, **given)
    assert found.fires.sum() > 0
    ours, theirs = arrays(found), arrays(expected)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
    entry = found.manifest["model"]
    assert entry["directory"] is None
    assert entry["given"].endswith(" object")
    assert entry["name"] in {"OPTForCausalLM", "OPTModel"}
    assert entry["dtype"] == "float32"


def test_reads_of_several_threads(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "saved", num_hidden_layers=4)
    loaded = LoadedModel(disk_offloaded(model, tmp_path / "offloaded"))
    saved = Checkpoint(tmp_path / "saved")
    together = threading.Barrier(4)

    def read(_: int) -> bool:
        together.wait()
        return all(torch.equal(loaded.read(name), saved.read(name)) for name in saved.tensors)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def test_the_fingerprint_tells_models_apart_and_not_places(tmp_path: Path) -> None:
    made = [checkpoints.build(seed=seed) for seed in (0, 0, 0, 1)]
    disk = disk_offloaded(made[1], tmp_path / "offloaded")
    first, second, head, other = map(LoadedModel, (made[0], disk, made[2].model, made[3]))
    for name in first.tensors:
        first.read(name)  # beginnings that are known, or read for it: the same
    second.read("decoder.layers.0.fc1.weight", slice(5, 9))
    assert first.fingerprint() == second.fingerprint() == head.fingerprint()
    assert other.fingerprint() != first.fingerprint()
    changed = checkpoints.build(seed=0)
    changed.model.decoder.layers[1].fc2.bias.data[0] += 1
    assert LoadedModel(changed).fingerprint() != first.fingerprint()


def test_a_copy_is_read() -> None:
    loaded = LoadedModel(model := checkpoints.build())
    read = loaded.read("decoder.layers.0.fc1.bias")
    before = model.model.decoder.layers[0].fc1.bias.clone()
    read.zero_()
    assert torch.equal(model.model.decoder.layers[0].fc1.bias, before)


def test_a_model_without_weights_is_refused() -> None:
    with init_empty_weights():
        empty = OPTForCausalLM(checkpoints.config())
    with pytest.raises(InputError, match=r"OPTForCausalLM: it has no weights: .* and 2\d more"):
        pyneurons.scan(empty, IDS, progress=False)
    partly = checkpoints.build()
    partly.model.decoder.layers[1].fc1 = partly.model.decoder.layers[1].fc1.to("meta")
    with pytest.raises(
        InputError, match=r"no weights: decoder.layers.1.fc1.weight, decoder.layers.1"
    ):
        LoadedModel(partly)


def with_changes(**changes: Any) -> OPTForCausalLM:
    model = checkpoints.build()
    for name, value in changes.items():
        setattr(model.config, name, value)
    return model


def integers() -> OPTForCausalLM:
    model = checkpoints.build()
    fc1 = model.model.decoder.layers[0].fc1
    fc1.weight = torch.nn.Parameter(fc1.weight.to(torch.int8), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 5, "a int is neither a path, nor the name of a model"),
        (lambda: None, "a NoneType is neither"),
        (lambda: torch.nn.Linear(2, 2), "a Linear is neither"),
        (
            lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2)),
            "model_type is 'gpt2'",
        ),
        (lambda: with_changes(activation_function="gelu"), "only with 'relu'"),
        (lambda: with_changes(num_hidden_layers=3), r"missing: decoder.layers.2.self_attn"),
        (lambda: with_changes(num_hidden_layers=1), "decoder other than config.json describes"),
        (lambda: with_changes(ffn_dim=64), r"fc1.weight has shape \[96, 32\], expected \[64, 32\]"),
        (lambda: OPTModel(checkpoints.config("untied")), "missing: lm_head.weight"),
        (lambda: checkpoints.build().double(), "is torch.float64, expected F16, BF16 or F32"),
        (integers, "is torch.int8, expected F16, BF16 or F32"),
    ],
)
def test_what_is_no_opt_model_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pyneurons.scan(make(), IDS, progress=False)


def test_weights_that_change_or_are_not_finite() -> None:
    model = checkpoints.build()
    loaded = LoadedModel(model)
    model.half()
    with pytest.raises(IntegrityError, match="became F16"):
        loaded.read("decoder.layers.0.fc1.weight")
    model.float().model.decoder.layers[1].fc2.weight.data[3, 7] = torch.inf
    with pytest.raises(NonFiniteError, match=r"fc2.weight\[3, 7\] is inf"):
        loaded.read_layer(1)


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path, vocab_size=267)
    kept = checkpoints.write_tokenizer(tmp_path)
    text = ["the thing in the inn and on " * 9, "a king sings on the hill " * 7] * 4
    given = {"context": 32, "dtype": "float32", "progress": False}
    with pytest.raises(PyneuronsError, match="pass tokenizer="):
        pyneurons.scan(model, text, **given)
    expected = arrays(pyneurons.scan(tmp_path, text, **given))
    fast = FastTokenizer(tokenizer_file=str(tmp_path / "tokenizer.json"))
    fast.backend_tokenizer.enable_truncation(5)
    for tokenizer in (kept, fast, tmp_path, str(tmp_path)):
        found = arrays(pyneurons.scan(model, text, tokenizer=tokenizer, **given))
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert fast.backend_tokenizer.truncation is not None  # a copy was changed


@pytest.mark.parametrize(
    ("given", "message"),
    [(7, "a int is neither"), ("/nowhere", "/nowhere holds neither tokenizer.json")],
)
def test_what_is_no_tokenizer_is_refused(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer_of(given)
