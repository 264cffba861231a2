"""`make device`, where there is no GPU: the frame around its parts, its random models, its goals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import device.__main__ as script
import pyneurons
from device import counters, engine_runs, forward, goals, summary
from device.part import Part
from device.random_checkpoint import RandomCheckpoint
from results import Results

ROOT = Path(__file__).resolve().parent.parent
CARD = {"what": "machine", "card": "Some GPU 80GB"}


@pytest.fixture
def toy():
    """A toy of 125m with layers of their own."""
    case = engine_runs.Case("125m", 12, 1 << 20)
    return RandomCheckpoint(case.config(toy=True), dtype=torch.float32)


# -- the frame ----------------------------------------------------------------------------------------


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Put a shell script in place of Python: called with -m device.PART FILE SECONDS."""

    def put(body: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\nfile=$3; part=$2\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return put


def test_what_a_part_found_before_it_was_stopped_is_kept(interpreter, tmp_path):
    interpreter("""echo '{"what": "one"}' >> $file; echo working; sleep 60 & wait""")
    began = time.monotonic()
    kept = script.run_step(script.Step("forward", 9), 1, tmp_path, toy=True, installed=True)
    assert time.monotonic() - began < 10
    assert kept["records"] == [{"what": "one"}]
    assert kept["error"] == "stopped after 1 s"
    assert kept["output"] == "working\n"


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["device", *map(str, arguments)])
    return script.main()


def test_a_part_that_fails_costs_the_others_nothing(interpreter, tmp_path, monkeypatch, capsys):
    interpreter(f"""
        echo '{json.dumps(CARD)}' > $file
        if [ $part = device.build ]; then echo no compiler in {ROOT}/csrc; exit 3; fi
    """)
    arguments = ("products", "--out", tmp_path, "--commit", "abc")
    assert run_main(monkeypatch, *arguments) == 1
    kept = json.loads((tmp_path / "some-gpu-80gb.json").read_text())
    assert kept["machine"]["card"] == "Some GPU 80GB"
    assert list(kept["parts"]) == ["build", "machine", "products"]
    assert {name for name, part in kept["parts"].items() if "error" in part} == {"build"}
    assert kept["parts"]["build"]["error"] == "ended with status 3"
    assert kept["parts"]["build"]["output"] == "no compiler in ./csrc\n"
    assert {part["commit"] for part in kept["parts"].values()} == {"abc"}
    assert "failed: build" in capsys.readouterr().out

    # Parts that run again replace their older records, and no others.
    interpreter(f"echo '{json.dumps(CARD)}' > $file")
    arguments = ("forward", "--out", tmp_path, "--commit", "def")
    assert run_main(monkeypatch, *arguments) == 0
    parts = json.loads((tmp_path / "some-gpu-80gb.json").read_text())["parts"]
    assert {name: part["commit"] for name, part in parts.items()} == {
        "build": "def",
        "forward": "def",
        "machine": "def",
        "products": "abc",
    }


def least_of(*names):
    return sum(step.least for step in script.STEPS if step.name in names)


def test_the_last_parts_are_left_some_time(interpreter, tmp_path, monkeypatch):
    interpreter(f"""echo '{json.dumps(CARD)}' > $file; echo $4 >> {tmp_path}/seconds""")
    assert run_main(monkeypatch, "--out", tmp_path, "--seconds", "300") == 0
    given = [int(line) for line in (tmp_path / "seconds").read_text().split()]
    assert given[0] == 40
    least = least_of(*(step.name for step in script.STEPS))
    assert least < given[1] + least <= 300
    steps = [step for step in script.STEPS if not step.asked]
    assert all(seconds <= step.seconds for seconds, step in zip(given, steps, strict=True))
    interpreter(f"""echo '{json.dumps(CARD)}' > $file; sleep 1""")
    arguments = ("products", "--out", tmp_path, "--seconds", least_of("products") + 1.5)
    assert run_main(monkeypatch, *arguments) == 1
    parts = json.loads((tmp_path / "some-gpu-80gb.json").read_text())["parts"]
    assert parts["build"]["error"] == "no time was left"
    assert "error" not in parts["products"]


def test_a_part_says_what_there_was_no_time_for(tmp_path):
    part = Part(tmp_path / "records", toy=True, end=time.monotonic() + 5)
    assert part.in_time("small", 1)
    assert not part.in_time("large", 60, model="66b")
    (line,) = (tmp_path / "records").read_text().splitlines()
    record = json.loads(line)
    assert record["what"] == "large"
    assert record["model"] == "66b"
    assert "60 are needed" in record["absent"]


# -- random models ------------------------------------------------------------------------------------


def test_layers_of_a_random_checkpoint_differ_and_are_read_alike(toy):
    layers = [toy.read_layer(layer) for layer in range(2)]
    for name in ("fc1.weight", "self_attn.q_proj.weight"):
        assert not torch.equal(layers[0][name], layers[1][name])
    weight = layers[1]["fc1.weight"]
    into = torch.full_like(weight, torch.nan)
    toy.read_into("decoder.layers.1.fc1.weight", into)
    assert torch.equal(into, weight)
    part = toy.read("decoder.layers.1.fc1.weight", slice(40, 90))
    assert torch.equal(part, weight[40:90])
    assert torch.equal(toy.read_fc2(1), layers[1]["fc2.weight"])
    assert toy.layer_bytes(0) == sum(one.nbytes for one in layers[0].values())
    assert abs(float(weight.std()) / 0.02 - 1) < 0.1


