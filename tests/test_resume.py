"""Runs that survive: whatever stops one, the same command ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from same_files import OF_A_RUN_WITH_OUT, contents

import checkpoints
import pyneurons
from pyneurons import corpus as corpora
from pyneurons import demo, durable, failpoints
from pyneurons._verify import standing, verify
from pyneurons.engine import identity
from pyneurons.errors import (
    DiskError,
    IncompleteError,
    InputError,
    IntegrityError,
    PyneuronsError,
)
from pyneurons.model.checkpoint import load_tokenizer
from pyneurons.result import unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator

HELPERS = Path(__file__).parent / "helpers"
VOCABULARY = checkpoints.BASE["vocab_size"]
LAYERS = 3


def documents(seed: int = 1, number: int = 40) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(4, VOCABULARY, size=int(length)).tolist()
        for length in generator.integers(1, 40, size=number)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    checkpoints.make(directory, "pre", seed=3, num_hidden_layers=LAYERS)
    return directory


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def scan(model: Path, out: Path | None, **options: Any) -> pyneurons.Scan:
    plain = {
        "context": 24, "ngrams": (1,), "dtype": "bfloat16", "flip_sample": 60, "progress": False,
        "checkpoint_minutes": 0, "threads": 2,
    }  # fmt: skip
    corpus = options.pop("corpus", None) or {"a": documents(1), "b": documents(2, 20)}
    return pyneurons.scan(model, corpus, out=out, **(plain | options))


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return contents(scan(model, tmp_path_factory.mktemp("whole") / "run").directory)


def stop_at(rule: str, model: Path, out: Path, **options: Any) -> None:
    failpoints.arm(rule)
    with pytest.raises((PyneuronsError, RuntimeError)):
        scan(model, out, **options)
    failpoints.arm(None)


def first_layer(run: pyneurons.Scan) -> int:
    return int(run.manifest["timing"]["first_layer"])


# ----- what a run is --------------------------------------------------------------------------


def test_a_run_that_lasts_holds_what_a_temporary_one_holds(
    model: Path, whole: dict[str, Any]
) -> None:
    temporary = scan(model, None)
    expected = {k: v for k, v in whole.items() if k not in OF_A_RUN_WITH_OUT}
    assert contents(temporary.directory) == expected


def test_a_temporary_run_passes_no_point_of_a_commit(model: Path) -> None:
    armed = failpoints.arm("none=error@1")
    assert armed is not None
    scan(model, None)
    assert not {"fsync", "rename", "folder", "open", "residual.write"} & set(armed.points)


def test_a_finished_run_is_given_back(model: Path, tmp_path: Path) -> None:
    made = scan(model, tmp_path / "run")
    armed = failpoints.arm("batch=error@1")
    again = scan(model, tmp_path / "run", threads=1, memory="3GB", residual="file")
    assert armed is not None
    assert armed.points.get("batch") is None
    assert again.manifest == made.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_every_file_of_a_run_has_the_mode_that_the_user_s_mask_gives(
    model: Path, tmp_path: Path
) -> None:
    """safetensors alone would leave its files private."""
    (tmp_path / "plain").touch()
    expected = (tmp_path / "plain").stat().st_mode
    run = scan(model, tmp_path / "run").directory
    modes = {file.name: file.stat().st_mode for file in run.iterdir()}
    assert modes == dict.fromkeys(modes, expected)


def test_checksums_are_those_of_sha256sum(model: Path, tmp_path: Path) -> None:
    run = scan(model, tmp_path / "run").directory
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=run, check=False
    )
    assert done.returncode == 0
    listed = {line.split()[1] for line in (run / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in run.iterdir()} - {"SHA256SUMS"}


# ----- going on -------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", ["memory", "file"])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_forward_pass_goes_on_where_it_was(
    model: Path, tmp_path: Path, whole: dict[str, Any], residual: str, layer: int
) -> None:
    stop_at(f"layer=error@{layer + 1}", model, tmp_path / "run", residual=residual)
    there = standing(tmp_path / "run", whole=True)
    assert there is not None
    assert (there.done, there.boundary, there.wrong) == (list(range(layer)), layer, {})
    # The other place of the residual stream reads the same boundary.
    other = {"memory": "file", "file": "memory"}[residual]
    run = scan(model, tmp_path / "run", residual=other)
    assert first_layer(run) == layer
    assert contents(run.directory) == whole
    assert verify(run.directory).problems == []


def test_without_a_boundary_counted_layers_are_kept(
    model: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    never = float("inf")
    stop_at("open=error@16", model, tmp_path / "run", checkpoint_minutes=never)
    there = standing(tmp_path / "run")
    assert there is not None
    assert there.done
    assert there.boundary == 0
    run = scan(model, tmp_path / "run", checkpoint_minutes=never)
    assert run.manifest["timing"]["layers_kept"] == len(there.done)
    assert contents(run.directory) == whole


def test_boundaries_wait_for_their_minutes(model: Path, tmp_path: Path) -> None:
    armed = failpoints.arm("none=error@1")
    assert armed is not None
    scan(model, tmp_path / "run", checkpoint_minutes=60)
    assert "residual.write" not in armed.points


def test_no_order_comes_from_a_clock(
    model: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes back a day each time that it is read, and stands in another zone afterwards."""
    now = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    stop_at("layer=error@3", model, tmp_path / "run")
    for path in unfinished(tmp_path / "run").rglob("*"):
        os.utime(path, (0, next(now)))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        run = scan(model, tmp_path / "run")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert first_layer(run) == 2
    assert contents(run.directory) == whole


