from __future__ import annotations

import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import OPTConfig, OPTForCausalLM

import checkpoints
from pyneurons.errors import InputError, IntegrityError, NonFiniteError
from pyneurons.model.checkpoint import Checkpoint, OptConfig, load_tokenizer, read_config, resolve
from pyneurons.model.config import BOUNDS
from pyneurons.model.safetensors_file import MOST_HEADER_BYTES, MOST_NAME_BYTES, read_header
from pyneurons.model.strict_json import read_object
from pyneurons.model.tokenizer import identity

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint of one layer in float32, one file."""
    checkpoints.make(tmp_path / "model", num_hidden_layers=1)
    return tmp_path / "model"


def rewrite(directory: Path, change: Any) -> None:
    """Apply ``change`` to the dict of tensors of model.safetensors."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)


def edit_config(directory: Path, **fields: Any) -> None:
    """Set fields of config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


# --- config.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", checkpoints.VARIANTS)
def test_config_is_what_transformers_reads(tmp_path: Path, variant: str) -> None:
    theirs = checkpoints.config(variant)
    theirs.save_pretrained(tmp_path)
    ours = read_config(tmp_path / "config.json")
    for name in ours.__dataclass_fields__:
        source = "_remove_final_layer_norm" if name == "remove_final_layer_norm" else name
        assert getattr(ours, name) == getattr(theirs, source), name


def test_what_config_leaves_out_is_as_in_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "opt", "word_embed_proj_dim": null}')
    ours, theirs = read_config(tmp_path / "config.json"), OPTConfig()
    for name in ours.__dataclass_fields__:
        source = "_remove_final_layer_norm" if name == "remove_final_layer_norm" else name
        assert getattr(ours, name) == getattr(theirs, source), name


@pytest.mark.parametrize(
    "fields",
    [
        *({name: BOUNDS[name][0] - 1} for name in BOUNDS),
        *({name: BOUNDS[name][1] + 1} for name in BOUNDS),
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1.0},
        {"num_hidden_layers": True},
        {"num_hidden_layers": "12"},
        {"hidden_size": [32]},
        {"num_attention_heads": 5},
        {"bos_token_id": 101},
        {"do_layer_norm_before": 1},
        {"enable_bias": "false"},
        {"model_type": "llama"},
        {"model_type": None},
        {"activation_function": "gelu"},
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"quantization_config": {"bits": 4}},
        {"_attn_implementation_internal": "evil/kernels"},
        {"attn_implementation": "evil/kernels"},
        {"custom_pipelines": {"x": {"impl": "evil.py"}}},
        {"trust_remote_code": True},
    ],
    ids=str,
)
def test_config_is_refused(directory: Path, fields: dict[str, Any]) -> None:
    edit_config(directory, **fields)
    with pytest.raises(InputError, match=next(iter(fields))) as caught:
        Checkpoint(directory)
    assert str(directory / "config.json") in str(caught.value)


def test_keys_that_mean_nothing_here_are_passed_over(directory: Path) -> None:
    edit_config(
        directory, _attn_implementation="sdpa", torch_dtype="float16", trust_remote_code=False
    )
    assert Checkpoint(directory).config.hidden_size == 32


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from([*BOUNDS, "activation_function", "auto_map", "enable_bias", "model_type"]),
        JSON | st.sampled_from([0, -1, 1 << 31, 1 << 64, 12.0, "12", "relu", "opt"]),
        max_size=4,
    )
)
def test_any_json_is_a_config_in_bounds_or_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "opt"} | fields))
    tracemalloc.start()
    try:
        made = read_config(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        for name, (least, most) in BOUNDS.items():
            assert least <= getattr(made, name) <= most
        assert len(made.tensor_shapes()) < 20_000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50 << 20


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"model_type": "opt", "dropout": NaN}',
        b'{"model_type": "opt", "model_type": "opt"}',
        b'{"model_type": "\xff"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"vocab_size": ' + b"9" * 10_000 + b"}",
        b'{"a": "' + b" " * (1 << 20) + b'"}',
    ],
    ids=range(10),
)
def test_config_that_is_no_object_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


def test_config_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "config.json")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "config.json")


# --- names and shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", checkpoints.PUBLISHED)
def test_tensors_of_the_published_models(tmp_path: Path, size: str) -> None:
    theirs = checkpoints.published_config(size)
    theirs.save_pretrained(tmp_path)
    with init_empty_weights():
        model = OPTForCausalLM(theirs)
    expected = {
        name.removeprefix("model."): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    assert read_config(tmp_path / "config.json").tensor_shapes() == expected


@pytest.mark.parametrize("variant", checkpoints.VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_read_gives_the_bits_of_the_file(tmp_path: Path, variant: str, dtype: torch.dtype) -> None:
    shards = 3 if variant in {"350m", "untied"} else 1
    prefix = "" if variant in {"350m", "odd"} else "model."
    model = checkpoints.make(tmp_path, variant, dtype=dtype, shards=shards, prefix=prefix)
    opened = Checkpoint(tmp_path)
    state = {name.removeprefix("model."): values for name, values in model.state_dict().items()}
    if variant != "untied":
        del state["lm_head.weight"]
    assert opened.tensors.keys() == state.keys()
    assert opened.dtype == dtype
    assert opened.extra == ()
    for name, values in state.items():
        found = opened.read(name)
        assert found.dtype == dtype
        assert torch.equal(found.float(), values)
    layer = opened.read_layer(1)
    assert torch.equal(layer["fc1.weight"].float(), state["decoder.layers.1.fc1.weight"])
    assert sum(values.nbytes for values in layer.values()) == opened.layer_bytes(1)
    assert torch.equal(opened.read_fc2(0).float(), state["decoder.layers.0.fc2.weight"])
    embeddings = opened.read_embeddings()
    assert embeddings.nbytes == opened.embedding_bytes
    assert torch.equal(embeddings.head.float(), model.lm_head.weight)
    assert (embeddings.head is embeddings.tokens) == (variant != "untied")
    assert (embeddings.project_in is None) == (variant not in {"350m", "projected"})
    no_norm = {"post", "350m", "no_final_norm", "no_affine"}
    assert (embeddings.final_norm_weight is None) == (variant in no_norm)


@pytest.mark.parametrize(
    "rows", [slice(0, 0), slice(5, 6), slice(3, 90), slice(90, 500), slice(None)]
)
def test_read_rows(directory: Path, rows: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Checkpoint(directory)
    whole = opened.read("decoder.embed_tokens.weight")
    read = 0
    preadv = os.preadv

    def counting(*args: Any) -> int:
        nonlocal read
        read += (got := preadv(*args))
        return got

    monkeypatch.setattr(os, "preadv", counting)
    part = opened.read("decoder.embed_tokens.weight", rows)
    assert torch.equal(part, whole[rows])
    assert read == part.nbytes


def test_read_rows_with_a_step_is_refused(directory: Path) -> None:
    with pytest.raises(InputError, match="step 2"):
        Checkpoint(directory).read("decoder.embed_tokens.weight", slice(0, 8, 2))


def test_reads_of_a_few_bytes_are_put_together(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Checkpoint(directory)
    whole = opened.read("decoder.layers.0.fc1.bias")
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: preadv(fd, [parts[0][:7]], at))
    assert torch.equal(opened.read("decoder.layers.0.fc1.bias"), whole)


def test_each_missing_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, "untied", num_hidden_layers=1)
    whole = load_file(tmp_path / "model.safetensors")
    for name, tensor in whole.items():
        save_file({k: v for k, v in whole.items() if k != name}, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match="missing") as caught:
            Checkpoint(tmp_path)
        assert f"{name.removeprefix('model.')} {list(tensor.shape)}" in str(caught.value)


def test_other_tensors_are_refused_or_listed(directory: Path) -> None:
    rewrite(
        directory, lambda t: t.update({"decoder.version": torch.ones(1), "score": torch.ones(2)})
    )
    assert Checkpoint(directory).extra == ("decoder.version", "score")
    name = "model.decoder.layers.1.fc1.weight"
    rewrite(directory, lambda t: t.update({name: torch.ones(96, 32)}))
    with pytest.raises(InputError, match=r"other than config.*layers\.1\.fc1\.weight \[96, 32\]"):
        Checkpoint(directory)


def test_a_head_beside_tied_embeddings_is_not_used(directory: Path) -> None:
    rewrite(directory, lambda t: t.update({"lm_head.weight": torch.zeros(101, 32)}))
    opened = Checkpoint(directory)
    assert opened.extra == ("lm_head.weight",)
    assert opened.read_embeddings().head.any()


def test_wrong_shape_and_dtype_are_named(directory: Path) -> None:
    name = "model.decoder.layers.0.fc1.weight"
    rewrite(directory, lambda t: t.update({name: torch.ones(32, 96)}))
    with pytest.raises(InputError, match=r"fc1\.weight has shape \[32, 96\], expected \[96, 32\]"):
        Checkpoint(directory)
    for dtype, word in ((torch.float64, "F64"), (torch.int8, "I8")):
        rewrite(directory, lambda t, dtype=dtype: t.update({name: torch.ones(96, 32, dtype=dtype)}))
        with pytest.raises(InputError, match=f"fc1.weight is {word}, expected F16, BF16 or F32"):
            Checkpoint(directory)


def test_mixed_dtypes_are_held_by_float32(directory: Path) -> None:
    name = "model.decoder.layers.0.fc1.weight"
    rewrite(directory, lambda t: t.update({name: t[name].half()}))
    opened = Checkpoint(directory)
    assert opened.dtype == torch.float32
    assert opened.read("decoder.layers.0.fc1.weight").dtype == torch.float16


def test_one_tensor_under_two_names_is_refused(directory: Path) -> None:
    rewrite(directory, lambda t: t.update({"decoder.layers.0.fc1.bias": torch.ones(96)}))
    with pytest.raises(InputError, match=r"a second tensor decoder\.layers\.0\.fc1\.bias"):
        Checkpoint(directory)


# --- files ----------------------------------------------------------------------------------------


def test_only_a_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"only pytorch_model\.bin, a pickle.*: pyneurons convert .*model NEW_"
    ):
        Checkpoint(directory)


def test_links_as_in_the_cache_of_the_hub(directory: Path, tmp_path: Path) -> None:
    shutil.move(directory / "model.safetensors", tmp_path / "blob")
    (directory / "model.safetensors").symlink_to(tmp_path / "blob")
    assert Checkpoint(directory).read("decoder.layers.0.fc1.bias").shape == (96,)


def test_the_single_file_is_taken_before_an_index(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text("not read")
    assert len(Checkpoint(directory).tensors) > 0


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    checkpoints.make(tmp_path / "model", num_hidden_layers=1, shards=2)
    return tmp_path / "model"


def edit_index(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "/dev/zero",
        "a\\b.safetensors",
        "a\0.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "-00001.bin",
        ".hidden.safetensors",
        7,
        None,
    ],
    ids=repr,
)
def test_index_names_files_of_the_directory_only(sharded: Path, name: Any) -> None:
    edit_index(sharded, lambda m: m.update({"model.decoder.layers.0.fc1.bias": name}))
    with pytest.raises(InputError, match=r"fc1\.bias' is in .*, expected a file name"):
        Checkpoint(sharded)


def test_index_and_shards_must_agree(sharded: Path) -> None:
    name = "model.decoder.layers.0.fc1.bias"
    whole = (sharded / "model.safetensors.index.json").read_text()
    first = json.loads(whole)["weight_map"][name]
    (second,) = {path.name for path in sharded.glob("*.safetensors")} - {first}
    edit_index(sharded, lambda m: m.pop(name))
    with pytest.raises(InputError, match=f"does not agree with the files about {name} in {first}"):
        Checkpoint(sharded)
    edit_index(sharded, lambda m: m.update({name: second}))
    with pytest.raises(InputError, match=f"about {name} in model-00001.*, {name} in model-00002"):
        Checkpoint(sharded)
    (sharded / "model.safetensors.index.json").write_text(whole)
    both = load_file(sharded / second) | {name: torch.ones(96)}
    save_file(both, sharded / second)
    with pytest.raises(InputError, match=f"does not agree with the files about {name} in {second}"):
        Checkpoint(sharded)


def test_only_what_the_index_names_is_read(sharded: Path) -> None:
    """Another index, and files that no index names, change nothing: no scan depends on leftovers."""
    before = Checkpoint(sharded)
    (sharded / "model.fp32-00001-of-00001.safetensors").write_bytes(b"not read")
    (sharded / "model.fp32.safetensors.index.json").write_text("not read")
    (sharded / "pytorch_model.bin.index.json").write_text("not read")
    (sharded / "pytorch_model.bin").write_bytes(b"not read")
    after = Checkpoint(sharded)
    assert after.tensors == before.tensors
    assert after.fingerprint() == before.fingerprint()
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor .*index\.json"):
        Checkpoint(sharded)


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"not there: model-00002-of-00002\.safetensors"):
        Checkpoint(sharded)
    os.mkfifo(sharded / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match=r"not there: model-00002-of-00002\.safetensors"):
        Checkpoint(sharded)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "{"])
def test_index_without_a_map_is_refused(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json"):
        Checkpoint(sharded)


def safetensors(header: dict[str, Any] | bytes, data: int, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def f32(*offsets: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    shape = [(offsets[-1] - offsets[0]) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


MALFORMED = {
    "empty": b"",
    "seven bytes": bytes(7),
    "header of 0": safetensors(b"", 16),
    "header of 1": safetensors(b"{", 16),
    "header past the end": safetensors({"a": f32(0, 8)}, 8, length=10_000),
    "header of 2**63": safetensors({"a": f32(0, 8)}, 8, length=2**63),
    "header of 2**64 - 1": safetensors({"a": f32(0, 8)}, 8, length=2**64 - 1),
    "not UTF-8": safetensors(b'{"\xff": 1}', 0),
    "not JSON": safetensors(b"{oops}", 0),
    "a list": safetensors(b"[]", 0),
    "deep": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0),
    "NaN": safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', 8),
    "twice": safetensors(b'{"a":' + json.dumps(f32(0, 8)).encode() + b',"a":1}', 8),
    "twice inside": safetensors(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2]}}', 8),
    "no offsets": safetensors({"a": {"dtype": "F32", "shape": [2]}}, 8),
    "one more key": safetensors({"a": f32(0, 8) | {"strides": [1]}}, 8),
    "a number": safetensors({"a": 1}, 8),
    "unknown dtype": safetensors({"a": f32(0, 8, dtype="F33")}, 8),
    "dtype of a list": safetensors({"a": f32(0, 8, dtype=["F32"])}, 8),
    "negative axis": safetensors({"a": f32(0, 8, shape=[-2, -1])}, 8),
    "axis of 2.0": safetensors({"a": f32(0, 8, shape=[2.0])}, 8),
    "axis of true": safetensors({"a": f32(0, 4, shape=[True])}, 4),
    "shape of a number": safetensors({"a": f32(0, 8, shape=2)}, 8),
    "overflowing shape": safetensors({"a": f32(0, 8, shape=[2**62, 4, 2])}, 8),
    "nine axes": safetensors({"a": f32(0, 8, shape=[1] * 8 + [2])}, 8),
    "shape and bytes differ": safetensors({"a": f32(0, 8, shape=[3])}, 8),
    "inverted": safetensors({"a": f32(8, 0, shape=[2])}, 8),
    "negative offset": safetensors({"a": f32(-8, 0, shape=[2])}, 8),
    "three offsets": safetensors({"a": f32(0, 4, 8, shape=[2])}, 8),
    "offsets of floats": safetensors({"a": f32(0, 8) | {"data_offsets": [0.0, 8.0]}}, 8),
    "empty tensor": safetensors({"a": f32(0, 8), "b": f32(8, 8)}, 8),
    "gap first": safetensors({"a": f32(4, 8)}, 8),
    "gap between": safetensors({"a": f32(0, 4), "b": f32(8, 12)}, 12),
    "overlap": safetensors({"a": f32(0, 8), "b": f32(4, 12)}, 12),
    "same place": safetensors({"a": f32(0, 8), "b": f32(0, 8)}, 8),
    "trailing byte": safetensors({"a": f32(0, 8)}, 9),
    "one byte short": safetensors({"a": f32(0, 8)}, 7),
    "axis of 2**63": safetensors({"a": f32(0, 8, shape=[2**63])}, 8),
    "axes of 4,000 digits": safetensors({"a": f32(0, 8, shape=[10**3999] * 8)}, 8),
    "offset of 2**70": safetensors({"a": f32(2**70, 2**70 + 8, shape=[2])}, 8),
    "axis of 5,000 digits": safetensors(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', 8
    ),
    "65 levels": safetensors(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", 0),
    "lone surrogate": safetensors(b'{"\\ud800":' + json.dumps(f32(0, 8)).encode() + b"}", 8),
    "byte order mark": safetensors(b"\xef\xbb\xbf" + json.dumps({"a": f32(0, 8)}).encode(), 8),
    "two objects": safetensors(b"{} {}", 0),
    "only spaces": safetensors(b" " * 100, 0),
    "long name": safetensors({"a" * (MOST_NAME_BYTES + 1): f32(0, 8)}, 8),
    "metadata only and data": safetensors({"__metadata__": {"a": "b"}}, 8),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file_is_refused(directory: Path, case: str) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(MALFORMED[case])
    with pytest.raises(InputError) as caught:
        Checkpoint(directory)
    assert str(file) in str(caught.value)


def test_depth_is_counted_outside_strings(tmp_path: Path) -> None:
    path = tmp_path / "config.json"

    def nested(levels: int) -> str:
        return '{"a": "[[[[\\\\\\"[", "b": ' * (levels - 1) + "{}" + "}" * (levels - 1)

    path.write_text(nested(64))
    read_object(path, most_bytes=1 << 20)
    path.write_text(nested(65))
    with pytest.raises(InputError, match="nested deeper than 64 levels"):
        read_object(path, most_bytes=1 << 20)


HEADER_BYTES = 80_000_000
EXPENSIVE = {
    "lists": b'{"a":[' + b"[]," * (HEADER_BYTES // 3) + b"0]}",
    "objects": b'{"a":[' + b"{}," * (HEADER_BYTES // 3) + b"0]}",
    "numbers": b'{"a":[' + b"0," * (HEADER_BYTES // 2) + b"0]}",
    "texts": b'{"a":[' + b'"b",' * (HEADER_BYTES // 4) + b"0]}",
    "quotes": b'{"a":' + b'"' * HEADER_BYTES + b"}",
    "backslashes": b'{"a":"' + b"\\" * HEADER_BYTES + b'"}',
    "brackets": b'{"a":' + b"[" * HEADER_BYTES,
    "tensors": b"{" + b",".join(b'"%d":{}' % n for n in range(150_000)) + b"}",
    "the same key": b"{" + b'"a":0,' * 900_000 + b'"a":0}',
    "a key twice at the end": b"{"
    + b",".join(b'"%d":0' % n for n in range(900_000))
    + b',"899999":0}',
}


@pytest.mark.parametrize("case", EXPENSIVE)
def test_a_header_that_would_take_gigabytes_is_refused_in_little_memory(
    tmp_path: Path, case: str
) -> None:
    """In a process whose address space ends 512 MB above what Python and this package take."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(safetensors(EXPENSIVE[case], 0))
    code = """if True:
        import resource, sys
        from pathlib import Path
        from pyneurons import _env
        from pyneurons.errors import InputError
        from pyneurons.model.safetensors_file import read_header
        most = _env.virtual_bytes() + (512 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            read_header(Path(sys.argv[1]))
        except InputError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith(f"{file}: ")


def test_a_lying_length_allocates_nothing(tmp_path: Path) -> None:
    """The bytes are there (a sparse file), the length is within the file and above the cap."""
    file = tmp_path / "x.safetensors"
    for length in (MOST_HEADER_BYTES + 1, 1 << 40):
        file.write_bytes(struct.pack("<Q", length))
        os.truncate(file, (1 << 40) + 8)
        tracemalloc.start()
        with pytest.raises(InputError, match=f"header of {length:,} bytes, at most"):
            read_header(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


def test_what_the_library_alone_refuses_is_refused(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(safetensors({"__metadata__": 7, "a": f32(0, 8)}, 8))
    with pytest.raises(InputError, match="the safetensors library refuses it"):
        Checkpoint(directory)


def test_a_sound_file_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(safetensors({"__metadata__": {}, "b": f32(8, 12), "a": f32(0, 8)}, 12))
    header = read_header(file)
    assert [entry.name for entry in header.entries] == ["a", "b"]
    assert header.entries[1].offset == 8 + len(header.raw) + 8


def test_truncation_anywhere_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    whole = safetensors({"a": f32(0, 8), "b": f32(8, 20), "c": f32(20, 24)}, 24)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_header(file)


def test_no_damage_to_a_header_gives_another_error(directory: Path) -> None:
    file = directory / "model.safetensors"
    whole = bytearray(file.read_bytes())
    length = 8 + int.from_bytes(whole[:8], "little")
    generator = random.Random(5)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(length)] = generator.randrange(256)
        file.write_bytes(damaged)
        try:
            Checkpoint(directory)
        except InputError:
            refused += 1
    assert refused > 200


# --- files that change ----------------------------------------------------------------------------


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def touch(file: Path) -> None:
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def replace(file: Path) -> None:
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    shutil.copy(file, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)
    os.utime(file, ns=times)


@pytest.mark.parametrize("change", [truncate, touch, replace, Path.unlink])
def test_changed_file_stops_the_run(directory: Path, change: Any) -> None:
    opened = Checkpoint(directory)
    change(directory / "model.safetensors")
    for read in (lambda: opened.read_layer(0), opened.fingerprint):
        with pytest.raises(IntegrityError, match=r"model\.safetensors") as caught:
            read()
        assert caught.value.exit_code == 4


def test_file_that_changes_under_a_read_stops_the_run(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Checkpoint(directory)
    preadv = os.preadv

    def read_then_touch(*args: Any) -> int:
        got = preadv(*args)
        touch(directory / "model.safetensors")
        return got

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", read_then_touch)
        with pytest.raises(IntegrityError, match="changed since it was opened"):
            opened.read("decoder.layers.0.fc1.bias")
    opened = Checkpoint(directory)
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(IntegrityError, match="ended at byte"):
        opened.read("decoder.layers.0.fc1.bias")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("place", "value"), [((0, 0), torch.nan), ((95, 31), torch.inf), ((40, 7), -torch.inf)]
)
def test_weights_that_are_not_finite_stop_the_run(
    tmp_path: Path, dtype: torch.dtype, place: tuple[int, int], value: float
) -> None:
    checkpoints.make(tmp_path, num_hidden_layers=1, dtype=dtype)

    def plant(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.decoder.layers.0.fc1.weight"][place] = value

    rewrite(tmp_path, plant)
    opened = Checkpoint(tmp_path)
    with pytest.raises(NonFiniteError, match=rf"fc1\.weight\[{place[0]}, {place[1]}\] is {value}"):
        opened.read_layer(0)
    rows = slice(max(0, place[0] - 1), place[0] + 1)
    with pytest.raises(NonFiniteError, match=rf"fc1\.weight\[{place[0]}, {place[1]}\]"):
        opened.read("decoder.layers.0.fc1.weight", rows)


@pytest.mark.parametrize("at", [0, 5_000, -1])
def test_a_flipped_bit_stops_the_run_that_goes_on(directory: Path, at: int) -> None:
    first = Checkpoint(directory)
    first.read_layer(0)
    first.read_embeddings()
    assert first.digests.keys() == first.tensors.keys()
    file = directory / "model.safetensors"
    same = Checkpoint(directory)
    same.expect(first.digests)
    same.read_layer(0)
    name = "decoder.embed_tokens.weight"
    entry = first.tensors[name]
    data = bytearray(file.read_bytes())
    data[entry.offset + at % entry.bytes] ^= 1
    file.write_bytes(data)
    changed = Checkpoint(directory)
    changed.expect(first.digests)
    changed.read_layer(0)
    with pytest.raises(IntegrityError, match=rf"model\.safetensors: {name} has SHA-256") as caught:
        changed.read_embeddings()
    assert caught.value.exit_code == 4
    later = Checkpoint(directory)
    later.read_embeddings()
    later.read_layer(0)
    assert later.weights_sha256() != first.weights_sha256()
    with pytest.raises(IntegrityError, match="the weights changed"):
        later.expect(first.digests)


def test_fingerprint(tmp_path: Path) -> None:
    checkpoints.make(tmp_path / "a", seed=1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    checkpoints.make(tmp_path / "c", seed=2)
    checkpoints.make(tmp_path / "d", seed=1, max_position_embeddings=63)
    checkpoints.make(tmp_path / "e", seed=1, shards=2)
    checkpoints.make(tmp_path / "f", seed=1, num_attention_heads=2)
    first, copy, *others = (Checkpoint(tmp_path / name).fingerprint() for name in "abcdef")
    assert first == copy
    assert len({first, *others}) == 5


# --- resolve --------------------------------------------------------------------------------------


def test_resolve_local(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(directory) == resolve(str(directory)) == directory
    with pytest.raises(InputError, match="not a directory"):
        resolve(directory / "config.json")
    for model in (directory / "gone", str(directory / "gone"), "./gone", "a/b/c", "", "../up"):
        with pytest.raises(InputError, match="no such directory"):
            resolve(model)
    monkeypatch.chdir(directory.parent)
    assert resolve("model") == Path("model")


@pytest.mark.parametrize("pickled", [False, True])
def test_resolve_asks_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool
) -> None:
    asked: dict[str, Any] = {}

    def download(model: str, *, allow_patterns: list[str]) -> str:
        asked.update(model=model, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("facebook/opt-125m", pickled=pickled) == tmp_path
    assert asked["model"] == "facebook/opt-125m"
    assert ("model.safetensors" in asked["patterns"]) != pickled
    assert any(name.endswith(".bin") for name in asked["patterns"]) == pickled
    assert not any(name.endswith((".py", "*")) for name in asked["patterns"])


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("offline"), OSError("full"), ValueError()]
)
def test_resolve_says_why_not(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        InputError, match="owner/name: no such directory, and no model from the hub"
    ):
        resolve("owner/name")


def test_every_error_of_the_hub_is_one_that_resolve_turns_into_its_own() -> None:
    assert issubclass(RepositoryNotFoundError, HfHubHTTPError)
    assert issubclass(LocalEntryNotFoundError, OSError)
    assert issubclass(HFValidationError, ValueError)


# --- tokenizer ------------------------------------------------------------------------------------


TEXTS = [
    "",
    "then the inning",
    " leading and trailing ",
    "line\nline\r\n\ttab  two spaces   three",
    "</s><s><pad><unk> </s>",
    "naïve façade 日本語 🙂 e\u0301 \u200b",
    "\0\x01\x7f",
    "it's we'll I'm 1234 $%&",
]


@pytest.mark.parametrize("text", TEXTS)
def test_both_forms_of_a_tokenizer_agree(tmp_path: Path, text: str) -> None:
    for form in ("json", "bpe"):
        checkpoints.write_tokenizer(tmp_path / form, form=form)
    one, other = load_tokenizer(tmp_path / "json"), load_tokenizer(tmp_path / "bpe")
    assert one is not None
    assert other is not None
    ids = one.encode(text).ids
    assert ids == other.encode(text).ids
    assert not {0, 1, 2, 3} & set(ids)
    assert one.decode(ids) == other.decode(ids) == text


def test_nothing_is_added_cut_or_padded(tmp_path: Path) -> None:
    tokenizer = checkpoints.write_tokenizer(tmp_path)
    plain = tokenizer.encode("the thing").ids
    tokenizer.encode_special_tokens = False
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the thing").ids != plain
    loaded = load_tokenizer(tmp_path)
    assert loaded is not None
    assert loaded.encode("the thing").ids == plain
    assert 2 not in loaded.encode("the </s> thing").ids


def test_byte_level_bpe_splits_as_gpt2(tmp_path: Path) -> None:
    checkpoints.write_tokenizer(tmp_path, form="bpe")
    loaded = load_tokenizer(tmp_path)
    assert loaded is not None
    vocabulary = checkpoints.byte_level_vocabulary(checkpoints.MERGES)
    # "Ġthe" is a token; at the beginning of a text there is no space to make it.
    assert loaded.encode("the the").tokens == ["t", "he", "Ġthe"]
    assert loaded.encode("the the").ids == [vocabulary[t] for t in ("t", "he", "Ġthe")]


def test_tokenizer_that_is_absent_or_broken(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None
    (tmp_path / "vocab.json").write_text("{}")
    assert load_tokenizer(tmp_path) is None
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(InputError, match=r"vocab\.json, merges\.txt: not a byte-level BPE"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path)


def test_identity_of_a_tokenizer(tmp_path: Path) -> None:
    for form in ("json", "bpe"):
        checkpoints.write_tokenizer(tmp_path / form, form=form)
    found = [identity(load_tokenizer(tmp_path / form)) for form in ("json", "bpe")]
    assert all(found)
    assert found[0]["canary_ids"] == found[1]["canary_ids"]
    assert identity(load_tokenizer(tmp_path / "json")) == found[0]
    merges = tmp_path / "bpe" / "merges.txt"
    merges.write_text(merges.read_text().replace("\u0120t he\n", ""))
    fewer = identity(load_tokenizer(tmp_path / "bpe"))
    assert fewer["sha256"] != found[1]["sha256"]
    assert identity(load_tokenizer(tmp_path)) is None


def test_code_that_a_tokenizer_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "Evil"})
    )
    (tmp_path / "evil.py").write_text("open('canary', 'w')\nraise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    assert load_tokenizer(tmp_path) is not None
    new = {name for name in set(sys.modules) - before if not name.startswith("tokenizers")}
    assert not new
    assert not (tmp_path / "canary").exists()


def test_other_kinds_of_tokenizer_json_are_taken_as_they_are(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded is not None
    assert loaded.encode("b a c").ids == [1, 0, 2]


def test_files_are_not_written(directory: Path) -> None:
    for path in directory.iterdir():
        path.chmod(stat.S_IRUSR)
    opened = Checkpoint(directory)
    opened.read_layer(0)
    assert isinstance(opened.config, OptConfig)
    assert len(list(directory.iterdir())) == len(["config.json", "model.safetensors"]) + len(
        list(directory.glob("generation_config.json"))
    )
