"""``pyneurons convert``: what torch saved, bit by bit, in a directory that is whole or not there."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import OPTForCausalLM

import checkpoints
import torch_files
from pyneurons.errors import InputError, IntegrityError, ResourceError
from pyneurons.model import convert as converting
from pyneurons.model import convert_worker
from pyneurons.model.checkpoint import INDEX_FILE, Checkpoint
from pyneurons.model.convert import convert
from pyneurons.model.torch_file import StoredTensor, TorchFile
from torch_files import Member, pickled, tensor, text, torch_zip

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def pickled_model(
    directory: Path,
    variant: str = "pre",
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    as_zip: bool = True,
    **overrides: Any,
) -> Mapping[str, torch.Tensor]:
    """Write a checkpoint as older transformers did, with pickled weights; return its tensors."""
    model = checkpoints.build(variant, **overrides).to(dtype)
    directory.mkdir(parents=True)
    model.config.save_pretrained(directory)
    state: dict[str, torch.Tensor] = model.state_dict()
    kind = {"_use_new_zipfile_serialization": as_zip}
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin", **kind)
        return state
    order = list(state)
    weight_map = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        held = order[shard::shards]
        torch.save({name: state[name] for name in held}, directory / file, **kind)
        weight_map |= dict.fromkeys(held, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return state


def convert_here(files: list[Path], out: Path, **job: Any) -> dict[str, Any]:
    """What the reading process does, in this one and without limits; return what it says last."""
    out.mkdir(exist_ok=True)
    given = {"weight_map": None, "shard_bytes": 1 << 30, "tied": True} | job
    said: list[dict[str, Any]] = []
    convert_worker.convert(convert_worker.Job(files=tuple(files), out=out, **given), said.append)
    done: dict[str, Any] = said[-1]["done"]
    return done


def same(path: Path, state: Mapping[str, torch.Tensor], left_out: tuple[str, ...] = ()) -> None:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    assert found.keys() == state.keys() - set(left_out)
    for name, values in found.items():
        assert values.dtype == state[name].dtype
        assert values.shape == state[name].shape
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[values.element_size()]
        assert torch.equal(
            values.contiguous().view(integers), state[name].detach().contiguous().view(integers)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("variant", ["pre", "350m", "untied"])
def test_round_trip(tmp_path: Path, dtype: torch.dtype, as_zip: bool, variant: str) -> None:
    source = tmp_path / "source"
    state = pickled_model(source, variant, dtype=dtype, as_zip=as_zip)
    done = convert_here([source / "pytorch_model.bin"], tmp_path / "out", tied=variant != "untied")
    tied = ("lm_head.weight",) if variant != "untied" else ()
    assert done["tied"] == tied
    same(tmp_path / "out", state, tied)


@pytest.mark.parametrize(("shards", "shard_bytes"), [(1, 20_000), (3, 1 << 30), (3, 9_000), (2, 1)])
def test_shards_in_and_out(tmp_path: Path, shards: int, shard_bytes: int) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    state = pickled_model(source, shards=shards, dtype=torch.float16)
    files = sorted(source.glob("*.bin"))
    index = None
    if shards > 1:
        index = json.loads((source / "pytorch_model.bin.index.json").read_text())["weight_map"]
    done = convert_here(files, out, shard_bytes=shard_bytes, weight_map=index)
    # Where the head is in another file than the embeddings, nothing tells that they are the same.
    place = index or dict.fromkeys(state, files[0].name)
    together = place["lm_head.weight"] == place["model.decoder.embed_tokens.weight"]
    assert done["tied"] == (("lm_head.weight",) if together else ())
    same(out, state, done["tied"])
    assert len(list(out.iterdir())) == done["files"]
    for file in out.iterdir():
        size = file.stat().st_size
        assert size < shard_bytes + 10_000 or len(load_file(file)) == 1


def test_strided_shared_and_mixed(tmp_path: Path) -> None:
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    state = {
        "bytes": torch.arange(3, dtype=torch.uint8),
        "transposed": base.t(),
        "halves": torch.ones(5, dtype=torch.float16),
        "rows": base[1:3],
        "columns": base[:, 1::4],
    }
    torch.save(state, tmp_path / "x.bin")
    convert_here([tmp_path / "x.bin"], tmp_path / "out")
    same(tmp_path / "out", state)


def test_what_is_written_is_not_more_than_twice_what_was_read(tmp_path: Path) -> None:
    base = torch.zeros(4096)
    torch.save({f"a{i}": base for i in range(3)}, tmp_path / "x.bin")
    with pytest.raises(InputError, match=r"x\.bin: tensors of 49,152 bytes in all"):
        convert_here([tmp_path / "x.bin"], tmp_path / "out")


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    source = tmp_path / "source"
    state = pickled_model(source, shards=2)
    one, other = sorted(source.glob("*.bin"))
    index = json.loads((source / "pytorch_model.bin.index.json").read_text())["weight_map"]
    name = next(key for key, file in index.items() if file == one.name)
    for changed in (
        {key: file for key, file in index.items() if key != name},
        index | {name: other.name},
        index | {"more": one.name},
    ):
        with pytest.raises(InputError, match=r"does not agree with the files about \d tensors"):
            convert_here([one, other], tmp_path / "out", weight_map=changed)
    torch.save({name: state[name]}, other)
    with pytest.raises(InputError, match=f"{other.name}: '{name}' is in {one.name} as well"):
        convert_here([one, other], tmp_path / "out")


def test_memory_is_a_piece_or_one_strided_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyneurons.model.zip_directory.CHUNK_BYTES", 100)
    longest = 0
    read = TorchFile.read

    def watched(self: TorchFile, stored: StoredTensor) -> Any:
        nonlocal longest
        for piece in read(self, stored):
            longest = max(longest, len(piece))
            yield piece

    monkeypatch.setattr(TorchFile, "read", watched)
    torch.save({"a": torch.zeros(4096), "b": torch.zeros(999)}, tmp_path / "x.bin")
    convert_here([tmp_path / "x.bin"], tmp_path / "out")
    assert longest == 100


# ----- the whole command -------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyneurons", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_convert_then_scan(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "models" / "out"
    state = pickled_model(source, vocab_size=300, dtype=torch.float16)
    checkpoints.write_tokenizer(source)
    (source / "merges.txt").write_text("kept")
    (source / "training_args.bin").write_bytes(pickle.dumps(print))
    refused = command("scan", source, "demo", "--out", tmp_path / "run")
    assert refused.returncode == 2
    assert f"pyneurons convert {source} NEW_DIRECTORY" in refused.stderr.replace("\n", "")
    done = command("convert", source, out, "--shard-size", "20kB", "--no-progress")
    assert done.returncode == 0, done.stderr
    assert "without lm_head.weight (tied)" in done.stdout
    assert f"pyneurons scan {out}" in done.stdout
    same(out, state, ("lm_head.weight",))
    opened = Checkpoint(out)
    assert (out / INDEX_FILE).is_file()
    assert opened.extra == ()
    for name in ("config.json", "tokenizer.json", "merges.txt"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert not (out / "training_args.bin").exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    theirs = OPTForCausalLM.from_pretrained(out, dtype="auto").state_dict()
    assert all(torch.equal(theirs[name], values) for name, values in state.items())


EVIL = {
    "os.system": pickled(
        text("a") + torch_files.name("posix", "system") + text("touch canary") + b"\x85R"
    ),
    "BUILD": pickled(text("a") + tensor() + b"}" + text("x") + text("y") + b"sb"),
}


@pytest.mark.parametrize("case", EVIL)
def test_a_hostile_file_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    source = tmp_path / "source"
    pickled_model(source)
    (source / "pytorch_model.bin").write_bytes(torch_zip(EVIL[case], {"0": bytes(16)}))
    monkeypatch.chdir(tmp_path)
    done = command("convert", source, tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "nothing of it was run" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["source"]  # noqa: PTH208


def test_every_error_of_the_reading_process_is_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    pickled_model(source)
    file = source / "pytorch_model.bin"
    whole = file.read_bytes()
    with TorchFile(file) as opened:
        first = next(iter(opened._storages.values()))
    file.write_bytes(whole[: first.offset] + b"\xff" + whole[first.offset + 1 :])
    with pytest.raises(IntegrityError, match="checksum"):
        convert(source, out)
    file.write_bytes(whole)
    (source / "config.json").write_text(
        json.dumps(json.loads((source / "config.json").read_text()) | {"ffn_dim": 64})
    )
    with pytest.raises(InputError, match=r"fc1\.weight has shape \[96, 32\], expected \[64, 32\]"):
        convert(source, out)
    monkeypatch.setattr(converting.sys, "executable", "/bin/false")  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match=r"process that reads it ended \(exit code 1\)"):
        convert(source, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s, _: (s / "pytorch_model.bin").unlink(), "neither pytorch_model.bin nor"),
        (lambda s, _: (s / "model.safetensors").touch(), "has safetensors already"),
        (lambda s, _: (s / "config.json").unlink(), "config.json: no such file"),
        (lambda _, o: o.write_text("x"), "exists already"),
        (lambda _, o: (o.mkdir(), (o / "x").touch()), "exists already"),
    ],
)
def test_arguments(tmp_path: Path, make: Any, words: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    pickled_model(source)
    make(source, out)
    with pytest.raises(InputError, match=words):
        convert(source, out)
    with pytest.raises(InputError, match="shard_bytes"):
        convert(source, out, shard_bytes=0)


def test_the_single_file_is_taken_before_an_index(tmp_path: Path) -> None:
    source = tmp_path / "source"
    state = pickled_model(source)
    (source / "pytorch_model.bin.index.json").write_text("not read")
    done = convert(source, tmp_path / "out")
    assert done.tensors == len(state) - 1


@pytest.mark.parametrize("name", ["../x.bin", "/dev/zero", "a/b.bin", ".bin", "x.safetensors", 7])
def test_an_index_names_files_of_the_directory_only(tmp_path: Path, name: Any) -> None:
    source = tmp_path / "source"
    pickled_model(source, shards=2)
    index = source / "pytorch_model.bin.index.json"
    given = json.loads(index.read_text())
    given["weight_map"]["model.decoder.layers.0.fc1.bias"] = name
    index.write_text(json.dumps(given))
    with pytest.raises(InputError, match=r"fc1\.bias' is in .*, expected a file name"):
        convert(source, tmp_path / "out")


def test_a_full_disk_is_asked_about_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled_model(tmp_path / "source")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(converting.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match="the disk has less free"):
        convert(tmp_path / "source", tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]  # noqa: PTH208


def test_a_killed_convert_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    state = pickled_model(source)
    partial = tmp_path / ".out.partial"
    for delay in (0.0, 0.02, 0.1):
        running = subprocess.Popen(
            [sys.executable, "-m", "pyneurons", "convert", source, out],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not partial.exists() and running.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert not out.exists()
        assert partial.exists()
    done = convert(source, out)
    assert done.tensors == len(state) - 1
    assert not partial.exists()
    same(out, state, ("lm_head.weight",))


def test_what_a_killed_convert_left_is_not_kept(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    pickled_model(source)
    left = tmp_path / ".out.partial"
    (left / "folder").mkdir(parents=True)
    (left / "model-00001-of-00002.safetensors").write_bytes(b"half of it")
    convert(source, out)
    assert {path.name for path in out.iterdir()} <= {"model.safetensors", *converting.SIDE_FILES}


def test_two_at_once(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    pickled_model(source)
    with (
        converting._staging(out),
        pytest.raises(InputError, match="another process converts into it"),
    ):
        convert(source, out)


def test_limits() -> None:
    """They are set in a process of their own, since none can be raised again."""
    code = """if True:
        import os, resource, sys
        from pyneurons.model import convert_worker
        convert_worker.set_limits(1000, 1)
        try:
            bytearray(1 << 30)
        except MemoryError:
            print("memory")
        try:
            with open(sys.argv[1], "wb") as file:
                file.write(bytes(4 << 20)); file.flush()
        except OSError as error:
            print(error.strerror)
        print(resource.getrlimit(resource.RLIMIT_NPROC)[0], resource.getrlimit(resource.RLIMIT_CPU))
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{folder}/x"], capture_output=True, text=True, check=True
        )
    assert done.stdout.splitlines() == ["memory", "File too large", "0 (60, 65)"]


def test_strided_tensors_get_the_memory_they_need() -> None:
    stored = StoredTensor("a", "F32", (1 << 20, 2), (1, 1 << 20), 0, "0")
    before = resource.getrlimit(resource.RLIMIT_AS)
    convert_worker._allow_strided([stored])
    assert resource.getrlimit(resource.RLIMIT_AS) == before  # no limit, nothing to raise


def test_members_of_another_kind_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    pickled_model(source)
    bomb = torch_files.zip_archive(
        [
            Member("archive/data.pkl", pickled(text("a") + tensor())),
            Member("archive/data/0", b"", method=8, size=1 << 31),
        ]
    )
    (source / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(InputError, match="compressed or encrypted"):
        convert(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]  # noqa: PTH208
