"""What is measured of `ffn` on a device, run here in the interpreter; and the stored tiles."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pyneurons import _env, backends
from pyneurons.backends import triton_tiles
from pyneurons.backends.triton_tiles import Entry, Tiles
from pyneurons.errors import BackendUnavailable

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

if (reason := backends.why_not("triton")) and "triton" not in _env.required_backends():
    pytest.skip(reason, allow_module_level=True)
from pyneurons.backends import triton_measure

SMALL = Tiles(64, 64, 32, warps=1, stages=1)


def test_on_the_cpu_no_route_is_timed(monkeypatch):
    monkeypatch.setattr(triton_measure, "_seconds", None)
    found = triton_measure.measured_route(16, 8, 32, torch.float16, "cpu")
    assert found.as_dict() == {
        "route": "fused",
        "seconds": {},
        "why": "not timed: the CPU runs Triton's interpreter",
    }


def test_where_the_fused_kernel_does_not_compile_torch_multiplies(monkeypatch):
    compiles = triton_measure.fused_compiles
    assert not compiles(100, "3.6.0")
    assert not compiles(103, "3.7.1")
    assert all(compiles(capability, "3.6.0") for capability in (80, 90, 120))
    assert compiles(100, "3.8.0")
    assert compiles(100, "4.0.0")
    monkeypatch.setattr(triton_measure.triton_ffn, "capability", lambda _: 100)
    monkeypatch.setattr(triton, "__version__", "3.7.1")
    found = triton_measure.measured_route(16_384, 96, 256, torch.float16, "meta")
    assert (found.route, found.seconds) == ("torch", {})
    assert "does not compile the fused kernel for sm_100" in found.why


def test_the_faster_route_is_taken():
    for seconds, route in (((2.0, 1.0), "torch"), ((1.0, 2.0), "fused"), ((1.0, 1.0), "fused")):
        found = triton_measure.faster(dict(zip(("fused", "torch"), seconds, strict=True)))
        assert found.route == route
        assert json.loads(json.dumps(found.as_dict()))["seconds"]["torch"] == seconds[1]


def test_a_shape_is_timed_once(monkeypatch):
    """Of a device that is not there: what times is replaced."""
    calls = []

    def timed(*shape):
        calls.append(shape)
        return {"fused": 2.0, "torch": 1.0}

    monkeypatch.setattr(triton_measure, "route_seconds", timed)
    monkeypatch.setattr(triton_measure.triton_ffn, "capability", lambda _: 90)
    triton_measure._measured_route.cache_clear()
    for device in ("cuda:0", torch.device("cuda", 0)):
        found = triton_measure.measured_route(16, 8, 32, torch.float16, device)
        assert found.route == "torch"
    triton_measure.measured_route(17, 8, 32, torch.float16, "cuda:0")
    assert [shape[0] for shape in calls] == [16, 17]
    triton_measure._measured_route.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_routes_are_timed_on_the_same_data(dtype):
    seconds = triton_measure.route_seconds(3, 16, 40, dtype, "cpu")
    assert set(seconds) == {"fused", "torch"}
    assert min(seconds.values()) > 0


def test_tiles_are_timed_and_the_fastest_makes_an_entry(monkeypatch):
    tma, wide = replace(SMALL, variant="tma"), replace(SMALL, block_m=128)
    order = {SMALL: 3.0, tma: 1.0, wide: 2.0}
    real = triton_measure.medians

    def timed(runs, device):
        assert min(real(runs, device).values()) > 0
        return {cut: order[cut] for cut in runs}

    monkeypatch.setattr(triton_measure, "medians", timed)
    shape = (3, 16, 40, torch.float16, "cpu")
    found = triton_measure.measure_tiles(*shape, source="a test", candidates=tuple(order))
    assert [seconds for _, seconds in found["seconds"]] == [3.0, 1.0, 2.0]
    entry = Entry.of(json.loads(json.dumps(found["entry"])))
    assert entry == Entry(0, 2, (16, 16), (40, 40), tma, "a test")
    # Rows of 33 elements cannot be read by the memory accelerator.
    found = triton_measure.measure_tiles(
        3, 33, 40, torch.float16, "cpu", source="a test", candidates=tuple(order)
    )
    assert [seconds for _, seconds in found["seconds"]] == [3.0, 2.0]
    with pytest.raises(ValueError, match="no candidate runs"):
        triton_measure.measure_tiles(
            3, 33, 40, torch.float16, "cpu", source="a test", candidates=[tma]
        )


def test_what_does_not_fit_the_device_is_no_candidate(monkeypatch):
    from triton.runtime.errors import OutOfResources

    real = triton_measure.triton_ffn.up

    def up(*arguments, cut, **options):
        if cut.stages == 9:
            raise OutOfResources(300_000, 232_448, "shared memory")
        real(*arguments, cut=cut, **options)

    monkeypatch.setattr(triton_measure.triton_ffn, "up", up)
    deep = replace(SMALL, stages=9)
    found = triton_measure.measure_tiles(
        3, 16, 40, torch.float16, "cpu", source="a test", candidates=[deep, SMALL]
    )
    assert Tiles(**found["entry"]["tiles"]) == SMALL
    assert found["seconds"][0][1] is None


# --- the stored ones ------------------------------------------------------------------------------


def test_nothing_stored_claims_more_than_compiled_code():
    """A variant for Hopper, and whatever else compiled code does not show, has to be measured."""
    assert len(triton_tiles.entries()) >= 6
    for entry in triton_tiles.entries():
        if entry.architecture and not entry.source.startswith("measured on "):
            assert entry.source == "compiled code"
            assert entry.tiles.variant == "pointer"
            assert entry.inner == entry.neurons == (1, None)


@pytest.mark.parametrize("shape", [(768, 3072), (4096, 16_384), (9216, 36_864), (1, 1)])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_every_shape_has_tiles(shape, itemsize):
    for capability, architecture in ((0, 0), (80, 80), (86, 80), (89, 80), (90, 90)):
        found = triton_tiles.entry(capability, itemsize, *shape)
        assert found.architecture == architecture
        assert found.holds(itemsize, *shape)


def test_an_old_device_is_refused():
    with pytest.raises(BackendUnavailable, match=r"compute capability 7\.5, 2 bytes an element"):
        triton_tiles.entry(75, 2, 768, 3072)


def test_the_first_that_fits_is_taken(monkeypatch):
    tma = replace(SMALL, variant="tma")
    stored = (
        Entry(90, 2, (64, 128), (1, None), tma, "measured on a card"),
        Entry(90, 2, (1, None), (1, None), SMALL, "compiled code"),
        Entry(80, 2, (1, None), (1, None), SMALL, "compiled code"),
    )
    monkeypatch.setattr(triton_tiles, "entries", lambda: stored)
    for inner, place in ((63, 1), (64, 0), (128, 0), (129, 1)):
        assert triton_tiles.entry(90, 2, inner, 40) is stored[place]
        assert triton_tiles.entry(89, 2, inner, 40) is stored[2]
    assert triton_tiles.entry(90, 2, 64, 41) is stored[1]  # rows of 82 bytes
    assert triton_tiles.entry(90, 2, 68, 40) is stored[1]


def test_a_field_that_does_not_exist_is_an_error():
    stored = json.loads(triton_tiles.FILE.read_text())[0]
    Entry.of(stored)
    with pytest.raises(TypeError, match="speed"):
        Entry.of(stored | {"speed": 1})
    with pytest.raises(TypeError, match="speed"):
        Entry.of(stored | {"tiles": stored["tiles"] | {"speed": 1}})