@pytest.mark.parametrize("action", ["ENOSPC", "EIO", "memory"])
@pytest.mark.parametrize("on", ["", "+"])
def test_a_failure_at_any_point_loses_nothing(
    model: Path, tmp_path: Path, whole: dict[str, Any], action: str, on: str
) -> None:
    fail_everywhere(model, tmp_path, whole, action, on, 17)


def fail_everywhere(
    model: Path, tmp_path: Path, whole: dict[str, Any], action: str, on: str, step: int
) -> None:
    """Fail at the N-th point of a run, or from there on, until a run meets no failure."""
    failures = 0
    # Three actions and two ways: each begins elsewhere, so that together they try every point.
    number = 1 + (2 * ["ENOSPC", "EIO", "memory", "ESTALE"].index(action) + bool(on)) % step
    while True:
        out = tmp_path / f"run-{number}"
        armed = failpoints.arm(f"*={action}@{number}{on}")
        assert armed is not None
        try:
            scan(model, out)
        except (PyneuronsError, OSError, MemoryError):
            failures += 1
        failpoints.arm(None)
        if not armed.fired:
            break
        run = scan(model, out)
        assert contents(run.directory) == whole, number
        assert sorted(path.name for path in tmp_path.iterdir()) == [out.name]
        for path in run.directory.iterdir():
            path.unlink()
        run.directory.rmdir()
        number += step
    assert failures > 8


@pytest.mark.slow
@pytest.mark.parametrize("action", ["ENOSPC", "EIO", "memory", "ESTALE"])
@pytest.mark.parametrize("on", ["", "+"])
def test_a_failure_at_every_point_loses_nothing(
    model: Path, tmp_path: Path, whole: dict[str, Any], action: str, on: str
) -> None:
    fail_everywhere(model, tmp_path, whole, action, on, 1)


def killed(job: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HELPERS / "killed_scans.py"), json.dumps(job)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(HELPERS), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def kill_everywhere(model: Path, folder: Path, step: int) -> dict[str, Any]:
    rows = folder / "rows.npy"
    np.save(rows, np.random.default_rng(0).integers(4, VOCABULARY, size=(30, 24)))
    (folder / "runs").mkdir()
    options = {"model": str(model), "corpus": str(rows), "context": 24, "ngrams": [1]}
    options |= {"dtype": "bfloat16", "flip_sample": 60}
    return killed({"folder": str(folder / "runs"), "options": options, "step": step})


def test_a_kill_at_any_point_loses_nothing(model: Path, tmp_path: Path) -> None:
    found = kill_everywhere(model, tmp_path, step=23)
    assert found["lost"] == 0
    assert found["kills"] > 8


@pytest.mark.slow
def test_a_kill_at_every_point_loses_nothing(model: Path, tmp_path: Path) -> None:
    found = kill_everywhere(model, tmp_path, step=1)
    assert found["lost"] == 0
    assert found["kills"] > 200


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_at_random_instants_lose_nothing(tmp_path: Path, kills: int) -> None:
    """The demo model on 50,000 tokens, SIGKILL, again and again."""
    # Tokenised once: what is killed is the scan.
    tokens = corpora.read(
        demo.demo_corpus(),
        load_tokenizer(demo.model_directory()),
        context=256,
        vocab_size=4096,
        max_tokens=50_000,
    )
    rows = tokens.ids[: tokens.tokens // 256 * 256].reshape(-1, 256)
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "runs").mkdir()
    options = {"model": "demo", "corpus": str(tmp_path / "rows.npy"), "flip_sample": 2048}
    found = killed({"folder": str(tmp_path / "runs"), "options": options, "kills": kills})
    assert found["kills"] == kills
    assert found["lost"] == 0


