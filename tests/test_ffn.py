from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import inputs
from pyneurons import _core, ops, reference
from pyneurons.backends import cpp
from pyneurons.errors import DTypeError, NonFiniteError, ShapeError
from pyneurons.panels import Panels

pytestmark = pytest.mark.also_on("triton")

DTYPES = (torch.float32, torch.bfloat16)
ROWS = (0, 1, 3, cpp.FFN_ROWS - 1, cpp.FFN_ROWS, cpp.FFN_ROWS + 1, 2 * cpp.FFN_ROWS + 5)
POISON = 0xDEADBEEF


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    """As in the engine; and several would wait for one another on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block:
    """One feed-forward block and its outputs, poisoned."""

    def __init__(self, rows, inner, neurons, outer, dtype, *, seed=0, lattice=True, biases=True):
        if lattice:
            self.x = torch.from_numpy(inputs.lattice((rows, inner), seed, 2)).to(dtype)
            self.fc1 = torch.from_numpy(inputs.lattice((neurons, inner), seed + 1, 1)).to(dtype)
            self.bias1 = torch.from_numpy(inputs.lattice((neurons,), seed + 2)).to(dtype)
            self.fc2 = torch.from_numpy(inputs.lattice((outer, neurons), seed + 3, 2)).to(dtype)
            self.bias2 = torch.from_numpy(inputs.lattice((outer,), seed + 4)).to(dtype)
        else:
            generator = torch.Generator().manual_seed(seed)
            self.x, self.fc1, self.bias1, self.fc2, self.bias2 = (
                torch.randn(shape, generator=generator).to(dtype)
                for shape in ((rows, inner), (neurons, inner), neurons, (outer, neurons), outer)
            )
        if not biases:
            self.bias1 = self.bias2 = None
        self.neurons = neurons
        strips, strip_words = ops.strip_shape(neurons)
        self.residual = torch.arange(rows * outer, dtype=torch.float32).reshape(rows, outer)
        self.mask = inputs.Guarded((strips, rows, strip_words), np.uint32, POISON)
        self.z_max = torch.full((neurons,), -torch.inf)

    def run(self, backend, threads=1, fc2=True):
        ops.ffn(
            self.x,
            self.fc1,
            self.bias1,
            self.fc2 if fc2 else None,
            self.bias2 if fc2 else None,
            self.residual,
            self.mask.view,
            self.z_max,
            backend=backend,
            threads=threads,
        )
        assert self.mask.intact()
        return self

    def fires(self):
        """Who fires according to the mask, and that the bits past F are zero."""
        strips, rows, strip_words = self.mask.view.shape
        flat = self.mask.view.transpose(1, 0, 2).reshape(rows, strips * strip_words)
        everything = reference.unpack(flat, 32 * strips * strip_words)
        assert not everything[:, self.neurons :].any()
        return everything[:, : self.neurons]

    def exact_z(self):
        z = self.x.double() @ self.fc1.double().T
        return z if self.bias1 is None else z + self.bias1.double()

    def exact_y(self):
        y = self.exact_z().clamp(min=0) @ self.fc2.double().T
        return y if self.bias2 is None else y + self.bias2.double()


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_plain_loops(backend, dtype):
    block = Block(5, 4, 6, 3, dtype).run(backend)
    x, fc1, bias1 = block.x.tolist(), block.fc1.tolist(), block.bias1.tolist()
    fc2, bias2 = block.fc2.tolist(), block.bias2.tolist()
    most = [-np.inf] * 6
    for row in range(5):
        z = [sum(x[row][d] * fc1[f][d] for d in range(4)) + bias1[f] for f in range(6)]
        most = [max(a, b) for a, b in zip(most, z, strict=True)]
        word = sum(2**f for f in range(6) if z[f] > 0)
        assert block.mask.view[0, row, 0] == word
        for d in range(3):
            y = sum(max(z[f], 0) * fc2[d][f] for f in range(6)) + bias2[d]
            assert block.residual[row, d] == row * 3 + d + y
    assert block.z_max.tolist() == most


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_any_number_of_rows(backend, dtype, rows):
    check_lattice(Block(rows, 20, 100, 12, dtype), backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("neurons", inputs.NEURONS)
def test_any_number_of_neurons(backend, dtype, neurons):
    check_lattice(Block(37, 16, neurons, 9, dtype), backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [1, 7, 64])
def test_any_width_without_biases(backend, dtype, inner):
    check_lattice(Block(70, inner, 65, 5, dtype, biases=False), backend)


def check_lattice(block, backend):
    z = block.exact_z()
    start = block.residual.clone()
    block.run(backend)
    if z.numel() > 1000:
        assert (z == 0).sum() > 10  # what tells > from >=
    assert np.array_equal(block.fires(), (z > 0).numpy())
    if len(z):
        assert torch.equal(block.z_max, z.amax(dim=0).float())
    # The sums are exact, and nothing is rounded behind them.
    assert torch.equal(block.residual, start + block.exact_y().float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_maximum_and_residual_accumulate(backend, dtype):
    block = Block(40, 8, 50, 6, dtype)
    z, y = block.exact_z(), block.exact_y().float().to(dtype)
    start = block.residual.clone()
    block.z_max[:25] = 1000.0
    block.run(backend)
    assert torch.all(block.z_max[:25] == 1000.0)
    assert torch.equal(block.z_max[25:], z.amax(dim=0).float()[25:])
    block.run(backend)
    assert torch.equal(block.residual, start + y + y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_second_layer_the_residual_stays(backend, dtype):
    block = Block(30, 8, 70, 6, dtype)
    start = block.residual.clone()
    block.run(backend, fc2=False)
    assert torch.equal(block.residual, start)
    assert np.array_equal(block.fires(), (block.exact_z() > 0).numpy())


@pytest.mark.not_on("triton")  # it has a smaller one of its own: these take 8 s in the interpreter
@pytest.mark.parametrize("rows", [1, 7, cpp.FFN_ROWS, cpp.FFN_ROWS + 3])
@pytest.mark.parametrize("inner", [2, 16, 33, 192, 768])
@pytest.mark.parametrize("neurons", [1, 5, 32, 100])
def test_bias_is_added_before_rounding(backend, rows, inner, neurons):
    """256 + 1 is 257, which bfloat16 rounds to 256: with the bias -256 outside the sum, 0."""
    block = Block(rows, inner, neurons, 4, torch.bfloat16)
    block.x.zero_()
    block.x[:, 0] = 256
    block.x[:, -1] = 1
    block.fc1.fill_(1)
    block.bias1.fill_(-256)
    block.run(backend)
    assert block.fires().all()
    assert torch.all(block.z_max == 1)


def test_only_the_last_strip_is_padded(backend):
    block = Block(5, 4, 1100, 3, torch.float32).run(backend)
    assert block.mask.view.shape == (2, 5, 32)
    assert not block.mask.view[1, :, 3:].any()


def test_strips_may_lie_apart(backend):
    """A micro-batch writes its rows of the layer's mask, and no others."""
    block = Block(10, 4, 1100, 3, torch.float32)
    layer = np.full((2, 50, 32), POISON, dtype=np.uint32)
    ops.ffn(
        block.x,
        block.fc1,
        block.bias1,
        None,
        None,
        block.residual,
        layer[:, 20:30],
        block.z_max,
        backend=backend,
    )
    block.run(backend)
    assert np.array_equal(layer[:, 20:30], block.mask.view)
    assert np.all(layer[:, :20] == POISON)
    assert np.all(layer[:, 30:] == POISON)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("row", "neuron"), [(0, 0), (3, 40), (cpp.FFN_ROWS + 2, 99)])
