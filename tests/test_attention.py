"""Attention: one body over all backends, equal in every bit; close to torch in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import inputs
from pyneurons import ops, reference
from pyneurons.errors import DTypeError, ShapeError


def made(rows: int, width: int, seed: int = 0, deviation: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (deviation * torch.randn(rows, 3 * width, generator=generator)).bfloat16()


def bounds(*lengths: int) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def run(qkv: torch.Tensor, starts: np.ndarray, heads: int, backend: str, **options: int):
    out = torch.full((len(qkv), qkv.shape[1] // 3), float("nan"), dtype=torch.bfloat16)
    ops.attention(qkv, starts, heads, out, backend=backend, **options)
    return out


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy()


def truth(qkv: torch.Tensor, starts: np.ndarray, heads: int, backend: str) -> torch.Tensor:
    """Return what the reference says, in the order of sums of a backend."""
    out = torch.full((len(qkv), qkv.shape[1] // 3), float("nan"), dtype=torch.bfloat16)
    reference.attention(qkv, starts, heads, out, inputs.sums(backend))
    assert not out.isnan().any()
    return out


def exact(qkv: torch.Tensor, starts: np.ndarray, heads: int) -> torch.Tensor:
    """Softmax of all scores at once, in float64."""
    parts = []
    for first, last in itertools.pairwise(starts.tolist()):
        q, k, v = (
            part.unflatten(1, (heads, -1)).transpose(0, 1).double()
            for part in qkv[first:last].chunk(3, dim=1)
        )
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
        parts.append((weights @ v).transpose(0, 1).flatten(1))
    return torch.cat(parts)


CASES = [
    # lengths, heads, head size
    ((1,), 1, 1),
    ((63, 64, 65), 2, 32),
    ((5, 200, 1, 130), 3, 8),
    ((70, 3), 1, 80),
    ((129,), 2, 64),
    ((66,), 1, 128),
    ((300, 31), 1, 64),
    ((170,), 1, 130),
]


@pytest.mark.parametrize(("lengths", "heads", "size"), CASES)
@pytest.mark.parametrize("deviation", [1.0, 6.0])
def test_every_backend_gives_the_reference_s_bits(
    backend: str, lengths: tuple[int, ...], heads: int, size: int, deviation: float
) -> None:
    starts = bounds(*lengths)
    qkv = made(int(starts[-1]), heads * size, deviation=deviation)
    expected = truth(qkv, starts, heads, backend)
    for threads in (1, 3):
        found = run(qkv, starts, heads, backend, threads=threads)
        np.testing.assert_array_equal(bits(found), bits(expected))


def test_rows_may_lie_apart(backend: str) -> None:
    """And what lies between them stays as it is."""
    starts = bounds(70, 3)
    qkv = made(73, 64)
    expected = run(qkv, starts, 2, backend)
    wide = torch.full((73, 3 * 64 + 9), float("nan"), dtype=torch.bfloat16)
    wide[:, : 3 * 64] = qkv
    out = torch.full((73, 64 + 5), -1.0, dtype=torch.bfloat16)
    ops.attention(wide[:, : 3 * 64], starts, 2, out[:, :64], backend=backend)
    np.testing.assert_array_equal(bits(out[:, :64].contiguous()), bits(expected))
    assert (out[:, 64:] == -1).all()


@pytest.mark.parametrize(("lengths", "heads", "size"), CASES)
def test_close_to_float64(backend: str, lengths: tuple[int, ...], heads: int, size: int) -> None:
    """Within the rounding of the weights and of the result to bfloat16."""
    starts = bounds(*lengths)
    qkv = made(int(starts[-1]), heads * size, seed=1, deviation=2.0)
    found = run(qkv, starts, heads, backend).double()
    torch.testing.assert_close(found, exact(qkv, starts, heads), rtol=2**-8, atol=2.0 * 2**-7)
    error = (found - exact(qkv, starts, heads)).square().mean().sqrt()
    assert error < 0.01


def test_exact_where_the_arithmetic_is(backend: str) -> None:
    """Equal scores: the mean of the values so far, in powers of two a number of bfloat16."""
    qkv = torch.zeros(128, 3 * 32, dtype=torch.bfloat16)
    qkv[:, 64:] = 1.0
    qkv[0, 64] = 9.0
    out = run(qkv, bounds(128), 1, backend).float()
    assert (out[:, 1:] == 1).all()
    for last in (1, 2, 4, 8, 16, 32, 64, 128):
        assert out[last - 1, 0] == 1 + 8 / last


def one_per_key(scores: np.ndarray, queries: np.ndarray) -> torch.Tensor:
    """Return q, k, v of heads of 32 where q[i] . k[j] is queries[i] * scores[j] and v[j] tells j."""
    rows = len(scores)
    qkv = torch.zeros(rows, 3 * 32)
    qkv[:, 0] = torch.from_numpy(queries)
    qkv[:, 32] = torch.from_numpy(scores)
    qkv[:, 64:] = torch.arange(rows)[:, None] >> torch.arange(32) & 1
    return qkv.bfloat16()


@pytest.mark.parametrize("step", [16.0, 4096.0])
def test_the_maximum_grows(backend: str, step: float) -> None:
    """Each score is far above the one before: a query takes its own value, and nothing else."""
    rows = 256
    qkv = one_per_key(np.arange(rows, dtype=np.float32), np.full(rows, 16 * step, np.float32))
    out = run(qkv, bounds(rows), 1, backend)
    np.testing.assert_allclose(out.float(), qkv[:, 64:].float(), rtol=2**-8, atol=1e-12)
    np.testing.assert_array_equal(bits(out), bits(truth(qkv, bounds(rows), 1, backend)))


def test_the_maximum_of_some_queries_grows(backend: str) -> None:
    """Odd queries turn the order around: theirs is the first key, that of even ones the last."""
    rows = 256
    sign = np.where(np.arange(rows) % 2, -1.0, 1.0).astype(np.float32)
    qkv = one_per_key(np.arange(rows, dtype=np.float32), sign * 2**10)
    out = run(qkv, bounds(rows), 1, backend)
    values = qkv[:, 64:].float()
    np.testing.assert_allclose(out[0::2].float(), values[0::2], rtol=2**-8, atol=0)
    np.testing.assert_array_equal(out[1::2].float(), values[:1].expand(rows // 2, -1))
    np.testing.assert_array_equal(bits(out), bits(truth(qkv, bounds(rows), 1, backend)))


def test_a_row_depends_on_its_own_sequence_alone(backend: str) -> None:
    qkv = made(300, 64, seed=3)
    together = run(qkv, bounds(90, 140, 70), 2, backend)
    alone = run(qkv[90:230].clone(), bounds(140), 2, backend)
    np.testing.assert_array_equal(bits(together[90:230]), bits(alone))
    start = run(qkv[90:190].clone(), bounds(100), 2, backend)
    np.testing.assert_array_equal(bits(alone[:100]), bits(start))


def test_nan_is_not_hidden(backend: str) -> None:
    qkv = made(80, 32, seed=4)
    qkv[70, 40] = float("nan")  # a key
    out = run(qkv, bounds(80), 1, backend)
    assert out[70:].isnan().all()
    assert not out[:70].isnan().any()


def test_power_of_two() -> None:
    x = np.concatenate([np.linspace(-130, 1, 40001), [-np.inf, -1000.0]]).astype(np.float32)
    found = reference.power_of_two(x)
    expected = np.exp2(x.astype(np.float64))
    inside = x >= -126
    assert (found[~inside] == 0).all()
    assert np.abs(found[inside] / expected[inside] - 1).max() < 1e-4
    assert (
        reference.power_of_two(np.arange(-126, 1, dtype=np.float32)) == 2.0 ** np.arange(-126, 1)
    ).all()
    assert np.isnan(reference.power_of_two(np.array([np.nan], dtype=np.float32))).all()


def test_multiply_add_rounds_once() -> None:
    """(1 + 2^-12)^2 has bits down to 2^-24, where float32 has a tie that the addend decides."""
    a = np.array([1 + 2**-12, 1 + 2**-12, 3.0, np.inf, -(1 + 2.0**-12)], dtype=np.float32)
    c = np.array([2**-60, -(2**-60), 4.0, 1.0, -(2.0**-60)], dtype=np.float32)
    found = reference.multiply_add(a, np.abs(a), c)
    up, down = 1 + 2**-11 + 2**-23, 1 + 2**-11
    np.testing.assert_array_equal(found, np.array([up, down, 13, np.inf, -up], dtype=np.float32))


def test_no_sequence_and_no_row(backend: str) -> None:
    assert run(made(0, 32), bounds(), 1, backend).shape == (0, 32)
    assert not run(made(3, 32), bounds(0, 3, 0), 1, backend).isnan().any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heads": 5}, ShapeError, "heads is 5, expected a divisor of D, 32"),
        ({"heads": 0}, ShapeError, "heads is 0"),
        ({"starts": bounds(4, 5)}, ShapeError, "starts goes from 0 to 9, expected from 0 to 10"),
        ({"starts": np.array([0, 7, 3, 10])}, ShapeError, "decreases"),
        ({"starts": np.array([0, 10], dtype=np.int32)}, DTypeError, "starts"),
        ({"qkv": torch.zeros(10, 96)}, DTypeError, "expected bfloat16"),
        ({"qkv": torch.zeros(10, 95, dtype=torch.bfloat16)}, ShapeError, "3 D of out"),
        ({"out": torch.zeros(10, 32)}, DTypeError, "expected bfloat16"),
        ({"threads": 0}, ShapeError, "threads"),
    ],
)
def test_what_is_refused(backend: str, change: dict, error: type, message: str) -> None:
    arguments = {"qkv": made(10, 32), "starts": bounds(10), "heads": 2, "threads": 1}
    arguments["out"] = torch.full((10, 32), 7.0, dtype=torch.bfloat16)
    before = arguments["out"].clone()
    with pytest.raises(error, match=message):
        ops.attention(**(arguments | change), backend=backend)
    assert torch.equal(arguments["out"], before)