# ----- what is refused ------------------------------------------------------------------------


def test_another_run_is_refused_field_by_field(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stop_at("layer=error@3", model, out)
    there = standing(out)
    assert there is not None
    assert there.done
    for options, fields in (
        ({"list_limit": 100, "flip_sample": 30}, ["options.list_limit: 200 there, 100 here",
                                                   "options.flip_sample: 60 there, 30 here"]),
        ({"layers": [0, 1]}, ["options.layers"]),
        ({"ngrams": (1, 2)}, ["options.ngrams"]),
        ({"dtype": "float32"}, ["numeric.mode: bfloat16 there, float32 here"]),
        ({"corpus": [[5, 6, 7]]}, ["corpus.tokens", "corpus.sha256"]),
        ({"context": 30}, ["corpus.context: 24 there, 30 here"]),
    ):  # fmt: skip
        with pytest.raises(InputError, match="overwrite") as refused:
            scan(model, out, **options)
        for field in fields:
            assert field in str(refused.value)
    with pytest.raises(InputError, match="resume=True continues it"):
        scan(model, out, resume=False)
    done = scan(model, out)
    for options in ({"list_limit": 100}, {"corpus": [[5, 6, 7]]}):
        with pytest.raises(InputError, match="holds a finished run that differs"):
            scan(model, out, **options)
    with pytest.raises(InputError, match="exists already"):
        scan(model, out, resume=False)
    assert contents(scan(model, out).directory) == contents(done.directory)


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    checkpoints.make(tmp_path / "model", "pre", seed=3, num_hidden_layers=LAYERS)
    stop_at("layer=error@3", tmp_path / "model", tmp_path / "run")
    file = tmp_path / "model" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 1  # the last weight of the last tensor: no header, and not the head of a tensor
    file.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"model\.weights\.decoder"):
        scan(tmp_path / "model", tmp_path / "run")
    raw[-2] ^= 1
    file.write_bytes(raw)
    assert first_layer(scan(tmp_path / "model", tmp_path / "run")) > 0


