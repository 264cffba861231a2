"""The engine on a device of threads: the counters of the CPU's, wherever things lie, however late they come."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from same_files import contents

import checkpoints
import pyneurons
from deaf_device import Deaf
from pyneurons import _scan, failpoints
from pyneurons.engine import device_plan, device_run
from pyneurons.engine.device_residual import RowPlaces
from pyneurons.engine.device_threads import ThreadDevice
from pyneurons.errors import BackendUnavailable, InputError, NonFiniteError, ResourceError
from pyneurons.model import device_layer, opt
from pyneurons.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = checkpoints.BASE["vocab_size"]
CONTEXT = 24
BATCH = 72
"""Rows of a micro-batch: three whole sequences."""

Scanner = Any  # a function of a directory and options of a scan


def documents(seed: int, number: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(4, VOCABULARY, size=int(length)).tolist()
        for length in generator.integers(1, 60, size=number)
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pre")
    checkpoints.make(path, "pre", seed=3, num_hidden_layers=3)
    return path


def on_cpu(directory: Path, **options: Any) -> pyneurons.Scan:
    options = {"context": CONTEXT, "progress": False, "keep_bits": True} | options
    corpus = {"a": documents(1, 20), "b": documents(2, 14)}
    return pyneurons.scan(directory, corpus, **options)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Scanner:
    """Scan on threads, by default C++ in them; ``places`` are fields of the plan."""
    monkeypatch.setattr(device_plan, "BATCH", BATCH)
    monkeypatch.setattr(device_plan, "WIDE_BATCH", BATCH)
    made = device_run.make_device_plan

    def scan(
        directory: Path,
        *,
        seed: int = 0,
        device: ThreadDevice | None = None,
        places: dict[str, Any] | None = None,
        **options: Any,
    ) -> pyneurons.Scan:
        def plan(*given: Any, **named: Any) -> device_plan.DevicePlan:
            return replace(made(*given, **named), **(places or {}))

        monkeypatch.setattr(device_run, "make_device_plan", plan)
        monkeypatch.setattr(_scan, "open_device", lambda: device or ThreadDevice(seed, 2e-4))
        return on_cpu(directory, **({"device": "cuda", "backend": "cpp"} | options))

    return scan


def same_counters(one: pyneurons.Scan, other: pyneurons.Scan) -> None:
    """All that is an integer is equal."""
    for layer in one.layers:
        np.testing.assert_array_equal(one.bits(layer), other.bits(layer))
        np.testing.assert_array_equal(one.position_fires(layer), other.position_fires(layer))
        for n in (1, 2, 3):
            pairs = zip(one._run.histogram(layer, n), other._run.histogram(layer, n), strict=True)
            for a, b in pairs:
                np.testing.assert_array_equal(a, b)
    for name in ("fires", "bos_fires", "separator_fires", "first_fire", "mi"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for table in ("ngrams", "examples"):
        assert one._run.table(table).equals(other._run.table(table)), table


def same(one: pyneurons.Scan, other: pyneurons.Scan) -> None:
    """All of it is equal, to the bit."""
    same_counters(one, other)
    for name in ("z_max", "z_sup", "z_inf"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for table in ("neurons", "vocabulary", "suppression"):
        assert one._run.table(table).equals(other._run.table(table)), table


@pytest.mark.parametrize("variant", list(checkpoints.VARIANTS))
def test_every_architecture_counts_as_on_the_cpu(
    tmp_path: Path, on_device: Scanner, variant: str
) -> None:
    """In float32 no pre-activation of these models lies within rounding of 0."""
    checkpoints.make(tmp_path, variant, seed=3)
    one = on_cpu(tmp_path, dtype="float32")
    other = on_device(tmp_path, dtype="float32")
    same_counters(one, other)
    np.testing.assert_allclose(one.z_max, other.z_max, rtol=1e-4, atol=1e-5)
    plan = other.manifest["plan"]
    assert plan["micro_batch"] == BATCH
    assert one.tokens > 5 * BATCH


@pytest.mark.parametrize("options", [{"packing": "document"}, {"layers": [1]}, {"ngrams": (2,)}])
def test_options_count_as_on_the_cpu(
    directory: Path, on_device: Scanner, options: dict[str, Any]
) -> None:
    one = on_cpu(directory, dtype="float32", **options)
    other = on_device(directory, dtype="float32", **options)
    np.testing.assert_array_equal(one.fires, other.fires)
    np.testing.assert_array_equal(one.mi, other.mi)
    assert one._run.table("ngrams").equals(other._run.table("ngrams"))
    assert list(one.layers) == list(other.layers)


def rows(device: int, host: int, file: int) -> dict[str, int]:
    return {"device": device, "host": host, "file": file}


PLACES: dict[str, dict[str, Any]] = {
    "residual on the host": {"residual": rows(0, 10**6, 0)},
    "residual in a file": {"residual": rows(0, 0, 10**6)},
    "residual in three": {"residual": rows(2 * BATCH, 3 * BATCH, 10**6)},
    "bits on the host": {"mask": "host"},
    "bits in a file": {"mask": "file"},
    "indices on the host": {"index": "host"},
    "two slots": {"ring_slots": 2},
    "all far": {
        "residual": rows(0, 2 * BATCH, 10**6), "mask": "file", "index": "host", "ring_slots": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("places", list(PLACES))
def test_no_bit_depends_on_where_things_lie(
    directory: Path, on_device: Scanner, places: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYNEURONS_POISON", "1")
    plain = on_device(directory, dtype="float32")
    for seed in range(3):
        same(plain, on_device(directory, dtype="float32", seed=seed, places=PLACES[places]))


STREAMS = ("compute", "residual in", "residual out", "bits out")
"""That of the weights has its own test (test_weight_ring): between layers this engine's host waits anyway."""