def test_sums_that_overflow_are_named(backend, dtype, sign, row, neuron):
    block = Block(cpp.FFN_ROWS + 4, 4, 100, 3, dtype)
    block.x[:, 0] = 0
    block.x[row:, 0] = 3e38
    block.fc1[:, 0] = 0
    block.fc1[neuron:, 0] = sign * 3e38
    with pytest.raises(NonFiniteError, match=f"neuron {neuron} on row {row} is not finite"):
        block.run(backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_inputs_and_weights_are_named(backend, dtype, value):
    block = Block(9, 4, 100, 3, dtype)
    block.x[6, 2] = value
    with pytest.raises(NonFiniteError, match="on row 6 is not finite"):
        block.run(backend)
    block = Block(9, 4, 100, 3, dtype)
    block.bias1[77] = value
    with pytest.raises(NonFiniteError, match="neuron 77 on row 0 is not finite"):
        block.run(backend)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_their_company(cpp_backend, dtype):
    """Gaussian data: wherever a row lies and however the rows are cut, every bit is the same."""
    rows = cpp.FFN_ROWS + 70
    whole = Block(rows, 48, 200, 40, dtype, lattice=False)
    whole.residual.zero_()
    x = whole.x
    whole.run(cpp_backend)
    for cuts in ([1, rows - 1], [100, 200, rows - 300], [rows - 1, 1]):
        residual, fires, most = [], [], torch.full((200,), -torch.inf)
        start = 0
        for length in cuts:
            part = Block(length, 48, 200, 40, dtype, lattice=False)
            part.fc1, part.bias1, part.fc2, part.bias2 = (
                whole.fc1,
                whole.bias1,
                whole.fc2,
                whole.bias2,
            )
            part.x = x[start : start + length].clone()
            part.residual.zero_()
            part.run(cpp_backend)
            residual.append(part.residual)
            fires.append(part.fires())
            most = torch.maximum(most, part.z_max)
            start += length
        assert torch.equal(torch.cat(residual), whole.residual)
        assert np.array_equal(np.concatenate(fires), whole.fires())
        assert torch.equal(most, whole.z_max)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_for_any_number_of_threads(cpp_backend, dtype):
    one = Block(300, 24, 1100, 8, dtype, lattice=False).run(cpp_backend)
    for threads in (2, 3):
        many = Block(300, 24, 1100, 8, dtype, lattice=False).run(cpp_backend, threads)
        assert np.array_equal(many.mask.view, one.mask.view)
        assert torch.equal(many.z_max, one.z_max)
        assert torch.equal(many.residual, one.residual)


def test_several_callers_at_once(cpp_backend):
    """The engine runs micro-batches on Python threads: no call may see another's workspace."""
    alone = [
        Block(300, 24, 200, 8, torch.float32, seed=10 * seed, lattice=False).run(cpp_backend)
        for seed in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = [
                Block(300, 24, 200, 8, torch.float32, seed=10 * seed, lattice=False)
                for seed in range(4)
            ]
            list(pool.map(lambda block: block.run(cpp_backend), together))
            for one, other in zip(alone, together, strict=True):
                assert np.array_equal(one.mask.view, other.mask.view)
                assert torch.equal(one.residual, other.residual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_that_of_torch(cpp_backend, dtype):
    """Gaussian data: signs are right wherever rounding cannot turn them, errors are torch's own."""
    block = Block(200, 96, 150, 64, dtype, lattice=False)
    block.residual.zero_()
    z, y = block.exact_z(), block.exact_y()
    block.run(cpp_backend)
    # (D + 1) roundings of 2**-24 in the sum of absolute values.
    reach = block.x.double().abs() @ block.fc1.double().abs().T + block.bias1.double().abs()
    clear = z.abs() > 97 * 2.0**-24 / (1 - 97 * 2.0**-24) * reach
    assert clear.double().mean() > 0.99
    assert np.array_equal(block.fires()[clear.numpy()], (z > 0).numpy()[clear.numpy()])
    plain = torch.nn.functional.linear(
        torch.nn.functional.linear(block.x, block.fc1, block.bias1).relu(), block.fc2, block.bias2
    )
    own = (block.residual.double() - y).abs().max()
    torchs = (plain.double() - y).abs().max()
    assert own <= 2 * torchs + torch.finfo(dtype).eps * y.abs().max()


# --- bfloat16: the order of sums ------------------------------------------------------------------


@pytest.mark.not_on("triton")  # whose sums have the order of a tensor core
@pytest.mark.parametrize(
    ("rows", "inner", "neurons", "outer"),
    [(1, 1, 1, 1), (5, 40, 33, 7), (97, 64, 160, 136), (200, 33, 96, 32), (3, 32, 2100, 160)],
)
@pytest.mark.parametrize("shift", [0.0, -1.7, -2.6, -9.0], ids=["half", "few", "hardly", "none"])
def test_gaussian_data_give_the_reference_s_bits(backend, rows, inner, neurons, outer, shift):
    """In the backend's own order of sums; whether fc2 reads all neurons or those that fire."""
    block = Block(rows, inner, neurons, outer, torch.bfloat16, seed=3, lattice=False)
    block.bias1 += shift * inner**0.5
    expected = Block(rows, inner, neurons, outer, torch.bfloat16, seed=3, lattice=False)
    reference.ffn(
        block.x,
        block.fc1,
        block.bias1,
        block.fc2,
        block.bias2,
        expected.residual,
        expected.mask.view,
        expected.z_max,
        sums=inputs.sums(backend),
    )
    for threads in (1, 3):
        found = Block(rows, inner, neurons, outer, torch.bfloat16, seed=3, lattice=False)
        found.bias1 = block.bias1
        found.run(backend, threads)
        assert np.array_equal(found.mask.view, expected.mask.view)
        assert torch.equal(found.z_max, expected.z_max)
        assert torch.equal(found.residual, expected.residual)


SILENT = {
    "first half": lambda panel: panel < 12,
    "second half": lambda panel: 12 <= panel < 24,
    "every other": lambda panel: panel % 2 == 0,
    "all but one": lambda panel: panel != 13,
    "by rows": lambda _: False,
}


@pytest.mark.not_on("triton")  # whose sums have the order of a tensor core
@pytest.mark.parametrize("neurons", [768, 800])
@pytest.mark.parametrize("rows", [20, 70])
@pytest.mark.parametrize("silent", SILENT)
def test_silent_panels_are_left_out_of_sums_in_parts(backend, silent, rows, neurons):
    """Sums of 17 chunks and more are made in two parts, of which either may have nothing to add."""
    inner, outer = 530, 40
    block = Block(rows, inner, neurons, outer, torch.bfloat16, seed=5, lattice=False)
    block.bias1[[SILENT[silent](neuron // 32) for neuron in range(neurons)]] = -1000
    if silent == "by rows":
        block.x[32:64, 0] = 0
        block.x[:32, 0] = block.x[64:, 0] = -32
        block.fc1[:384, 0] = 32
    expected = Block(rows, inner, neurons, outer, torch.bfloat16, seed=5, lattice=False)
    reference.ffn(
        block.x,
        block.fc1,
        block.bias1,
        block.fc2,
        block.bias2,
        expected.residual,
        expected.mask.view,
        expected.z_max,
        sums=inputs.sums(backend),
    )
    block.run(backend)
    assert np.array_equal(block.mask.view, expected.mask.view)
    assert torch.equal(block.z_max, expected.z_max)
    assert torch.equal(block.residual, expected.residual)


def test_orders_of_sums_differ():
    """Else the test above could not tell them apart."""
    blocks = []
    for sums in (reference.paired_sum, reference.chained_sum):
        block = Block(20, 96, 40, 30, torch.bfloat16, lattice=False)
        reference.ffn(
            block.x, block.fc1, None, block.fc2, None, block.residual, block.mask.view,
            block.z_max, sums=sums,
        )  # fmt: skip
        blocks.append(block)
    assert not torch.equal(blocks[0].z_max, blocks[1].z_max)
    assert not torch.equal(blocks[0].residual, blocks[1].residual)


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (33, 31), (70, 100)])
def test_panels(shape):
    weight = torch.randn(shape).bfloat16()
    panels = Panels.of(weight)
    assert panels.shape == shape
    assert torch.equal(panels.weight(), weight)
    laid_out = panels.data.view(-(-shape[0] // 32), -(-shape[1] // 32) * 16, 32, 2)
    for column in range(shape[0]):
        for term in range(shape[1]):
            assert laid_out[column // 32, term // 2, column % 32, term % 2] == weight[column, term]
    assert panels.data.count_nonzero() == weight.count_nonzero()


@pytest.mark.parametrize("shape", [(5, 7), (1024, 3), (1025, 33), (2100, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_panels_are_rounded_by_parts(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """The same as of a rounded whole; the message names the row of the whole."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    panels = Panels.rounded(weight)
    assert panels.shape == shape
    assert torch.equal(panels.data, Panels.of(weight.bfloat16()).data)
    assert torch.equal(panels.weight(), weight.bfloat16())
    if shape[0] > 1024:
        weight[1024, 2] = torch.nan
        with pytest.raises(NonFiniteError, match=r"fc1\[1024, 2\] is nan"):
            Panels.rounded(weight, "fc1")


def test_panels_are_taken_for_weights(backend):
    plain = Block(7, 50, 70, 40, torch.bfloat16, lattice=False).run(backend)
    panels = Block(7, 50, 70, 40, torch.bfloat16, lattice=False)
    panels.fc1, panels.fc2 = Panels.of(panels.fc1), Panels.of(panels.fc2)
    panels.run(backend)
    assert np.array_equal(panels.mask.view, plain.mask.view)
    assert torch.equal(panels.residual, plain.residual)
    panels.x = panels.x.float()
    with pytest.raises(DTypeError, match="fc1_weight is a Panels, expected a tensor of float32"):
        panels.run(backend)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_panels_refuse_what_is_not_finite(value):
    weight = torch.ones(40, 50).bfloat16()
    weight[33, 7] = value
    with pytest.raises(NonFiniteError, match=rf"fc2.weight\[33, 7\] is {value}, expected a finite"):
        Panels.of(weight, "fc2.weight")
    with pytest.raises(DTypeError, match=r"dtype is torch.float32, expected torch.bfloat16"):
        Panels.of(weight.float())
    with pytest.raises(ShapeError, match=r"shape is \[50\], expected two axes"):
        Panels.of(weight[0])


# --- the pass over the pre-activations ------------------------------------------------------------


def epilogue(z, isa, threads=1):
    rows, neurons = z.shape
    strips, strip_words = ops.strip_shape(neurons)
    mask = inputs.Guarded((strips, rows, strip_words), np.uint32, POISON)
    z_max = inputs.Guarded((neurons,), np.float32, -np.inf)
    wrong = _core.ffn_epilogue(z, mask.view, z_max.view, isa, threads)
    assert mask.intact()
    assert z_max.intact()
    flat = mask.view.transpose(1, 0, 2).reshape(rows, strips * strip_words)
    return reference.unpack(flat, neurons), z_max.view, wrong


def awkward_floats():
    random = np.random.default_rng(8)
    patterns = random.integers(0, 2**32, 4096, dtype=np.uint32)
    edges = [0, 1, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001]
    edges += [0x7FC00000, 0x7FFFFFFF]
    special = np.array(edges + [edge | 0x80000000 for edge in edges], dtype=np.uint32)
    return random.permutation(np.concatenate([patterns, np.repeat(special, 20)]))


@pytest.mark.parametrize("neurons", [32, 64, 100, 1100])
def test_awkward_floats(cpp_backend, neurons):
    patterns = awkward_floats()
    patterns = patterns[: len(patterns) // neurons * neurons].reshape(-1, neurons)
    value = patterns.view(np.float32)
    z = value.copy()
    fires, z_max, wrong = epilogue(z, cpp_backend.removeprefix("cpp:"))
    with np.errstate(invalid="ignore"):
        expected = value > 0
    assert np.array_equal(fires, expected)
    assert np.array_equal(z.view(np.uint32), np.where(expected, patterns, 0))
    assert wrong == np.flatnonzero(~np.isfinite(value))[0]
    numbers = np.where(np.isnan(value), -np.inf, value)
    assert np.array_equal(z_max, numbers.max(axis=0))


def test_denormals_fire_when_they_are_switched_off(cpp_backend):
    """The test is on bits, so a processor that takes denormals for 0 finds them all the same."""
    z = np.full((2, 40), 1e-42, dtype=np.float32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot switch denormals off")
    try:
        fires, _, wrong = epilogue(z, cpp_backend.removeprefix("cpp:"))
    finally:
        torch.set_flush_denormal(False)
    assert fires.all()
    assert wrong == -1


def test_first_non_finite_of_any_number_of_threads(cpp_backend):
    for threads in (1, 2, 5):
        z = np.zeros((9, 2100), dtype=np.float32)
        z[4, 2099] = np.inf
        z[5, 3] = np.inf
        assert epilogue(z, cpp_backend.removeprefix("cpp:"), threads)[2] == 4 * 2100 + 2099
        z = np.zeros((9, 2100), dtype=np.float32)
        z[4, [1500, 40]] = np.inf
        assert epilogue(z, cpp_backend.removeprefix("cpp:"), threads)[2] == 4 * 2100 + 40