def test_a_corpus_file_that_changed_is_refused(model: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(4, VOCABULARY, size=(30, 24))
    np.save(tmp_path / "rows.npy", rows)
    corpus = tmp_path / "rows.npy"
    stop_at("layer=error@3", model, tmp_path / "run", corpus=corpus)
    np.save(tmp_path / "rows.npy", rows[:, ::-1])
    with pytest.raises(IntegrityError, match=r"corpus\.files\[0\]\.sha256"):
        scan(model, tmp_path / "run", corpus=corpus)


def test_another_tokenizer_that_gives_the_same_ids_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders

    checkpoints.make(tmp_path / "model", "pre", vocab_size=267, num_hidden_layers=LAYERS)
    one = checkpoints.write_tokenizer(tmp_path / "elsewhere")
    other = Tokenizer.from_str(one.to_str())
    other.decoder = decoders.Fuse()
    given = {"model": tmp_path / "model", "out": tmp_path / "run", "corpus": ["the thing on a hat"]}
    stop_at("layer=error@3", **given, tokenizer=one)
    with pytest.raises(
        InputError, match=r"model\.given_tokenizer: \w{12}\.\. there, \w{12}\.\. here"
    ):
        scan(**given, tokenizer=other)
    assert first_layer(scan(**given, tokenizer=Tokenizer.from_str(one.to_str()))) == 2


def test_another_version_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at("layer=error@3", model, tmp_path / "run")
    monkeypatch.setattr(identity, "version", lambda _: "99.0")
    with pytest.raises(InputError, match=r"numeric\.pyneurons: .* there, 99\.0 here"):
        scan(model, tmp_path / "run")
    monkeypatch.undo()
    plan = unfinished(tmp_path / "run") / "plan.json"
    plan.write_bytes(durable.seal(durable.unseal(plan) | {"format": 2}))
    with pytest.raises(InputError, match="format 2, this version continues format 1"):
        scan(model, tmp_path / "run")


def test_overwrite_begins_anew_and_replaces_at_the_end(
    model: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    old = contents(scan(model, out, list_limit=100).directory)
    stop_at("layer=error@3", model, out, overwrite=True)
    assert contents(out) == old
    # The command that goes on has no --overwrite: what was begun with it replaces the old run.
    run = scan(model, out)
    assert first_layer(run) > 0
    assert contents(out) == whole
    stop_at("layer=error@3", model, out, overwrite=True)
    assert first_layer(scan(model, out, overwrite=True)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("renames", range(1, 4))
def test_a_replacement_that_stops_half_way(
    model: Path, tmp_path: Path, whole: dict[str, Any], renames: int
) -> None:
    out = tmp_path / "run"
    scan(model, out, list_limit=100)
    armed = failpoints.arm("rename=EIO@100000")
    scan(model, tmp_path / "other", overwrite=True)
    assert armed is not None
    last = armed.points["rename"] + 1  # one more, to move the old run away
    stop_at(f"rename=EIO@{last - renames + 1}+", model, out, overwrite=True)
    assert contents(scan(model, out).directory) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_files_that_are_no_run_are_left_alone(model: Path, tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run")
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not a run"):
            scan(model, tmp_path / "run", overwrite=overwrite)
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_two_processes_on_one_folder(model: Path, tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run")
    with durable.FolderLock(folder):
        with pytest.raises(InputError, match=rf"process {os.getpid()} on .* is writing this run"):
            scan(model, tmp_path / "run")
        there = standing(tmp_path / "run")
        assert there is not None
        assert there.owner is not None
    assert scan(model, tmp_path / "run").tokens


# ----- damage ---------------------------------------------------------------------------------


def test_damage_is_set_aside_computed_again_and_named(
    model: Path, tmp_path: Path, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    stop_at("layer=error@3", model, out)
    folder = unfinished(out)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    small = [name for name in names if name not in ("lock", "corpus.safetensors")]
    assert len(small) > 10
    for name in small:
        path = folder / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 0x10
        path.write_bytes(raw)
        there = standing(out, whole=True)
        assert there is not None
        assert name in there.wrong
        assert verify(out).problems
        raw[len(raw) // 2] ^= 0x10
        path.write_bytes(raw)
        assert verify(out).problems == []
    for name, content in {
        "counts-000.safetensors": b"",  # zero length
        "ledger/residual-1.json": b"{",  # torn
        "plan.json": b"not json",
    }.items():
        (folder / name).write_bytes(content)
    (folder / ".tmp-counts-001.safetensors").write_bytes(b"an old crash")
    (folder / "ledger" / ".tmp-layer-002.json").write_bytes(b"no entry yet, and no damage")
    (folder / "examples-002-0.arrow").write_bytes(b"of a layer without an entry")
    capsys.readouterr()
    run = scan(model, out)
    said = capsys.readouterr().err
    again = run.manifest["timing"]["computed_again"]
    assert ".tmp-" not in said
    for name in ("counts-000.safetensors", "ledger/residual-1.json", "plan.json"):
        assert name in said
        assert name in again
    assert contents(run.directory) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_every_changed_byte_of_a_sealed_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "entry.json"
    raw = durable.seal({"name": "layer-000", "files": {"a": {"bytes": 1}}, "facts": {"x": [1.5]}})
    path.write_bytes(raw)
    assert durable.unseal(path)["facts"] == {"x": [1.5]}
    for place in range(len(raw)):
        for bit in range(8):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
            with pytest.raises(IntegrityError):
                durable.unseal(path)
    for end in range(len(raw)):
        path.write_bytes(raw[:end])
        with pytest.raises(IntegrityError):
            durable.unseal(path)


def test_verify_finds_a_flipped_byte_in_any_file(model: Path, tmp_path: Path) -> None:
    run = scan(model, tmp_path / "run", keep_bits=True).directory
    whole = verify(run)
    assert whole.problems == []
    assert whole.finished
    assert whole.statements > 40
    generator = np.random.default_rng(0)
    for path in sorted(run.iterdir()):
        raw = path.read_bytes()
        every = len(raw) < 4000 and path.name in ("SHA256SUMS",)
        for place in range(len(raw)) if every else generator.integers(0, len(raw), size=3):
            changed = bytearray(raw)
            changed[place] ^= 1 << int(generator.integers(0, 8))
            path.write_bytes(changed)
            assert verify(run).problems, (path.name, place)
        path.write_bytes(raw[:-1])
        assert verify(run).problems, path.name
        path.unlink()
        assert path.name == "manifest.json" or verify(run).problems, path.name
        path.write_bytes(raw)
    assert verify(run).problems == []


def test_verify_knows_the_laws(model: Path, tmp_path: Path) -> None:
    """Numbers that contradict each other under checksums that are right."""
    from safetensors.numpy import load_file, save_file

    run = scan(model, tmp_path / "run", keep_bits=True).directory
    file = run / "counts-001.safetensors"
    plain = load_file(file)
    sums = (run / "SHA256SUMS").read_text()
    before = durable.sha256_of(file)
    for name in (
        "fires", "domain_fires", "position_fires", "partial_fires", "bos_fires", "first_fire",
        "ngram_fires_1", "coverage_1", "histogram_1_count", "histogram_1_number", "z_max",
    ):  # fmt: skip
        changed = {key: values.copy() for key, values in plain.items()}
        flat = changed[name].reshape(-1)
        place = int(np.argmax(flat > 0))
        flat[place] = -flat[place] if name in ("z_max", "first_fire") else flat[place] + 1
        if name == "first_fire":
            flat[place] = -1
        save_file(changed, file)
        (run / "SHA256SUMS").write_text(sums.replace(before, durable.sha256_of(file)))
        assert verify(run).problems, name
    save_file(plain, file)
    (run / "SHA256SUMS").write_text(sums)
    assert verify(run).problems == []


def test_nothing_counts_before_it_is_on_the_disk(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is synced before it gets its name, and its name before an entry lists it."""
    staging = unfinished(tmp_path / "run")
    synced: set[int] = set()
    named: set[Path] = set()  # folders with names that are not on the disk
    entries: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)
        named.discard(Path(f"/proc/self/fd/{descriptor}").resolve())

    def replaced(self: Path, target: Path) -> Path:
        assert self.stat().st_ino in synced, target
        listed: list[str] = []
        if target.parent.name == "ledger":
            listed = list(json.loads(self.read_bytes())["content"]["files"])
        elif target.name == "SHA256SUMS":
            listed = [line.split()[1] for line in self.read_text().splitlines()]
        if listed:
            entries.append(target.name)
            assert staging.resolve() not in named, target
        for name in listed:
            inode = (staging / name).stat().st_ino
            assert inode in synced, (target, name)
            if name.startswith("residual"):
                synced.discard(inode)  # it will be written again
        named.add(target.parent.resolve())
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replaced)
    for residual in ("memory", "file"):
        entries.clear()
        scan(model, tmp_path / "run", residual=residual, overwrite=True)
        layers = [f"layer-{layer:03d}.json" for layer in range(LAYERS)]
        boundaries = ["residual-0.json", "residual-1.json"]
        assert sorted(entries) == sorted([*layers, *boundaries, "SHA256SUMS"])
        assert tmp_path.resolve() not in named
        assert staging.resolve() not in named


# ----- disks ----------------------------------------------------------------------------------

PROGRAM = """
import resource, signal, sys
import pyneurons
from pyneurons.errors import PyneuronsError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    pyneurons.scan(sys.argv[1], sys.argv[2], out=sys.argv[3], context=24, progress=False,
                   dtype="bfloat16", checkpoint_minutes=0, ngrams=(1,), flip_sample=60)
except PyneuronsError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def program(model: Path, rows: Path, out: Path, limit: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(rows), str(out), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )


def in_one_go(model: Path, folder: Path, out: Path) -> None:
    """What the program does, here and undisturbed."""
    scan(model, out, corpus=folder / "rows.npy")


def test_files_that_cannot_grow(model: Path, tmp_path: Path) -> None:
    """A real short write: the largest file is cut off by the system; room helps, and all is right."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).integers(4, 100, size=(60, 24)))
    in_one_go(model, tmp_path, tmp_path / "wide")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "wide").iterdir()}
    limit = max(sizes["counts-000.safetensors"], sizes["corpus.safetensors"]) + 1000
    limit = min(limit, sizes["vocabulary.parquet"] - 100)
    narrow = program(model, tmp_path / "rows.npy", tmp_path / "run", limit)
    assert narrow.returncode == 5, (narrow.returncode, narrow.stdout, narrow.stderr)
    assert "the same command continues" in narrow.stdout + narrow.stderr or "fit" in narrow.stdout
    again = program(model, tmp_path / "rows.npy", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "run") == contents(tmp_path / "wide")


def in_a_small_tmpfs(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False
    )


def test_a_full_disk(model: Path, tmp_path: Path) -> None:
    """A file system of 300 kB: exit code 5, and after it was made larger the run is completed."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if in_a_small_tmpfs(f"mount -t tmpfs -o size=64k none {mounted}").returncode:
        pytest.skip("no user namespaces with mounts here")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).integers(4, 100, size=(60, 24)))
    (tmp_path / "program.py").write_text(PROGRAM)
    run = f"{sys.executable} {tmp_path}/program.py {model} {tmp_path}/rows.npy {mounted}/run 0"
    done = in_a_small_tmpfs(
        f"mount -t tmpfs -o size=300k none {mounted} && {run}; echo code $?; ls -A {mounted};"
        f"mount -o remount,size=100m {mounted} && {run}; echo code $?; ls -A {mounted};"
        f"cp -r {mounted}/run {tmp_path}/copy"
    )
    assert "code 5" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stdout or "do not fit the disk" in done.stdout
    assert done.stdout.rstrip().endswith("code 0\nrun"), done.stdout + done.stderr
    in_one_go(model, tmp_path, tmp_path / "plain")
    assert contents(tmp_path / "copy") == contents(tmp_path / "plain")


def test_a_disk_without_room_for_the_copies_is_told_of_before_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    scan(model, tmp_path / "run")
    assert "checkpoint_minutes=inf" in capsys.readouterr().err
    scan(model, tmp_path / "another", checkpoint_minutes=float("inf"))
    scan(model, None)
    assert "checkpoint_minutes" not in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only(model: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="name another place"):
            scan(model, tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_a_place_that_cannot_be_made(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "run", tmp_path / ("x" * 300), Path("/proc/run")):
        with pytest.raises(InputError, match="name another place"):
            scan(model, out)


def test_a_failure_that_passes_is_tried_again(
    model: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    armed = failpoints.arm("fsync=ESTALE@7,rename=EAGAIN@5")
    assert contents(scan(model, tmp_path / "run").directory) == whole
    assert armed is not None
    assert armed.fired == 2
    stop_at("fsync=ESTALE@7+", model, tmp_path / "other")


def test_what_failed_says_what_to_do(model: Path, tmp_path: Path) -> None:
    failpoints.arm("write=ENOSPC@9+")
    with pytest.raises(DiskError, match="free some, then the same command continues"):
        scan(model, tmp_path / "run")
    failpoints.arm(None)
    with pytest.raises(IncompleteError, match="not finished"):
        pyneurons.load(tmp_path / "run")


# ----- signals --------------------------------------------------------------------------------


def running(
    model: Path, folder: Path, *, number: int = 20_000, context: int = 64
) -> subprocess.Popen[str]:
    """Start a scan that takes a while; return when its first layer is kept."""
    if not (folder / "rows.npy").exists():
        np.save(folder / "rows.npy", np.full((number, context), 7))
    arguments = [str(model), str(folder / "rows.npy"), "--out", str(folder / "run")]
    arguments += ["--checkpoint-minutes", "0", "--ngrams", "1", "--flip-sample", "0"]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where tests run in a background
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "pyneurons", "scan", *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 100
    while not (unfinished(folder / "run") / "ledger" / "residual-0.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deep")
    checkpoints.make(directory, "pre", seed=3, num_hidden_layers=12)
    return directory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_the_command_goes_on(
    deep: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = running(deep, tmp_path)
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert time.monotonic() - began < 30
    assert "layers are finished and kept; continue with" in said
    assert "pyneurons scan" in said
    folder = unfinished(tmp_path / "run")
    assert not list(folder.rglob(".tmp-*"))
    asking = ("status", "verify", "show") if number == signal.SIGINT else ()
    for command in asking:
        asked = subprocess.run(
            [sys.executable, "-m", "pyneurons", command, str(tmp_path / "run")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert asked.returncode == 3, (command, asked.stdout, asked.stderr)
    there = standing(tmp_path / "run", whole=True)
    assert there is not None
    assert there.wrong == {}
    assert 0 < len(there.done) < 12


def test_the_second_signal_ends_at_once(deep: Path, tmp_path: Path) -> None:
    process = running(deep, tmp_path)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert time.monotonic() - began < 5
    there = standing(tmp_path / "run", whole=True)
    assert there is not None
    assert there.wrong == {}