@pytest.mark.parametrize("deaf", [*STREAMS, None])
def test_without_the_waits_of_any_one_stream_it_is_wrong(
    directory: Path, on_device: Scanner, deaf: str | None
) -> None:
    """The mutations, and beside them the same seeds with every wait in place."""
    far = {"residual": rows(0, 10**6, 0), "mask": "host"}
    plain = on_device(directory, dtype="float32", ngrams=())
    wrong = 0
    for seed in range(8):
        try:
            found = on_device(
                directory, dtype="float32", ngrams=(), device=Deaf(seed, str(deaf)), places=far
            )
        except (NonFiniteError, pyneurons.errors.IntegrityError):
            wrong += 1
            continue
        wrong += not all(
            np.array_equal(plain.bits(layer), found.bits(layer)) for layer in plain.layers
        )
        if deaf is not None and wrong:
            break
    assert (wrong > 0) == (deaf is not None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_are_converted_on_the_device(
    tmp_path: Path, on_device: Scanner, dtype: str
) -> None:
    """From float16; and the sample is that of float32 in any mode."""
    checkpoints.make(tmp_path, "pre", seed=5, dtype=torch.float16)
    one = on_cpu(tmp_path, dtype=dtype, flip_sample=100)
    other = on_device(tmp_path, dtype=dtype, flip_sample=100)
    assert other.manifest["numeric"]["mode"] == dtype
    if dtype == "float32":
        same_counters(one, other)
        return
    for layer in ("0", "1"):
        ours = other.manifest["numeric"]["flips"][layer]
        truth = one.manifest["numeric"]["flips"][layer]
        assert ours["fires"] == truth["fires"] > 0
        assert ours["gained_share"] + ours["lost_share"] < 0.05
    fires = one.fires.sum()
    assert abs(int(other.fires.sum()) - int(fires)) < 0.01 * fires


def test_triton_counts_as_the_cpu(tmp_path: Path, on_device: Scanner) -> None:
    """The whole scan by its kernels, here in the interpreter; one layer, in float32."""
    checkpoints.make(tmp_path, "pre", seed=3, num_hidden_layers=1)
    options = {"dtype": "float32", "max_tokens": 300, "ngrams": (1, 2)}
    one = on_cpu(tmp_path, **options)
    other = on_device(tmp_path, backend="triton", **options)
    np.testing.assert_array_equal(one.bits(0), other.bits(0))
    np.testing.assert_array_equal(one.position_fires(0), other.position_fires(0))
    for table in ("ngrams", "examples"):
        assert one._run.table(table).equals(other._run.table(table)), table


def silent(directory: Path) -> None:
    """A model in whose first two layers every other neuron never fires."""
    model = checkpoints.build("pre", seed=3, num_hidden_layers=3)
    with torch.no_grad():
        for layer in model.model.decoder.layers[:2]:
            layer.fc1.bias[::2] = -40.0
    checkpoints.write_model(model, directory)


def test_neurons_in_another_order_count_alike(tmp_path: Path, on_device: Scanner) -> None:
    """But for fc2's sums, in another order, of which no pre-activation here depends on the sign."""
    silent(tmp_path)
    options = {"dtype": "bfloat16", "keep_bits": False, "flip_sample": 100}
    plain = on_device(tmp_path, neuron_order="off", **options)
    other = on_device(tmp_path, **options)
    ordered = other.manifest["numeric"]["neuron_order"]
    assert {layer: said["silent_in_pilot"] >= 48 for layer, said in ordered.items()} == {
        "0": True, "1": True,
    }  # fmt: skip
    assert "neuron_order" not in plain.manifest["numeric"]
    # The first layer reads the same input, by the same arithmetic in each neuron.
    for name in ("fires", "first_fire", "z_max"):
        np.testing.assert_array_equal(getattr(plain, name)[0], getattr(other, name)[0])
    assert plain.manifest["numeric"]["flips"]["0"] == other.manifest["numeric"]["flips"]["0"]

    options["dtype"] = "float32"
    plain = on_device(tmp_path, neuron_order="off", **options)
    other = on_device(tmp_path, **options)
    for name in ("fires", "bos_fires", "first_fire", "mi"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(other, name), err_msg=name)
    np.testing.assert_allclose(plain.z_max, other.z_max, rtol=1e-4, atol=1e-5)
    for layer in plain.layers:
        np.testing.assert_array_equal(plain.position_fires(layer), other.position_fires(layer))
        for n in (1, 2, 3):
            pairs = zip(plain._run.histogram(layer, n), other._run.histogram(layer, n), strict=True)
            for a, b in pairs:
                np.testing.assert_array_equal(a, b)
    for table in ("ngrams", "examples", "vocabulary"):
        assert plain._run.table(table).equals(other._run.table(table)), table


def test_bits_that_are_kept_are_of_the_neurons_in_their_order(
    tmp_path: Path, on_device: Scanner
) -> None:
    silent(tmp_path)
    scan = on_device(tmp_path, dtype="float32")
    assert "neuron_order" not in scan.manifest["numeric"]
    np.testing.assert_array_equal(scan.bits(1).sum(axis=0), scan.fires[1])


def test_fc1_by_torch_counts_alike(tmp_path: Path, on_device: Scanner) -> None:
    """Its products have all rows of a micro-batch, also of the last, which has fewer."""
    checkpoints.make(tmp_path, "pre", seed=3, num_hidden_layers=2)
    options = {"dtype": "float32", "max_tokens": 250, "ngrams": ()}
    one = on_cpu(tmp_path, **options)
    assert one.tokens % BATCH
    other = on_device(tmp_path, backend="triton", fc1_route="torch", **options)
    assert other.manifest["numeric"]["fc1_route"]["route"] == "torch"
    for layer in (0, 1):
        np.testing.assert_array_equal(one.bits(layer), other.bits(layer))
    np.testing.assert_allclose(one.z_max, other.z_max, rtol=1e-4, atol=1e-5)


def test_fc1_by_torch_is_for_backends_of_a_device(directory: Path, on_device: Scanner) -> None:
    with pytest.raises(BackendUnavailable, match="it has 'fused'"):
        on_device(directory, dtype="float32", fc1_route="torch")


def test_float16_by_triton(tmp_path: Path, on_device: Scanner) -> None:
    """The mode that the checkpoint has, beside float32 on the same tokens."""
    checkpoints.make(tmp_path, "pre", seed=5, dtype=torch.float16, num_hidden_layers=1)
    scan = on_device(tmp_path, backend="triton", max_tokens=200, flip_sample=200, ngrams=(1,))
    assert scan.manifest["numeric"]["mode"] == "float16"
    flips = scan.manifest["numeric"]["flips"]["0"]
    assert flips["fires"] > 1000
    assert flips["gained_share"] + flips["lost_share"] < 0.005


def test_the_mode_of_a_16_bit_checkpoint_is_its_own(tmp_path: Path, on_device: Scanner) -> None:
    checkpoints.make(tmp_path, "pre", seed=5, dtype=torch.bfloat16)
    assert on_device(tmp_path).manifest["numeric"]["mode"] == "bfloat16"


def test_float16_is_refused_on_the_cpu(directory: Path) -> None:
    with pytest.raises(InputError, match="float16 is for device='cuda'"):
        on_cpu(directory, dtype="float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_is_refused(directory: Path) -> None:
    with pytest.raises(BackendUnavailable, match="torch sees no GPU"):
        on_cpu(directory, device="cuda")


def test_what_is_not_finite_is_named_with_its_layer(tmp_path: Path, on_device: Scanner) -> None:
    model = checkpoints.build("pre", seed=3)
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.bias[7] = 3e38
        model.model.decoder.layers[1].fc1.weight[7] = 3e38
    checkpoints.write_model(model, tmp_path)
    with pytest.raises(NonFiniteError, match=r"layer 1: .*neuron 7"):
        on_device(tmp_path, dtype="float32")


def test_too_little_memory_is_refused_with_what_is_short(
    directory: Path, on_device: Scanner
) -> None:
    with pytest.raises(ResourceError, match=r"gpu_memory: .* more are needed"):
        on_device(directory, dtype="float32", gpu_memory=10_000)


def test_places_hold_whole_micro_batches() -> None:
    batches = [(0, 70), (70, 140), (140, 212), (212, 230)]
    assert RowPlaces.of(batches, rows(230, 0, 0)) == RowPlaces(4, 0, 0)
    assert RowPlaces.of(batches, rows(144, 86, 0)) == RowPlaces(2, 2, 0)
    assert RowPlaces.of(batches, rows(72, 72, 86)) == RowPlaces(1, 1, 2)
    assert RowPlaces.of(batches, rows(0, 72, 158)) == RowPlaces(0, 1, 3)
    assert RowPlaces.of(batches, rows(0, 0, 230)) == RowPlaces(0, 0, 4)
    assert RowPlaces.of([], rows(0, 0, 0)) == RowPlaces(0, 0, 0)


@pytest.mark.parametrize("lengths", [[24, 24, 24], [64, 64, 5, 5, 64], [32, 1, 100, 32], [7]])
def test_groups_hold_every_row_once(lengths: list[int]) -> None:
    total = sum(lengths)
    groups = device_layer.Groups.of(lengths, 300)
    found = [
        np.arange(first, first + number * length) for first, number, length in groups.whole
    ] + [index[index < 300] for index in groups.padded]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(total))
    for index in groups.padded:
        assert index.shape[1] in (32, 64, 128)


@pytest.mark.parametrize("variant", list(checkpoints.VARIANTS))
def test_a_layer_is_that_of_the_cpu(tmp_path: Path, variant: str) -> None:
    checkpoints.make(tmp_path, variant, seed=2)
    checkpoint = Checkpoint(tmp_path)
    config, raw = checkpoint.config, checkpoint.read_layer(0)
    lengths = [64, 64, 9, 32, 50]
    total, neurons = sum(lengths), config.ffn_dim
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(total, config.hidden_size, generator=generator)
    words = -(-neurons // 32)

    truth, mask = start.clone(), np.zeros((1, total, words), dtype=np.uint32)
    z_max = torch.full((neurons,), -torch.inf)
    weights = opt.convert_layer(raw, config, torch.float32)
    opt.decoder_layer(truth, lengths, weights, mask, z_max, backend="torch")

    padded = 256
    size = device_layer.room_bytes(padded, config.hidden_size, torch.float32)
    room = device_layer.Room.of(
        torch.zeros(size, dtype=torch.uint8), padded, config.hidden_size, torch.float32
    )
    found, bits = start.clone(), torch.full((1, total, words), -1, dtype=torch.int32)
    greatest = torch.full((neurons,), -torch.inf)
    wrong = torch.full((1,), device_run.FINITE)
    device_layer.decoder_layer(
        found,
        device_layer.Groups.of(lengths, padded),
        device_layer.LayerTensors(raw, torch.float32),
        config,
        room,
        bits,
        greatest,
        wrong,
        backend="torch",
    )
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(greatest, z_max, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(bits.numpy().view(np.uint32), mask)
    assert int(wrong) == device_run.FINITE


PROGRAM = """
import sys, pyneurons
from pyneurons import _env, _scan
from pyneurons.engine import device_plan
from pyneurons.engine.device_threads import ThreadDevice
model, rows, host, gpu, batch = sys.argv[1:]
_scan.open_device = lambda: ThreadDevice(0, 0.0)
device_plan.BATCH = device_plan.WIDE_BATCH = int(batch)
scan = pyneurons.scan(
    model, rows, memory=host, gpu_memory=gpu, dtype="float32", threads=1, flip_sample=0,
    progress=False, device="cuda", backend="cpp",
)
plan = scan.manifest["plan"]
print(_env.peak_resident_bytes(), *plan["predicted_peak"].values(), *plan["residual"].values())
"""


@pytest.mark.parametrize("gpu", ["2GB", "480MB"])
def test_the_predicted_peak_is_held(tmp_path: Path, gpu: str) -> None:
    """Host and device are the same memory here, so that the process shows the sum of both."""
    checkpoints.make(
        tmp_path, "pre", seed=3, num_hidden_layers=2, hidden_size=256, ffn_dim=1024,
        num_attention_heads=4, vocab_size=500,
    )  # fmt: skip
    generator = np.random.default_rng(9)
    ids = generator.integers(4, 500, size=(4000, 64), dtype=np.int32)
    ids[:, 0] = 2
    np.save(tmp_path / "rows.npy", ids)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / "rows.npy")]
    done = subprocess.run(
        [*command, "3GB", gpu, "8192"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak, device, host, _, *rows = map(int, done.stdout.split())
    assert (rows[0] < ids.size) == (gpu == "480MB")
    assert 0.6 * (device + host) < peak <= device + host


PARTS = {
    "device": {"device": 10**9, "host": 0, "file": 0},
    "host": {"device": 2 * BATCH, "host": 10**9, "file": 0},
    "file": {"device": BATCH, "host": BATCH, "file": 10**9},
}


@pytest.mark.parametrize("place", PARTS)
@pytest.mark.parametrize("layer", [1, 2])
def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, directory: Path, on_device: Scanner, place: str, layer: int
) -> None:
    """The residual stream comes back from its boundary, wherever it is kept."""
    options: dict[str, Any] = {"dtype": "bfloat16", "flip_sample": 100, "checkpoint_minutes": 0}
    whole = on_device(directory, **options, out=tmp_path / "whole")
    failpoints.arm(f"layer=error@{layer + 1}")
    try:
        with pytest.raises(RuntimeError, match="failpoint layer"):
            on_device(directory, **options, out=tmp_path / "run")
    finally:
        failpoints.arm(None)
    rest = on_device(
        directory, **options, out=tmp_path / "run", places={"residual": PARTS[place]}, seed=7
    )
    assert rest.manifest["timing"]["first_layer"] == layer
    assert contents(rest.directory) == contents(whole.directory)
