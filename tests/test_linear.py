"""Linear maps by parts of bfloat16: exact on lattices, equal in every bit, errors below torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import inputs
from pyneurons import backends, ops, reference
from pyneurons.errors import DTypeError, NonFiniteError, ShapeError
from pyneurons.panels import SplitPanels

ROWS = (0, 1, 31, 32, 33, 127, 128, 129, 300)
PARTS = {1: torch.bfloat16, 2: torch.float16, 3: torch.float32}
SHAPES = [  # rows, terms, columns
    (1, 1, 1), (5, 40, 33), (33, 33, 32), (131, 300, 7), (40, 800, 65), (7, 1100, 100),
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gaussian(shape, seed, deviation=1.0):
    return deviation * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight_of(parts, columns, terms, seed=1, deviation=0.02):
    return gaussian((columns, terms), seed, deviation).to(PARTS[parts])


def run(x, weight, bias, backend, threads=1):
    guarded = inputs.Guarded((1, len(x) * weight.shape[0]), np.float32, np.nan)
    out = torch.from_numpy(guarded.view[0]).view(len(x), weight.shape[0])
    ops.linear(x, weight, bias, out, backend=backend, threads=threads)
    assert guarded.intact()
    return out


def same_bits(found, expected):
    """Signs of zeros included; NaNs are all the same."""
    return bool(
        (
            (found.view(torch.int32) == expected.view(torch.int32))
            | (found.isnan() & expected.isnan())
        ).all()
    )


@pytest.mark.parametrize("parts", PARTS)
def test_equals_plain_loops(backend, parts):
    x = torch.from_numpy(inputs.lattice((4, 5), 0)) * (257 if parts < 3 else 1)
    step = {1: 3, 2: 2**8 + 1, 3: 2**18 + 2**9 + 1}[parts]
    weight = torch.from_numpy(inputs.lattice((3, 5), 1, 1)) * step
    bias = torch.from_numpy(inputs.lattice((3,), 2))
    split = SplitPanels.of(weight)
    assert len(split.parts) == parts
    found = run(x, split, bias, backend).tolist()
    for row in range(4):
        for column in range(3):
            terms = (float(x[row, k]) * float(weight[column, k]) for k in range(5))
            assert found[row][column] == sum(terms) + float(bias[column])


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("rows", ROWS)
def test_any_number_of_rows(backend, rows, parts):
    check_lattice(backend, parts, rows, 40, 33)


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 65])
@pytest.mark.parametrize("terms", [1, 31, 32, 33, 255, 256, 257, 800, 1100])
def test_any_shape(cpp_backend, terms, columns):
    check_lattice(cpp_backend, 2, 37, terms, columns)


def check_lattice(backend, parts, rows, terms, columns):
    """Sums below 2^24 of products of at most 22 bits: exact, many of them 0."""
    scale = {1: 1, 2: 1 + 2.0**-8, 3: 1 + 2.0**-9 + 2.0**-17}[parts]
    x = torch.from_numpy(inputs.lattice((rows, terms), 3, 1))
    weight = torch.from_numpy(inputs.lattice((columns, terms), 4, 1)) * scale
    bias = torch.from_numpy(inputs.lattice((columns,), 5)) * scale
    expected = (x.double() @ weight.double().T + bias.double()).float()
    if expected.numel() > 1000:
        assert (expected == 0).sum() > 10
    split = SplitPanels.of(weight)
    assert len(split.parts) == parts
    found = run(x, split, bias, backend)
    assert torch.equal(found, expected)
    assert not torch.signbit(found)[expected == 0].any()


def test_parts_of_x_are_exact(backend):
    """Times 1, with nothing beside it, every finite float32 from 2^-103 on comes back."""
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint32)
    edges = [0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F8000, 0x00000000, 0x80000000, 0x3F800001, 0x0C000001]
    x = torch.from_numpy(np.concatenate([bits, np.array(edges, np.uint32)]).view(np.float32))
    x = x[x.isfinite() & ((x == 0) | (x.abs() >= 2.0**-103))][:, None].contiguous()
    found = run(x, SplitPanels.of(torch.ones(1, 1)), None, backend)
    assert torch.equal(found, x)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_data_give_the_reference_s_bits(backend, shape, parts):
    rows, terms, columns = shape
    x = gaussian((rows, terms), 2)
    weight = SplitPanels.of(weight_of(parts, columns, terms))
    bias = gaussian((columns,), 3)
    expected = torch.empty(rows, columns)
    reference.linear(x, weight, bias, expected)
    for threads in (1, 3):
        assert same_bits(run(x, weight, bias, backend, threads), expected)


@pytest.mark.parametrize("magnitude", [1e-42, 1e-38, 1e-36, 1e-30, 1e-19, 1e15, 1e36])
@pytest.mark.parametrize("other", [1e-40, 1e-37, 1e-19, 1e-3, 1e3])
def test_any_magnitude_gives_the_reference_s_bits(backend, magnitude, other):
    """Denormal factors, parts, products and sums count as 0, or the sum is fused; overflow stays."""
    x = gaussian((9, 300), 5).exp() * gaussian((9, 300), 6) * magnitude
    weight = SplitPanels.of(gaussian((35, 300), 7, other))
    expected = torch.empty(9, 35)
    reference.linear(x, weight, None, expected)
    assert same_bits(run(x, weight, None, backend), expected)


def test_denormals_are_0(backend):
    x = torch.tensor([[2.0**-127, 1.0], [-(2.0**-149), 1.0], [2.0**-126, 1.0]])
    weight = SplitPanels.of(torch.tensor([[2.0**100, 1.0], [1.0, 0.0], [2.0**100, 2.0**-127]]))
    one, tiny = 1.0, 2.0**-126
    expected = [[one, 0, 0], [one, 0, 0], [one + 2.0**-26, tiny, 2.0**-26]]
    assert run(x, weight, None, backend).tolist() == torch.tensor(expected).tolist()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row(backend, value):
    x = gaussian((40, 50), 8)
    weight = SplitPanels.of(weight_of(2, 70, 50))
    clean = run(x, weight, None, backend)
    x[33, 49] = value
    found = run(x, weight, None, backend)
    assert not found[33].isfinite().any()
    others = torch.arange(40) != 33
    assert torch.equal(found[others], clean[others])


def test_a_nan_of_low_bits_is_not_lost(backend):
    """Its leading 16 bits are those of an infinity."""
    x = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)[None]
    assert run(x, SplitPanels.of(torch.ones(1, 1)), None, backend).isnan().all()


def test_a_bias_that_is_not_finite_stays_in_its_column(backend):
    bias = torch.zeros(40)
    bias[37] = torch.nan
    found = run(gaussian((3, 20), 9), SplitPanels.of(weight_of(2, 40, 20)), bias, backend)
    assert found.isnan().any(dim=0).nonzero().flatten().tolist() == [37]


def test_rows_do_not_depend_on_their_company(cpp_backend):
    x = gaussian((300, 270), 10)
    weight = SplitPanels.of(weight_of(2, 40, 270))
    whole = run(x, weight, None, cpp_backend)
    for cuts in ([1, 299], [128, 172], [100, 31, 169]):
        parts = [run(part.clone(), weight, None, cpp_backend) for part in x.split(cuts)]
        assert torch.equal(torch.cat(parts), whole)


# --- errors ---------------------------------------------------------------------------------------


def data(kind, shape, seed):
    x = gaussian(shape, seed)
    spread = torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1))
    match kind:
        case "heavy":
            return x / (spread + 1e-3) ** 0.7
        case "sparse":  # what fc2 reads: 1 in 20 is not 0
            return (x - 1.645).clamp(min=0)
        case "outliers":
            x[:, ::97] *= 30
            return x + 0.5
    return x


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("kind", ["gaussian", "heavy", "sparse", "outliers"])
@pytest.mark.parametrize("terms", [768, 2048, 3072, 8192])
def test_errors_are_at_most_torch_s(parts, kind, terms):
    """Root mean square against float64; the backends give equal bits, so the best one stands."""
    x = data(kind, (128, terms), 20)
    weight = data("heavy" if kind == "heavy" else "gaussian", (96, terms), 30).mul(0.02)
    weight = weight.to(PARTS[parts])
    truth = x.double() @ weight.double().T
    found = run(x, SplitPanels.of(weight), None, "cpp")
    ours, torchs = (
        (y.double() - truth).square().mean().sqrt() for y in (found, x @ weight.float().T)
    )
    assert ours <= torchs
    if kind != "sparse":
        assert ours <= 0.5 * torchs


# --- weights in parts -----------------------------------------------------------------------------


def test_every_float16_is_two_parts():
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    every = every[every.isfinite()][:, None]
    split = SplitPanels.of(every)
    assert len(split.parts) == 2
    assert torch.equal(split.weight(), every.float())
    tiny = torch.finfo(torch.float32).tiny
    for part in split.parts:  # no part is a denormal, that a product would take for 0
        values = part.weight().float().abs()
        assert ((values == 0) | (values >= tiny)).all()


@pytest.mark.parametrize("parts", PARTS)
def test_as_few_parts_as_are_exact(parts):
    weight = weight_of(parts, 70, 45)
    split = SplitPanels.of(weight)
    assert len(split.parts) == parts
    assert split.shape == (70, 45)
    assert split.dtype == torch.float32
    assert torch.equal(split.weight(), weight.float())
    assert len(SplitPanels.of(torch.zeros(3, 4)).parts) == 1


def test_a_weight_is_split_block_by_block():
    """1,024 columns at a time; the second block needs more parts than the first."""
    weight = torch.cat([weight_of(1, 1024, 33).float(), weight_of(3, 40, 33, 2)])
    split = SplitPanels.of(weight)
    assert len(split.parts) == 3
    assert torch.equal(split.weight(), weight)
    weight[1030, 5] = torch.nan
    with pytest.raises(NonFiniteError, match=r"weight\[1030, 5\] is nan"):
        SplitPanels.of(weight)


def test_the_largest_weights_have_finite_parts():
    largest = torch.finfo(torch.float32).max
    weight = torch.tensor([[largest, -largest, 3.3961775e38]])
    assert torch.equal(SplitPanels.of(weight).weight(), weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(dtype, value):
    weight = torch.ones(40, 50, dtype=dtype)
    weight[33, 7] = value
    with pytest.raises(NonFiniteError, match=rf"fc2.weight\[33, 7\] is {value}, expected a finite"):
        SplitPanels.of(weight, "fc2.weight")


def test_weights_that_are_no_matrix_are_refused():
    with pytest.raises(DTypeError, match=r"dtype is torch.int32, expected torch.float32"):
        SplitPanels.of(torch.ones(2, 2, dtype=torch.int32))
    with pytest.raises(ShapeError, match=r"shape is \[50\], expected two axes"):
        SplitPanels.of(torch.ones(50))


# --- the feed-forward block and torch as a backend ------------------------------------------------


def ffn(x, fc1, bias1, fc2, bias2, backend):
    residual = torch.zeros(len(x), fc2.shape[0])
    mask = np.zeros((1, len(x), -(-fc1.shape[0] // 32)), dtype=np.uint32)
    z_max = torch.full((fc1.shape[0],), -torch.inf)
    ops.ffn(x, fc1, bias1, fc2, bias2, residual, mask, z_max, backend=backend)
    return residual, mask, z_max


def test_the_feed_forward_block_takes_parts(backend):
    x, bias1, bias2 = gaussian((300, 90), 40), gaussian((100,), 41), gaussian((20,), 42)
    fc1, fc2 = weight_of(2, 100, 90, 43), weight_of(2, 20, 100, 44)
    residual, mask, z_max = ffn(x, SplitPanels.of(fc1), bias1, SplitPanels.of(fc2), bias2, backend)
    if backend == "reference":  # float64 throughout
        expected = ffn(x, fc1.float(), bias1, fc2.float(), bias2, backend)
        z = x.double() @ fc1.double().T + bias1
        assert torch.equal(z_max, z.amax(dim=0).float())
        assert torch.equal(residual, expected[0])
    else:
        z = run(x, SplitPanels.of(fc1), bias1, backend)
        assert torch.equal(z_max, z.amax(dim=0))
        assert torch.equal(residual, run(z.relu(), SplitPanels.of(fc2), bias2, backend))
    assert np.array_equal(reference.unpack(mask[0], 100), (z > 0).numpy())


def test_torch_as_a_backend_multiplies_by_torch():
    x, weight, bias = gaussian((20, 60), 50), weight_of(2, 33, 60), gaussian((33,), 51)
    found = run(x, SplitPanels.of(weight), bias, "torch")
    assert torch.equal(found, torch.addmm(bias, x, weight.float().T))
    assert backends.resolve("torch").float32_products == "torch"
    with pytest.raises(backends.BackendUnavailable, match="multiplies float32 only"):
        ffn(x.bfloat16(), weight.bfloat16(), None, weight.T.bfloat16().contiguous(), None, "torch")
    qkv, out = (torch.zeros(4, width, dtype=torch.bfloat16) for width in (12, 4))
    with pytest.raises(backends.BackendUnavailable, match="multiplies float32 only"):
        ops.attention(qkv, np.array([0, 4]), 1, out, backend="torch")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 20, dtype=torch.float64)}, DTypeError, "expected float32"),
        ({"x": torch.zeros(4, 21)}, ShapeError, "K of x"),
        ({"weight": torch.zeros(8, 20)}, DTypeError, "weight is a Tensor, expected Panels or"),
        ({"bias": torch.zeros(7)}, ShapeError, "N of weight"),
        ({"bias": torch.zeros(8).half()}, DTypeError, "expected float32"),
        ({"out": torch.zeros(4, 9)}, ShapeError, "M of x, N of weight"),
        ({"out": torch.zeros(5, 8)}, ShapeError, "M of x, N of weight"),
        ({"threads": 0}, ShapeError, "threads"),
    ],
)
def test_what_is_refused(backend, change, error, message):
    arguments = {"x": torch.ones(4, 20), "weight": SplitPanels.of(torch.ones(8, 20)), "bias": None}
    arguments |= {"out": torch.full((4, 8), 7.0), "threads": 1} | change
    before = arguments["out"].clone()
    with pytest.raises(error, match=message):
        ops.linear(**arguments, backend=backend)
    assert torch.equal(arguments["out"], before)


def test_an_output_that_overlaps_is_refused(backend):
    both = torch.zeros(4, 8)
    with pytest.raises(ShapeError, match="out overlaps x"):
        ops.linear(both, SplitPanels.of(torch.ones(8, 8)), None, both, backend=backend)
