"""Streaming weights: the right ones at the right time, and each of the three waits is needed."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import checkpoints
from deaf_device import Deaf, ignore
from pyneurons.engine.device_cuda import CudaDevice
from pyneurons.engine.device_threads import ThreadDevice, ThreadEvent
from pyneurons.engine.weight_ring import ALIGNMENT, LayerLayout, WeightRing, checkpoint_ring
from pyneurons.errors import DTypeError, IntegrityError, ShapeError
from pyneurons.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, LAYERS, BATCHES, ROWS = 16, 9, 3, 5
SEEDS = range(20)
SIZE = 2 * WIDTH**2


def weights() -> list[torch.Tensor]:
    """Small integers, so that all sums are exact: |x| stays below 16^9 = 2^36."""
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randint(-1, 2, (WIDTH, WIDTH), generator=generator).to(torch.float16)
        for _ in range(LAYERS)
    ]


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randint(-3, 4, (BATCHES, ROWS, WIDTH), generator=generator).double()


def expected() -> torch.Tensor:
    x = rows()
    for w in weights():
        x = x @ w.double().T
    return x


def streamed(device: Any, *, slots: int = 3, poison: bool = True) -> torch.Tensor:
    """Multiply all rows by every layer's matrix, the matrices coming through a ring."""
    matrices, x = weights(), rows()

    def read(layer: int, buffer: torch.Tensor) -> None:
        buffer.view(torch.float16).view(WIDTH, WIDTH).copy_(matrices[layer])

    if isinstance(device, CudaDevice):
        x = x.cuda()
        torch.cuda.default_stream().synchronize()

    def multiply(batch: int, slot: torch.Tensor) -> None:
        w = slot.view(torch.float16).view(WIDTH, WIDTH).double()
        x[batch] = x[batch] @ w.T

    compute = device.stream("compute")
    with WeightRing(device, compute, read, LAYERS, SIZE, slots=slots, poison=poison) as ring:
        for layer in range(LAYERS):
            slot = ring.take(layer)
            for batch in range(BATCHES):
                compute.run(partial(multiply, batch, slot))
            ring.give_back(layer)
    device.close()
    return x.cpu()


@pytest.mark.parametrize("poison", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 3, LAYERS + 1])
def test_layers_arrive_whole_and_in_order(slots: int, poison: bool) -> None:
    for seed in SEEDS[:6]:
        found = streamed(ThreadDevice(seed), slots=slots, poison=poison)
        assert torch.equal(found, expected()), seed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_layers_arrive_on_a_gpu(slots: int) -> None:
    for _ in SEEDS:
        assert torch.equal(streamed(CudaDevice(), slots=slots), expected())


@pytest.mark.parametrize("poison", [False, True])
@pytest.mark.parametrize("removed", ["compute", "copy", "host", None])
def test_without_any_one_of_its_waits_it_is_wrong(
    monkeypatch: pytest.MonkeyPatch, removed: str | None, poison: bool
) -> None:
    """The mutations, and beside them the same seeds with every wait in place."""
    if removed == "host":
        monkeypatch.setattr(ThreadEvent, "wait_on_host", ignore)
    wrong = 0
    for seed in SEEDS:
        found = streamed(Deaf(seed, str(removed)), poison=poison)
        wrong += not torch.equal(found, expected())
    if removed is None:
        assert wrong == 0
    else:
        assert wrong >= 1
    print(f"wrong with {len(SEEDS)} seeds: {wrong}")


def test_poison_shows_weights_that_were_not_waited_for() -> None:
    """Not merely wrong, which might pass for a result, but NaN."""
    poisoned = [bool(streamed(Deaf(seed, "compute")).isnan().any()) for seed in SEEDS]
    assert sum(poisoned) > len(SEEDS) // 2


