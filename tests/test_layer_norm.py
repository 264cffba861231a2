"""LayerNorm rounded to bfloat16: equal in every bit on every backend, near the exact one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import inputs
from pyneurons import ops, reference
from pyneurons.errors import DTypeError, ShapeError

EPSILON = 1e-5
SHAPES = [(0, 8), (1, 1), (3, 16), (5, 63), (2, 64), (4, 65), (67, 39), (130, 768), (3, 1000)]


def run(x, weight, bias, backend, threads=1):
    guarded = inputs.Guarded((1, x.numel()), np.uint16, 0x7FC1)
    out = torch.from_numpy(guarded.view[0]).view(torch.bfloat16).view(x.shape)
    ops.layer_norm(x, weight, bias, EPSILON, out, backend=backend, threads=threads)
    assert guarded.intact()
    return out


def bits(tensor):
    return tensor.contiguous().view(torch.int16).numpy()


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
def test_every_backend_gives_the_reference_s_bits(backend, shape, affine):
    x = 3 * gaussian(*shape, seed=shape[1]) + 2
    weight = gaussian(shape[1], seed=1) if affine in ("both", "weight") else None
    bias = gaussian(shape[1], seed=2) if affine in ("both", "bias") else None
    expected = torch.empty(shape, dtype=torch.bfloat16)
    reference.layer_norm(x, weight, bias, EPSILON, expected)
    for threads in (1, 3):
        found = run(x, weight, bias, backend, threads)
        np.testing.assert_array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("shape", [(40, 39), (20, 768), (3, 9216)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_it_is_the_exact_one_rounded(backend, shape, offset):
    """Off by no more than one rounding to bfloat16, and rarely by that much."""
    x = gaussian(*shape, seed=3) + offset
    weight, bias = gaussian(shape[1], seed=4), gaussian(shape[1], seed=5)
    exact = torch.nn.functional.layer_norm(
        x.double(), shape[1:], weight.double(), bias.double(), EPSILON
    )
    found = run(x, weight, bias, backend).double()
    error = (found - exact).abs()
    scale = torch.maximum(exact.abs(), bias.double().abs())
    assert (error <= 2.0**-8 * scale + 2e-7 * offset).all()
    assert (found == exact.bfloat16().double()).float().mean() > 0.99


def test_exact_where_arithmetic_is(backend):
    """Mean 0 and variance 4 - epsilon: 1 / sqrt is 1/2, so that only the last rounding is left."""
    x = torch.tensor([2.0, -2.0] * 40)[None].repeat(3, 1)
    weight = torch.from_numpy(inputs.lattice((80,), 0))
    out = torch.empty(3, 80, dtype=torch.bfloat16)
    ops.layer_norm(x, weight, weight, 2.0**-40, out, backend=backend)
    assert torch.equal(out.float(), x / 2 * weight + weight)


def test_a_row_depends_on_itself_alone(backend):
    x = gaussian(70, 100)
    whole = run(x, None, None, backend)
    for row in (0, 63, 64, 69):
        np.testing.assert_array_equal(
            bits(run(x[row : row + 1], None, None, backend)), bits(whole[row : row + 1])
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_and_spreads_to_no_other_row(backend, value):
    x = gaussian(3, 70)
    x[1, 66] = value
    found = run(x, None, None, backend)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_a_constant_row_is_the_bias(backend):
    bias = gaussian(40)
    found = run(torch.full((2, 40), 7.0), None, bias, backend)
    assert torch.equal(found, bias.bfloat16().expand(2, 40))


def test_arguments_that_do_not_fit_are_refused(backend):
    x, out = gaussian(4, 8), torch.full((4, 8), 3.0, dtype=torch.bfloat16)
    for error, match, arguments in (
        (DTypeError, "x has dtype float64", (x.double(), None, None, EPSILON, out)),
        (DTypeError, "out has dtype float32", (x, None, None, EPSILON, x.clone())),
        (ShapeError, "out has shape", (x, None, None, EPSILON, out[:3])),
        (ShapeError, "weight has shape", (x, x[0, :7].clone(), None, EPSILON, out)),
        (ShapeError, "bias has shape", (x, None, x[0, :7].clone(), EPSILON, out)),
        (ShapeError, "epsilon is 0", (x, None, None, 0, out)),
        (ShapeError, "D of 1 or more", (x[:, :0], None, None, EPSILON, out[:, :0])),
        (ShapeError, "strides", (x[:, ::2], None, None, EPSILON, out[:, :4].contiguous())),
    ):
        with pytest.raises(error, match=match):
            ops.layer_norm(*arguments, backend=backend)
    inside = x.view(-1).view(torch.bfloat16)[:32].view(4, 8)
    with pytest.raises(ShapeError, match="out overlaps x"):
        ops.layer_norm(x, None, None, EPSILON, inside, backend=backend)
    assert (out == 3).all()
