"""The ops that torch knows: what they return, and that they trace."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import inputs
from pyneurons import backends, reference, torch_ops
from pyneurons.errors import DTypeError, NonFiniteError, ShapeError

DTYPES = (torch.float32, torch.bfloat16)


def block(dtype, rows=20, inner=12, neurons=1100, outer=9):
    def lattice(*shape, seed):
        return torch.from_numpy(inputs.lattice(shape, seed, 2)).to(dtype)

    return (
        lattice(rows, inner, seed=1),
        lattice(neurons, inner, seed=2),
        lattice(neurons, seed=3),
        lattice(outer, neurons, seed=4),
        lattice(outer, seed=5),
    )


def expected(x, fc1, bias1, fc2, bias2):
    rows, neurons = len(x), len(fc1)
    residual = torch.zeros(rows, 0 if fc2 is None else len(fc2))
    mask = np.zeros((1, rows, -(-neurons // 32)), dtype=np.uint32)
    z_max = torch.full((neurons,), -torch.inf)
    reference.ffn(x, fc1, bias1, fc2, bias2, residual, mask, z_max)
    return residual, torch.from_numpy(mask[0].view(np.int32)), z_max


def counting():
    fires = inputs.bits(90, 70)
    order = torch.from_numpy(inputs.order(90, 200))
    segments = torch.from_numpy(inputs.bounds([0, 3, 97, 100]))
    mask = torch.from_numpy(reference.pack(fires).view(np.int32))
    counts = np.zeros((4, 70), dtype=np.int64)
    reference.segment_counts(reference.pack(fires), order.numpy(), segments.numpy(), counts)
    return (mask, order, segments, 70), torch.from_numpy(counts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("without", [(), (2, 4), (3, 4), (2, 3, 4)])
def test_ffn(dtype, without):
    arguments = [None if i in without else one for i, one in enumerate(block(dtype))]
    found = torch.ops.pyneurons.ffn(*arguments)
    for one, other in zip(found, expected(*arguments), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_no_rows():
    y, mask, z_max = torch.ops.pyneurons.ffn(*block(torch.float32, rows=0))
    assert (y.shape, mask.shape) == ((0, 9), (0, 35))
    assert torch.all(z_max == -torch.inf)


def test_segment_counts():
    arguments, counts = counting()
    assert torch.equal(torch.ops.pyneurons.segment_counts(*arguments), counts)
    mask, order, segments, neurons = arguments
    whole = torch.ops.pyneurons.segment_counts(mask[order], None, segments, neurons)
    assert torch.equal(whole, counts)


def test_who_fired_is_counted():
    arguments = block(torch.float32)
    _, mask, _ = torch.ops.pyneurons.ffn(*arguments)
    counts = torch.ops.pyneurons.segment_counts(mask, None, torch.tensor([0, 7, 20]), 1100)
    z = arguments[0] @ arguments[1].T + arguments[2]
    assert torch.equal(counts, torch.stack([(z[:7] > 0).sum(dim=0), (z[7:] > 0).sum(dim=0)]))


@pytest.mark.parametrize("without", [(), (2, 3, 4)])
def test_torch_s_own_checks_of_ffn(without):
    arguments = [None if i in without else one for i, one in enumerate(block(torch.float32))]
    torch.library.opcheck(torch_ops.ffn, arguments)


@pytest.mark.parametrize("ordered", [True, False])
def test_torch_s_own_checks_of_segment_counts(ordered):
    (mask, order, segments, neurons), _ = counting()
    if not ordered:
        mask, order = mask[order], None
    torch.library.opcheck(torch_ops.segment_counts, (mask, order, segments, neurons))


def test_shapes_and_dtypes_of_fake_tensors():
    with FakeTensorMode() as mode:
        arguments = [mode.from_tensor(one) for one in block(torch.bfloat16)]
        y, mask, z_max = torch.ops.pyneurons.ffn(*arguments)
        segments = torch.zeros(5, dtype=torch.int64)
        counts = torch.ops.pyneurons.segment_counts(mask, None, segments, 1100)
    assert (y.shape, y.dtype) == ((20, 9), torch.float32)
    assert (mask.shape, mask.dtype) == ((20, 35), torch.int32)
    assert (z_max.shape, z_max.dtype) == ((1100,), torch.float32)
    assert (counts.shape, counts.dtype) == ((4, 1100), torch.int64)


def test_traced_and_with_rows_of_any_number():
    """The graph calls the op once, and holds for another M."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def run(x, *others):
        y, mask, _ = torch.ops.pyneurons.ffn(2 * x, *others)
        bounds = torch.tensor([0, 3])
        return y + 1, torch.ops.pyneurons.segment_counts(mask, None, bounds, 1100)

    traced = torch.compile(run, backend=backend, fullgraph=True, dynamic=True)
    for rows in (20, 31):
        arguments = block(torch.float32, rows=rows)
        for one, other in zip(traced(*arguments), run(*arguments), strict=True):
            assert torch.equal(one, other)
    assert len(graphs) == 1
    targets = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert [one for one in targets if "pyneurons" in one] == [
        "pyneurons.ffn",
        "pyneurons.segment_counts",
    ]


def test_errors_are_those_of_the_ops():
    x, fc1, bias1, fc2, bias2 = block(torch.float32)
    with pytest.raises(ShapeError, match="fc1_weight has shape"):
        torch.ops.pyneurons.ffn(x[:, :-1].contiguous(), fc1, bias1, fc2, bias2)
    with pytest.raises(ShapeError, match=r"fc2_weight has shape .* expected 2 axes"):
        torch.ops.pyneurons.ffn(x, fc1, bias1, bias2, bias2)
    with pytest.raises(DTypeError, match="x has dtype float64"):
        torch.ops.pyneurons.ffn(x.double(), fc1, bias1, fc2, bias2)
    with pytest.raises(ShapeError, match="fc2_bias has shape"):
        torch.ops.pyneurons.ffn(x, fc1, bias1, None, bias2)
    x[3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="neuron 0 on row 3"):
        torch.ops.pyneurons.ffn(x, fc1, bias1, fc2, bias2)
    (mask, order, segments, neurons), _ = counting()
    with pytest.raises(ShapeError, match="order has values from"):
        torch.ops.pyneurons.segment_counts(mask, order + 1, segments, neurons)
    with pytest.raises(ShapeError, match=r"segments has shape .* expected 1 axis"):
        torch.ops.pyneurons.segment_counts(mask, order, segments[None], neurons)


@pytest.mark.parametrize(
    ("device", "asked", "built", "chosen"),
    [
        ("cpu", None, True, None),
        ("cuda", None, True, "cuda"),
        ("cuda", None, False, "triton"),
        ("cuda", "triton", True, None),
    ],
)
def test_the_backend_follows_the_device(monkeypatch, device, asked, built, chosen):
    monkeypatch.setattr(torch_ops._env, "backend", lambda: asked)
    monkeypatch.setattr(backends, "why_not", lambda _: None if built else "it is not built")
    torch_ops._of_cuda_devices.cache_clear()
    tensor = type("Tensor", (), {"device": torch.device(device)})
    assert torch_ops._backend(tensor) == chosen
    torch_ops._of_cuda_devices.cache_clear()


def test_they_are_there_once_the_module_is_imported():
    code = (
        "import torch, pyneurons; assert not hasattr(torch.ops.pyneurons, 'ffn'); "
        "import pyneurons.torch_ops; torch.ops.pyneurons.ffn; torch.ops.pyneurons.segment_counts"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