def test_two_layers_come_while_one_computes() -> None:
    """And no third, whose slot the one at hand holds."""
    device = ThreadDevice(0)
    compute, gate = device.stream("compute"), threading.Event()
    reads: list[int] = []

    def read(layer: int, buffer: torch.Tensor) -> None:
        buffer.fill_(layer)
        reads.append(layer)

    with WeightRing(device, compute, read, 6, 64) as ring:
        slots = [ring.take(0)]
        compute.run(lambda: gate.wait() and None)
        ring._copied[0].wait_on_host()
        with ring._changed:
            assert ring._changed.wait_for(lambda: len(ring._copied) == 3, timeout=20)
        ring._copied[2].wait_on_host()
        assert [set(slot.tolist()) for slot in ring._slots] == [{0}, {1}, {2}]
        ring.give_back(0)  # the host may go on; the slot is still read
        slots += [ring.take(1), ring.take(2)]
        with ring._changed:
            assert ring._changed.wait_for(lambda: len(ring._copied) == 4, timeout=20)
        assert not ring._copied[3].passed.wait(0.05)
        assert set(slots[0].tolist()) == {0}
        gate.set()
        ring._copied[3].wait_on_host()
        assert set(slots[0].tolist()) == {3}
    device.close()
    assert reads[:4] == [0, 1, 2, 3]


def test_layers_are_taken_and_given_back_in_order() -> None:
    device = ThreadDevice(0)
    ring = WeightRing(device, device.stream("compute"), lambda *_: None, 3, 8, slots=2)
    with ring:
        with pytest.raises(IndexError, match="layer 1 of 3"):
            ring.take(1)
        with pytest.raises(IndexError, match="given back"):
            ring.give_back(0)
        ring.take(0)
        ring.take(1)
        with pytest.raises(IndexError, match="0 given back"):
            ring.take(2)  # it would wait for ever
        with pytest.raises(IndexError, match="layer 1 is given back"):
            ring.give_back(1)
        ring.give_back(0)
        ring.take(2)
        with pytest.raises(IndexError, match="layer 3 of 3"):
            ring.take(3)
    device.close()


def test_an_error_of_the_reader_reaches_the_taker() -> None:
    def read(layer: int, _: torch.Tensor) -> None:
        if layer == 1:
            message = "the disk is gone"
            raise IntegrityError(message)

    device = ThreadDevice(0)
    ring = WeightRing(device, device.stream("compute"), read, 3, 8)
    with ring:
        ring.take(0)
        with pytest.raises(IntegrityError, match="the disk is gone"):
            ring.take(1)
    device.close()


def test_an_error_of_a_stream_comes_out_and_nothing_hangs() -> None:
    device = ThreadDevice(0)
    stream, done = device.stream("a"), []

    def fail() -> None:
        message = "no"
        raise ValueError(message)

    stream.run(fail)
    stream.run(lambda: done.append(1))
    event = stream.record()
    with pytest.raises(ValueError, match="no"):
        event.wait_on_host()
    with pytest.raises(ValueError, match="no"):
        device.close()
    assert done == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_checkpoint_through_the_ring(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoints.make(tmp_path, "odd", seed=4, dtype=dtype, num_hidden_layers=5, shards=3)
    checkpoint = Checkpoint(tmp_path)
    device = ThreadDevice(5)
    compute = device.stream("compute")
    ring, layouts = checkpoint_ring(checkpoint, device, compute, poison=True)
    found: list[dict[str, torch.Tensor]] = []

    def keep(slot: torch.Tensor, layout: LayerLayout) -> None:
        found.append({name: view.clone() for name, view in layout.views(slot).items()})

    with ring:
        for layer, layout in enumerate(layouts):
            assert all(offset % ALIGNMENT == 0 for offset, *_ in layout.places.values())
            compute.run(partial(keep, ring.take(layer), layout))
            ring.give_back(layer)
    device.close()
    assert len(found) == 5
    for layer, tensors in enumerate(found):
        truth = checkpoint.read_layer(layer)
        assert tensors.keys() == truth.keys()
        for name, tensor in truth.items():
            assert tensors[name].dtype == dtype
            assert torch.equal(tensors[name], tensor), (layer, name)


def test_read_into_refuses_other_tensors(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, "pre", seed=4)
    checkpoint = Checkpoint(tmp_path)
    name = "decoder.layers.0.fc1.weight"  # [96, 32]
    into = torch.full((96, 32), 7.0)
    checkpoint.read_into(name, into)
    assert torch.equal(into, checkpoint.read(name))
    for wrong in (torch.full((32, 96), 7.0), torch.full((32, 96), 7.0).T):
        with pytest.raises(ShapeError, match=r"expected \[96, 32\]"):
            checkpoint.read_into(name, wrong)
        assert bool((wrong == 7).all())
    with pytest.raises(DTypeError, match="expected F32"):
        checkpoint.read_into(name, into.half())