def test_a_random_checkpoint_is_what_it_is_on_disk(toy, tmp_path):
    """The engine on the stand-in, and a scan of the same weights in files: the same counters."""
    rows = engine_runs.Case("125m", 12, 1 << 20).rows(toy=True)
    file = tmp_path / "rows.npy"
    np.save(file, rows)
    directory = counters.write(toy, tmp_path / "model")
    options = {"context": rows.shape[1], "dtype": "float32", "progress": False}
    scan = pyneurons.scan(directory, file, **options)
    counted = {}

    class Counting(engine_runs.RunWriter):
        def write_layer(self, layer, arrays):
            counted[layer] = arrays["fires"].copy()
            super().write_layer(layer, arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_runs, "RunWriter", Counting)
        corpus = engine_runs.corpus(rows, toy.config.vocab_size)
        outcome = engine_runs.run_engine(toy, corpus, statistics=True, toy=True)
    assert outcome["timing"]["layers_s"] > 0
    assert sorted(counted) == [0, 1]
    for layer, fires in counted.items():
        assert np.array_equal(fires, scan.fires[layer])
    assert 0.01 < scan.frequency.mean() < 0.15


def test_kernels_that_wait_for_weights_are_seen(toy):
    class Slow(RandomCheckpoint):
        def _fill(self, name, start, values):
            if name == "decoder.layers.1.fc1.weight":
                time.sleep(0.3)
            super()._fill(name, start, values)

    corpus = engine_runs.corpus(engine_runs.Case("125m", 12, 1).rows(toy=True), 512)
    figures = []
    for checkpoint in (toy, Slow(toy.config, dtype=torch.float32)):
        outcome = engine_runs.run_engine(checkpoint, corpus, statistics=False, toy=True)
        figures.append(forward.figures(1.0, 1.0, outcome, statistics=False))
    plain, slow = figures
    assert plain["stall"] * plain["seconds"] < 0.1
    assert slow["stall"] > 0.5
    assert slow["seconds"] > 0.2 > slow["first_weights_s"]


def test_the_last_layer_has_no_fc2(toy):
    case, config = engine_runs.Case("66b", 3, 1), toy.config
    width, neurons = config.hidden_size, config.ffn_dim
    products = 4 * width * width + 2 * width * neurons
    done = config.num_hidden_layers * (2 * products + 2 * 32 * width) - 2 * width * neurons
    assert case.layers_run(config, 32) * case.layer_flops(config, 32) == pytest.approx(done)


def test_fingerprints_tell_seeds_and_shapes_apart(toy):
    config = toy.config
    others = [
        RandomCheckpoint(config, dtype=torch.float32, seed=1),
        RandomCheckpoint(config),
        RandomCheckpoint(replace(config, ffn_dim=128), dtype=torch.float32),
    ]
    prints = {one.fingerprint() for one in (toy, *others)}
    assert len(prints) == 4
    assert toy.fingerprint() == RandomCheckpoint(config, dtype=torch.float32).fingerprint()


# -- goals --------------------------------------------------------------------------------------------


def goal(words):
    (found,) = (goal for goal in goals.GOALS if words in goal.what)
    return found


def found_on_a_card(**parts):
    return Results("some-gpu", CARD, {name: {"records": r} for name, r in parts.items()})


def test_goals_find_their_figures():
    fc1 = {"what": "fc1", "model": "66b", "ours": True}
    run = {"what": "forward", "model": "66b"}
    results = found_on_a_card(
        products=[
            {"what": "fc1", "model": "66b", "ours": False, "of_mm": [1.0, 1.0, 1.0]},
            {**fc1, "of_mm": [0.8, 0.85, 0.9]},
            {**fc1, "of_mm": [0.9, 0.93, 0.94]},
        ],
        forward=[
            {**run, "statistics": False, "seconds": 10.0, "of_gemm": 0.8, "stall": 0.004},
            {**run, "statistics": True, "seconds": 10.5, "layer_tokens_per_s": 900.0},
            {**run, "model": "6.7b", "absent": "no time"},
        ],
        beside=[
            {
                "what": "beside",
                "model": "66b",
                "program": "accelerate offload, counting hooks",
                "layer_tokens_per_s": [90.0, 100.0, 110.0],
            }
        ],
    )
    expected = {
        "torch.mm, float16, 66b": (0.93, "floor"),
        "measured beside, 66b": (0.8, "floor"),
        "over the bare forward pass, 66b": (5.0, "floor"),
        "streamed weights, 66b": (0.4, "goal"),
        "accelerate's offload": (9.0, "goal"),
    }
    for words, (value, verdict) in expected.items():
        spread = goal(words).find(results)
        assert spread[1] == pytest.approx(value)
        assert goal(words).verdict(spread) == verdict
    unmeasured = [one.what for one in goals.GOALS if one.find(results) is None]
    assert len(unmeasured) == len(goals.GOALS) - len(expected)


def test_toy_shapes_reach_no_goal():
    run = {
        "what": "forward",
        "model": "66b",
        "statistics": False,
        "seconds": 1,
        "of_gemm": 0.99,
    }
    page = summary.goals(found_on_a_card(forward=[run]), toy=True)
    assert "| toy |" in page
    assert "| goal |\n" not in page.replace("| goal | floor |", "")


# -- the whole script ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_script_runs_to_its_end_without_a_gpu(tmp_path):
    """Every part on toy shapes: Triton's interpreter, transformers, the engine."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: make device measures it")
    done = subprocess.run(
        [sys.executable, "-m", "device", "--installed", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "bench",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toy shapes on the CPU: not a measurement" in done.stdout
    for step in script.STEPS:
        assert step.asked or step.name == "build" or f"| {step.name} | " in done.stdout
    assert "| goal |\n" not in done.stdout
    assert list(tmp_path.iterdir()) == []
