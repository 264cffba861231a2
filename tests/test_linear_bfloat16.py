"""Linear maps in bfloat16: exact on lattices, equal in every bit on every backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import inputs
from pyneurons import ops, reference
from pyneurons.errors import DTypeError, ShapeError
from pyneurons.panels import Panels

SHAPES = [  # rows, terms, columns
    (0, 8, 8), (1, 1, 1), (5, 40, 33), (33, 33, 32), (131, 300, 7), (40, 800, 65), (515, 70, 100),
    (7, 1100, 96),
]  # fmt: skip


def run(x, weight, bias, backend, threads=1):
    guarded = inputs.Guarded((1, len(x) * weight.shape[0]), np.uint16, 0x7FC1)
    out = torch.from_numpy(guarded.view[0]).view(torch.bfloat16).view(len(x), weight.shape[0])
    ops.linear(x, Panels.of(weight), bias, out, backend=backend, threads=threads)
    assert guarded.intact()
    return out


def added(x, weight, bias, residual, backend, threads=1):
    """Return the residual afterwards; it was a view of an array with something on all sides."""
    guarded = inputs.Guarded((1, residual.numel()), np.float32, -7)
    guarded.view[0] = residual.reshape(-1).numpy()
    out = torch.from_numpy(guarded.view[0]).view(residual.shape)
    ops.linear(x, Panels.of(weight), bias, out, backend=backend, threads=threads)
    assert guarded.intact()
    return out


def bits(tensor):
    return tensor.view(torch.int16).numpy()


def gaussian(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_exact_on_lattices(backend, shape, biased):
    """Sums are exact; only the result is rounded, to the nearest with ties to even."""
    rows, terms, columns = shape
    x = torch.from_numpy(inputs.lattice((rows, terms), 0)).bfloat16()
    weight = torch.from_numpy(inputs.lattice((columns, terms), 1)).bfloat16()
    bias = torch.from_numpy(inputs.lattice((columns,), 2)).bfloat16() if biased else None
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0)
    assert torch.equal(run(x, weight, bias, backend), exact.float().bfloat16())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_backend_gives_the_reference_s_bits(backend, shape):
    rows, terms, columns = shape
    x, weight, bias = (
        gaussian((rows, terms), 3),
        gaussian((columns, terms), 4),
        gaussian(columns, 5),
    )
    expected = torch.empty(rows, columns, dtype=torch.bfloat16)
    reference.linear(x, Panels.of(weight), bias, expected, inputs.sums(backend))
    for threads in (1, 3):
        found = run(x, weight, bias, backend, threads)
        np.testing.assert_array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_added_to_a_residual_stream_nothing_is_rounded_on_lattices(backend, shape, biased):
    rows, terms, columns = shape
    x = torch.from_numpy(inputs.lattice((rows, terms), 0)).bfloat16()
    weight = torch.from_numpy(inputs.lattice((columns, terms), 1)).bfloat16()
    bias = torch.from_numpy(inputs.lattice((columns,), 2)).bfloat16() if biased else None
    residual = torch.from_numpy(1000 * inputs.lattice((rows, columns), 3)).float()
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0) + residual.double()
    assert torch.equal(added(x, weight, bias, residual, backend).double(), exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_backend_adds_the_reference_s_bits(backend, shape):
    rows, terms, columns = shape
    x, weight, bias = (
        gaussian((rows, terms), 3),
        gaussian((columns, terms), 4),
        gaussian(columns, 5),
    )
    residual = torch.randn(rows, columns, generator=torch.Generator().manual_seed(6))
    expected = residual.clone()
    reference.linear(x, Panels.of(weight), bias, expected, inputs.sums(backend))
    for threads in (1, 3):
        found = added(x, weight, bias, residual, backend, threads)
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


@pytest.mark.parametrize("shape", [(70, 40, 33), (33, 530, 96)], ids=str)
def test_rows_may_lie_apart(backend, shape):
    """And what lies between them stays as it is."""
    rows, terms, columns = shape
    x, weight = gaussian((rows, terms), 3), gaussian((columns, terms), 4)
    expected = run(x, weight, None, backend)
    wide = torch.full((rows, terms + 7), float("nan"), dtype=torch.bfloat16)
    wide[:, :terms] = x
    out = torch.full((rows, columns + 5), -1.0, dtype=torch.bfloat16)
    ops.linear(wide[:, :terms], Panels.of(weight), None, out[:, :columns], backend=backend)
    np.testing.assert_array_equal(bits(out[:, :columns].contiguous()), bits(expected))
    assert (out[:, columns:] == -1).all()


def test_a_row_depends_on_itself_alone(backend):
    x, weight = gaussian((600, 100), 6), gaussian((70, 100), 7)
    together = run(x, weight, None, backend)
    for row in (0, 31, 511, 599):
        alone = run(x[row : row + 1].clone(), weight, None, backend)
        np.testing.assert_array_equal(bits(alone[0]), bits(together[row]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(backend, value):
    x, weight = gaussian((40, 50), 10), gaussian((33, 50), 11)
    x[7, 3] = value
    out = run(x, weight, None, backend)
    assert not out[7].isfinite().any()
    assert out[:7].isfinite().all()
    assert out[8:].isfinite().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(5, 8)}, DTypeError, "expected bfloat16"),
        ({"out": torch.zeros(5, 6).double()}, DTypeError, "expected bfloat16 or float32"),
        ({"bias": torch.zeros(6)}, DTypeError, "expected bfloat16"),
        ({"x": torch.zeros(5, 9, dtype=torch.bfloat16)}, ShapeError, "K of x"),
        ({"out": torch.zeros(5, 7, dtype=torch.bfloat16)}, ShapeError, "N of weight"),
        ({"weight": torch.zeros(6, 8)}, DTypeError, "expected Panels or SplitPanels"),
        ({"x": torch.zeros(8, 5, dtype=torch.bfloat16).T}, ShapeError, "x has strides"),
        ({"out": torch.zeros(6, 5, dtype=torch.bfloat16).T}, ShapeError, "out has strides"),
    ],
)
def test_what_is_refused(backend, change, error, message):
    arguments = {
        "x": torch.zeros(5, 8, dtype=torch.bfloat16),
        "weight": Panels.of(torch.zeros(6, 8, dtype=torch.bfloat16)),
        "bias": None,
        "out": torch.ones(5, 6, dtype=torch.bfloat16),
    } | change
    with pytest.raises(error, match=message):
        ops.linear(**arguments, backend=backend)
