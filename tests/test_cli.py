"""The command line: what it prints for good input, and for bad input with which exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import checkpoints
from pyneurons import cli, demo, failpoints
from pyneurons.errors import InputError
from pyneurons.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def pyneurons(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """Run a command line in this process; return exit code, output and error output."""
    monkeypatch.setattr(sys, "argv", ["pyneurons", *arguments])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    return lambda *arguments: pyneurons([str(a) for a in arguments], capsys, monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    checkpoints.make(directory, "pre", seed=3, vocab_size=300)
    checkpoints.write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "some.txt"
    path.write_text("the rain in spain stays mainly in the plain\n" * 60, encoding="utf-8")
    return path


def test_scan_show_which_report(
    command: Callable[..., tuple[int, str, str]], model: Path, text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, out, _ = command(
        "scan", model, f"rain={text}", "--out", run, "--context", "32", "--no-progress"
    )
    assert code == 0
    for part in ("layers x 96 neurons", "left out", "token detectors", "numeric mode", "tokens/s"):
        assert part in out
    code, out, _ = command("show", run)
    assert code == 0
    assert "positional neurons" in out
    code, out, _ = command("show", run, "1.5")
    assert code == 0
    assert "neuron 1.5" in out
    assert "promoted" in out
    code, out, _ = command("which", run, "no such thing")
    assert code == 0
    assert "no neuron detects" in out
    code, out, _ = command("report", run, "--out", tmp_path / "figures")
    assert code == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"figure-01a-dead.png", "figure-01a-dead.svg"} <= names
    page = tmp_path / "page.html"
    code, out, _ = command("report", run, run, "--out", page, "--no-text")
    assert (code, out.strip()) == (0, str(page))
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    code, _, err = command("report", run, "--out", tmp_path / "page.pdf")
    assert code == 2
    assert "NAME.html" in err
    code, _, err = command("report", run, "--out", tmp_path / "figures", "--no-text")
    assert code == 2
    assert "--no-text" in err


def test_version_and_help(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("--version")
    assert (code, out.split()[0]) == (0, "pyneurons")
    code, out, _ = command("scan", "--help")
    assert code == 0
    assert "--memory" in out
    assert command("juggle")[0] == 2
    assert command("scan")[0] == 2


def as_jsonl(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def bad_input(name: str, folder: Path, model: Path, text: Path) -> tuple[list[object], str]:
    """Return the arguments of a bad command line and what its message must say."""
    good = json.dumps({"text": "fine"})
    cases: dict[str, Callable[[], tuple[list[object], str]]] = {
        "no such model": lambda: ([folder / "nothing", text], "nothing"),
        "no such file": lambda: ([model, folder / "none.txt"], "none.txt"),
        "empty glob": lambda: ([model, folder / "*.jsonl"], "*.jsonl"),
        "bad json": lambda: ([model, as_jsonl(folder / "a.jsonl", good, "{oops")], "a.jsonl:2"),
        "no such field": lambda: (
            [model, as_jsonl(folder / "b.jsonl", good, '{"body": "x"}')],
            "b.jsonl:2",
        ),
        "bad utf-8": lambda: ([model, written(folder / "c.txt", b"ok\nno \xff\n")], "c.txt"),
        "id outside the vocabulary": lambda: (
            [model, saved(folder / "d.npy", np.array([[2, 5, 999]]))],
            "999",
        ),
        "floats": lambda: ([model, saved(folder / "e.npy", np.zeros((2, 3)))], "float"),
        "empty file": lambda: ([model, written(folder / "f.txt", b"")], "f.txt"),
        "unknown extension": lambda: ([model, written(folder / "g.doc", b"x")], "g.doc"),
        "context too long": lambda: ([model, text, "--context", "4096"], "4096"),
        "bad memory": lambda: ([model, text, "--memory", "plenty"], "plenty"),
        "bad layers": lambda: ([model, text, "--layers", "one"], "one"),
        "domain named twice": lambda: ([model, f"a={text}", f"a={text}"], "twice"),
        "domains and none": lambda: ([model, f"a={text}", text], "has no domain"),
    }
    return cases[name]()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "no such model", "no such file", "empty glob", "bad json", "no such field", "bad utf-8",
        "id outside the vocabulary", "floats", "empty file", "unknown extension",
        "context too long", "bad memory", "bad layers", "domain named twice", "domains and none",
    ],
)  # fmt: skip
def test_bad_input_exits_with_2_and_says_what_and_where(
    command: Callable[..., tuple[int, str, str]],
    model: Path,
    text: Path,
    tmp_path: Path,
    name: str,
) -> None:
    arguments, part = bad_input(name, tmp_path, model, text)
    out = tmp_path / "run"
    options = [] if "--context" in map(str, arguments) else ["--context", "32"]
    code, printed, said = command("scan", *arguments, "--out", out, "--no-progress", *options)
    assert code == 2, said
    assert said.startswith("error: ")
    assert part in said.replace("\n", "")
    assert "Traceback" not in said
    assert printed == ""
    assert not out.exists()


@pytest.mark.parametrize("change", ["truncated", "written over", "gone", "replaced"])
def test_weights_that_change_during_the_scan_exit_with_4(
    command: Callable[..., tuple[int, str, str]],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    model = tmp_path / "model"
    checkpoints.make(model, "pre", seed=3, vocab_size=300)
    checkpoints.write_tokenizer(model)
    file = model / "model.safetensors"
    read_layer = Checkpoint.read_layer

    def changing(self: Checkpoint, layer: int) -> Any:
        if layer == 1:
            match change:
                case "truncated":
                    os.truncate(file, file.stat().st_size // 2)
                case "written over":
                    with file.open("r+b") as opened:
                        opened.seek(-8, os.SEEK_END)
                        opened.write(bytes(8))
                case "gone":
                    file.unlink()
                case "replaced":
                    shutil.copy(file, model / "other")
                    (model / "other").replace(file)
        return read_layer(self, layer)

    monkeypatch.setattr(Checkpoint, "read_layer", changing)
    out = tmp_path / "run"
    code, _, said = command("scan", model, text, "--out", out, "--context", "32", "--no-progress")
    assert code == 4, said
    assert str(file) in said.replace("\n", "")
    assert "Traceback" not in said
    assert not out.exists()


def test_what_was_requested_and_what_tells_the_inputs_apart(
    command: Callable[..., tuple[int, str, str]], model: Path, text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, out, said = command(
        "scan", model, text, text, "--allow-repeats", "--out", run, "--context", "32",
        "--max-tokens", "1e6", "--no-progress",
    )  # fmt: skip
    assert code == 0, said
    manifest = json.loads((run / "manifest.json").read_text())
    tokens = manifest["corpus"]["tokens"]
    assert f"requested: 1,000,000 tokens, {1_000_000 - tokens:,} more than were run" in out
    assert manifest["settings"]["max_tokens"] == 1_000_000
    first, second = manifest["corpus"]["sources"]
    assert first["sha256"] == second["sha256"]
    assert len(manifest["model"]["weights_sha256"]) == 64
    assert manifest["model"]["not_read"] == []
    assert manifest["model"]["tokenizer"]["canary_ids"]


def test_a_message_does_nothing_to_the_terminal(
    command: Callable[..., tuple[int, str, str]], model: Path, tmp_path: Path
) -> None:
    code, _, said = command(
        "scan", model, f"{tmp_path}/\x1b[2J\x07\u009b\ud800.txt", "--out", tmp_path / "run"
    )
    assert code == 2
    assert "\\x1b[2J\\x07\\x9b\\ud800.txt" in said.replace("\n", "")
    assert "\x1b" not in said


def test_too_little_memory_exits_with_5(
    command: Callable[..., tuple[int, str, str]], model: Path, text: Path, tmp_path: Path
) -> None:
    code, _, said = command(
        "scan", model, text, "--out", tmp_path / "run", "--context", "32", "--memory", "1MB"
    )
    assert code == 5
    assert "raise memory=" in said


@pytest.mark.parametrize(("text_", "numbers"), [("0", [0]), ("1,3-5", [1, 3, 4, 5]), ("", [])])
def test_lists_of_numbers(text_: str, numbers: list[int]) -> None:
    assert cli._numbers(text_, "--layers") == numbers


def test_max_tokens() -> None:
    assert cli._max_tokens(["5e6"]) == 5_000_000
    assert cli._max_tokens(["wiki=10", "code=2e3"]) == {"wiki": 10, "code": 2000}
    with pytest.raises(InputError, match="max-tokens"):
        cli._max_tokens(["a lot"])


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyneurons", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("pyneurons ")


def test_an_interrupted_scan_leaves_nothing(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.full((20_000, 64), 7))
    arguments = ["scan", str(model), str(tmp_path / "rows.npy"), "--out", str(tmp_path / "run")]
    # Where the tests run in the background of a shell, SIGINT is ignored, and a child inherits that.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen(
        [sys.executable, "-m", "pyneurons", *arguments], stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".run.partial" / "corpus.safetensors").exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped: nothing was finished yet" in said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


def test_status_and_verify(
    command: Callable[..., tuple[int, str, str]], model: Path, text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert command("status", run)[0] == 2
    assert command("verify", run)[0] == 2
    command("scan", model, text, "--out", run, "--context", "32", "--no-progress")
    code, out, _ = command("status", run)
    assert code == 0
    assert "finished, 2 layers" in out
    code, out, _ = command("verify", run)
    assert code == 0
    assert "all hold" in out
    (run / "tokens.parquet").write_bytes(b"PAR1")
    code, out, said = command("verify", run)
    assert code == 4
    assert "tokens.parquet: missing, or its checksum does not match" in out
    assert "do not hold" in said


# ----- plan --------------------------------------------------------------------------------------


def test_plan_of_all_sizes(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("plan", "--all", "--gpu-memory", "80GiB")  # a GPU here may have less
    assert code == 0
    for part in ("125m", "66b", "5,000,000 tokens", "80 GiB", "--pcie-bandwidth", "assumed"):
        assert part in out
    code, out, _ = command("plan", "--all", "--gpu-memory", "8GiB", "--json")
    assert code == 0
    entries = json.loads(out)
    assert len(entries) == 8
    assert "gpu_memory" in entries["66b"]["short"]
    assert entries["125m"]["residual"]["host"] > 0


def test_a_demo_that_was_stopped_goes_on(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_finish", lambda *_, **__: None)
    monkeypatch.setattr(
        demo, "demo_corpus", lambda: ["the rain in spain stays in the plain\n" * 99]
    )

    def stopped(*arguments: str) -> None:
        failpoints.arm("write=ENOSPC@20+")
        try:
            code, _, said = command("demo", "--out", tmp_path / "run", *arguments)
        finally:
            failpoints.arm(None)
        assert code == 5
        assert "of 6 layers are finished and kept; continue with" in said

    def goes_on(*arguments: str) -> bool:
        assert command("demo", "--out", tmp_path / "run", *arguments)[0] == 0
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        return manifest["timing"]["layers_kept"] > 0

    stopped()
    assert goes_on()
    stopped()  # what is to replace the one that stands
    assert goes_on()
    stopped()
    assert not goes_on("--dtype", "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_plan_needs_no_weights(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    checkpoints.published_config("6.7b").save_pretrained(tmp_path)
    for model in (tmp_path, tmp_path / "config.json", "6.7b"):
        code, out, _ = command(
            "plan", model, "--tokens", "2M", "--disk-bandwidth", "1GB/s", "--json"
        )
        assert code == 0
        entry = json.loads(out)
        assert entry["model"] == str(model)
        assert (entry["tokens"], entry["assumptions"]["disk_bandwidth"]) == (2_000_000, 1e9)
    code, out, _ = command("plan", "6.7b", "--host-memory", "16GiB", "--disk-bandwidth", "1GB/s")
    assert code == 0
    for part in ("residual stream", "weights, disk to host", "bound by", "given", "micro-batch"):
        assert part in out
    assert command("plan", "demo", "--context", "128")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["66b", "--gpu-memory", "6GiB"], 5, "gpu_memory"),
        (["66b", "--disk-space", "1GB"], 5, "disk_space"),
        (["66b", "--all"], 2, "not both"),
        ([], 2, "--all"),
        (["67b"], 2, "67b"),
        (["66b", "--gpu-memory", "plenty"], 2, "plenty"),
        (["66b", "--disk-bandwidth", "3m/h"], 2, "3m/h"),
        (["66b", "--tokens", "some"], 2, "some"),
        (["66b", "--context", "4096"], 2, "4096"),
        (["66b", "--kernel-share", "2"], 2, "kernel_share"),
        (["66b", "--ngrams", "x"], 2, "--ngrams"),
    ],
)
def test_plans_that_cannot_be(
    command: Callable[..., tuple[int, str, str]], arguments: list[str], code: int, part: str
) -> None:
    ended, printed, said = command("plan", *arguments)
    assert (ended, printed) == (code, "")
    assert said.startswith("error: ")
    assert part in said.replace("\n", "")
