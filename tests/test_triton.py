"""The backend ``triton`` itself: what it refuses, float16, and what fc2 leaves out."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import inputs
from pyneurons import _env, backends, ops, reference
from pyneurons.errors import BackendUnavailable, DTypeError, ShapeError

torch = pytest.importorskip("torch")

# Where the backend is required, its absence is an error of the import below, not a skip.
if (reason := backends.why_not("triton")) and "triton" not in _env.required_backends():
    pytest.skip(reason, allow_module_level=True)
import triton

from pyneurons.backends import triton_counting, triton_ffn
from pyneurons.backends.triton_tiles import Tiles

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TMA = Tiles(64, 64, 32, 1, 1, band=2, variant="tma")
WAYS = {"fused": {}, "torch": {"route": "torch"}, "tma": {"cut": TMA}}
EVERY_WAY = [
    (way, dtype) for way in WAYS for dtype in DTYPES if way != "tma" or dtype != torch.float32
]
each_way = pytest.mark.parametrize(("way", "dtype"), EVERY_WAY)


@pytest.fixture
def fresh_registry():
    backends._load.cache_clear()
    yield
    backends._load.cache_clear()


@pytest.mark.usefixtures("fresh_registry")
def test_neither_a_device_nor_the_interpreter(monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="'triton': there is no CUDA device"):
        backends.resolve("triton")
    assert "triton" not in backends.available()


@pytest.mark.usefixtures("fresh_registry")
def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(BackendUnavailable, match="triton is not installed"):
        backends.resolve("triton")


def test_an_op_that_it_lacks_is_refused_by_name():
    for name in ("layer_norm", "attention", "linear"):
        with pytest.raises(
            BackendUnavailable, match=f"'triton': it has no {name}; it has ffn, firing_rows"
        ):
            getattr(backends.resolve("triton"), name)()


def test_read_only_inputs_are_taken():
    fires = inputs.bits(40, 50)
    mask, order = inputs.wide_mask(fires), inputs.order(40, 60)
    mask.flags.writeable = order.flags.writeable = False
    counts = np.zeros((1, 50), dtype=np.int64)
    ops.segment_counts(mask, order, inputs.bounds([60]), counts, backend="triton")
    assert np.array_equal(counts[0], fires[order].sum(axis=0))


def test_pieces_make_up_the_segments():
    segments = np.array([3, 3, 10, 11, 31], dtype=np.int64)
    first, stop, segment = triton_counting.pieces(segments, 7)
    assert first.tolist() == [3, 10, 11, 18, 25]
    assert stop.tolist() == [10, 11, 18, 25, 31]
    assert segment.tolist() == [1, 2, 3, 3, 3]


@pytest.mark.parametrize("bins", [4999, 5000])
def test_few_fires_in_long_segments(bins):
    """Segments of 4,096 rows and more are counted on another way."""
    fires = np.zeros((5000, 40), dtype=bool)
    for neuron in range(40):
        fires[: 200 * neuron, neuron] = True
    fires[:, 1] = False
    fires[4321, 1] = True
    segments = inputs.bounds([5000, 5000])
    order = np.tile(np.arange(5000, dtype=np.int32), 2)
    histogram = np.zeros((bins + 1, 40), dtype=np.int64)
    large = np.zeros((0 if bins == 5000 else 2, 40), dtype=np.int64)
    counts = fires.sum(axis=0)
    mask = reference.pack(fires)
    ops.ngram_coverage(mask, order, segments, 2 * counts, histogram, large, backend="triton")
    assert np.all(large == counts)
    alive = np.flatnonzero(counts) if bins == 5000 else []
    assert np.all(histogram[counts[alive], alive] == 2)
    assert histogram.sum() == 2 * len(alive)


class Launch:
    """One call of the launcher, everything on the device, the mask poisoned."""

    def __init__(self, x, fc1, bias1, fc2, bias2, **options):
        rows, neurons = len(x), len(fc1)
        self.residual = torch.zeros(rows, 1 if fc2 is None else len(fc2), device=DEVICE)
        self.z_max = torch.full((neurons,), -torch.inf, device=DEVICE)
        strips, strip_words = ops.strip_shape(neurons)
        self.mask = torch.full((strips, rows, strip_words), -0x21524111, dtype=torch.int32)
        self.mask = self.mask.to(DEVICE)
        arguments = (None if one is None else one.to(DEVICE) for one in (x, fc1, bias1, fc2, bias2))
        with np.errstate(over="ignore", invalid="ignore"):  # of the interpreter
            self.wrong = triton_ffn.ffn(*arguments, self.residual, self.mask, self.z_max, **options)

    def fires(self, neurons):
        bits = (self.mask.cpu()[..., None] >> torch.arange(32)) & 1
        bits = bits.transpose(0, 1).flatten(1)
        assert not bits[:, neurons:].any()
        return bits[:, :neurons].bool()


def lattice(dtype, rows=70, inner=40, neurons=1104, outer=40):
    return (
        torch.from_numpy(inputs.lattice((rows, inner), 1, 2)).to(dtype),
        torch.from_numpy(inputs.lattice((neurons, inner), 2, 1)).to(dtype),
        torch.from_numpy(inputs.lattice((neurons,), 3)).to(dtype),
        torch.from_numpy(inputs.lattice((outer, neurons), 4, 2)).to(dtype),
        torch.from_numpy(inputs.lattice((outer,), 5)).to(dtype),
    )


@each_way
def test_lattices_are_exact(way, dtype):
    inner, neurons = (40, 1104) if way == "tma" else (33, 1100)
    x, fc1, bias1, fc2, bias2 = lattice(dtype, inner=inner, neurons=neurons)
    z = x.double() @ fc1.double().T + bias1.double()
    done = Launch(x, fc1, bias1, fc2, bias2, **WAYS[way])
    assert (z == 0).sum() > 1000
    assert int(done.wrong) == triton_ffn.FINITE
    assert torch.equal(done.fires(neurons), z > 0)
    assert torch.equal(done.z_max.cpu(), z.amax(dim=0).float())
    y = z.clamp(min=0) @ fc2.double().T + bias2.double()
    assert torch.equal(done.residual.cpu(), y.float())
    # Without biases, and without fc2.
    z -= bias1.double()
    done = Launch(x, fc1, None, None, None, **WAYS[way])
    assert torch.equal(done.fires(neurons), z > 0)
    assert torch.equal(done.z_max.cpu(), z.amax(dim=0).float())
    assert not done.residual.any()


@each_way
def test_what_fc2_reads_is_rounded_to_nearest(way, dtype):
    """z is exact in float32, and the identity for fc2 shows h."""
    neurons = 96
    x = torch.from_numpy(inputs.lattice((64, 8), 1)).to(dtype)
    fc1 = torch.from_numpy(inputs.lattice((neurons, 8), 2)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    bias1 = (torch.randn(neurons, generator=generator).to(dtype).double() * 2**-3).to(dtype)
    z = (x.double() @ fc1.double().T + bias1.double()).float()
    h = z.clamp(min=0).to(dtype)
    if dtype != torch.float32:
        assert (h.float() != z.clamp(min=0)).float().mean() > 0.2
    done = Launch(x, fc1, bias1, torch.eye(neurons).to(dtype), None, **WAYS[way])
    assert torch.equal(done.residual.cpu(), h.float())
    seen = z.to(dtype).float() if way == "torch" else z
    assert torch.equal(done.z_max.cpu(), seen.amax(dim=0))


@pytest.mark.parametrize("way", WAYS)
def test_bias_is_added_before_rounding(way):
    """256 + 1 is 257, which bfloat16 rounds to 256: with the bias -256 outside the sum, 0."""
    x = torch.zeros(67, 40, dtype=torch.bfloat16)
    x[:, 0], x[:, -1] = 256, 1
    fc1, bias1 = torch.ones(104, 40).bfloat16(), torch.full((104,), -256).bfloat16()
    done = Launch(x, fc1, bias1, torch.ones(1, 104).bfloat16(), None, **WAYS[way])
    assert done.fires(104).all()
    assert torch.all(done.z_max == 1)


def test_a_pre_activation_that_rounds_to_0_fires_by_the_fused_route():
    """2**-25 is half of the smallest float16 above 0, and rounds to even: to 0."""
    x = torch.full((1, 1), 2.0**-10, dtype=torch.float16)
    fc1 = torch.tensor([[2.0**-15], [0.0], [-(2.0**-15)], [2.0**-14]], dtype=torch.float16)
    ones = torch.ones(1, 4, dtype=torch.float16)
    done = Launch(x, fc1, None, ones, None)
    assert done.fires(4).tolist() == [[True, False, False, True]]
    assert done.z_max.tolist() == [2.0**-25, 0.0, -(2.0**-25), 2.0**-24]
    assert done.residual.item() == 2.0**-24
    by_torch = Launch(x, fc1, None, ones, None, route="torch")
    assert by_torch.fires(4).tolist() == [[False, False, False, True]]
    assert by_torch.z_max.tolist() == [0.0, 0.0, 0.0, 2.0**-24]
    assert torch.equal(by_torch.residual, done.residual)


@each_way
def test_the_first_that_is_not_finite_is_named(way, dtype):
    x, fc1, bias1, fc2, bias2 = lattice(dtype)
    bias1[77] = torch.inf
    x[66, 2] = torch.nan
    done = Launch(x, fc1, bias1, fc2, bias2, **WAYS[way])
    assert int(done.wrong) == 77
    bias1[77] = 0
    done = Launch(x, fc1, bias1, fc2, bias2, **WAYS[way])
    assert int(done.wrong) == 66 * 1104
    # A NaN does not fire.
    assert not done.fires(1104)[66].any()


def test_float16_overflow_is_seen_at_once_by_the_route_of_torch():
    x, fc1 = (torch.full((1, 1), 256, dtype=torch.float16) for _ in range(2))
    assert int(Launch(x, fc1, None, None, None).wrong) == triton_ffn.FINITE
    assert int(Launch(x, fc1, None, None, None, route="torch").wrong) == 0


def test_tensors_that_the_memory_accelerator_cannot_read_are_refused():
    with pytest.raises(ShapeError, match=r"'tma' reads rows .*; x has rows 66 bytes apart"):
        Launch(*lattice(torch.float16, inner=33), cut=TMA)
    x, fc1, bias1, fc2, bias2 = lattice(torch.float16)
    moved = torch.zeros(x.numel() + 1, dtype=x.dtype, device=DEVICE)[1:].view(x.shape)
    with pytest.raises(ShapeError, match=r"x has rows 80 bytes apart, the first 2 bytes beyond"):
        Launch(moved, fc1, bias1, fc2, bias2, cut=TMA)
    with pytest.raises(DTypeError, match=r"for 16-bit elements, x has torch\.float32"):
        Launch(*lattice(torch.float32), cut=TMA)


def test_reduced_sums_are_forbidden_in_the_call_alone(monkeypatch):
    matmul = torch.backends.cuda.matmul
    seen = []
    addmm = torch.addmm

    def look(*arguments, **options):
        seen.append(matmul.allow_bf16_reduced_precision_reduction)
        seen.append(matmul.allow_fp16_reduced_precision_reduction)
        return addmm(*arguments, **options)

    monkeypatch.setattr(torch, "addmm", look)
    before = matmul.allow_bf16_reduced_precision_reduction
    Launch(*lattice(torch.float16, rows=3), route="torch")
    assert seen == [False, False]
    assert matmul.allow_bf16_reduced_precision_reduction == before


@each_way
@pytest.mark.parametrize("neurons", [320, 333])
def test_leaving_out_silent_tiles_changes_no_bit(way, dtype, neurons):
    """Gaussian data; a tile is silent in one block of rows and not in the other, or in both."""
    options = WAYS[way]
    neurons += -neurons % 8 if way == "tma" else 0
    generator = torch.Generator().manual_seed(neurons)
    x, fc1, fc2 = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((130, 40), (neurons, 40), (70, neurons))
    )
    bias1 = torch.zeros(neurons, dtype=dtype)
    bias1[32:96] = -1000
    x[:128, 0], fc1[128:192, 0] = 30, -30
    silent = ((x.float() @ fc1.float().T + bias1.float())[:64, 128:192] <= 0).all()
    assert silent
    every = Launch(x, fc1, bias1, fc2, None, skip=False, **options)
    live = Launch(x, fc1, bias1, fc2, None, **options)
    assert torch.equal(live.residual, every.residual)
    assert torch.equal(live.mask, every.mask)
    # That they are left out is seen by weights that nothing may be multiplied with.
    fc2[:, 32:96] = torch.nan
    poisoned = Launch(x, fc1, bias1, fc2, None, **options)
    if triton_ffn.stored_tiles(x, neurons).block_k == 32:
        assert torch.equal(poisoned.residual, every.residual)
    assert Launch(x, fc1, bias1, fc2, None, skip=False, **options).residual.isnan().all()
