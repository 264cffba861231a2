"""Arrays given as tensors: of the CPU everywhere, of a device to the backends of that device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import inputs
from elsewhere import Elsewhere, as_device, as_tensor, elsewhere
from pyneurons import backends, ops, reference
from pyneurons.backends import held
from pyneurons.errors import BackendUnavailable, DTypeError, NonFiniteError, ShapeError

pytestmark = pytest.mark.also_on("triton")

NONE_WRONG = 2**63 - 1
ROWS, NEURONS = 90, 70


def counting(outputs, **arguments):
    fires = inputs.bits(ROWS, NEURONS)
    order = inputs.order(ROWS, 200)
    segments = inputs.bounds(inputs.sorted_lengths(200))
    common = {"mask": inputs.wide_mask(fires), "order": order, "segments": segments}
    return common | arguments, outputs


def counts():
    arguments, _ = counting(())
    counted = np.zeros((len(arguments["segments"]) - 1, NEURONS), dtype=np.int64)
    reference.segment_counts(arguments["mask"], arguments["order"], arguments["segments"], counted)
    return counted


def segment_counts(dtype):
    return counting(("counts",), counts=np.full((len(counts()), NEURONS), 3, dtype=dtype))


def firing_rows():
    arguments, outputs = counting(
        ("rows", "found"),
        rows=np.full((NEURONS, 5), -1, dtype=np.int64),
        found=np.arange(NEURONS, dtype=np.int64) % 6,
    )
    del arguments["segments"]
    return arguments, outputs


def first_segments():
    return counting(
        ("found_segments", "found"),
        count=np.arange(NEURONS, dtype=np.int64) % 3 + 1,
        found_segments=np.full((NEURONS, 4), -1, dtype=np.int32),
        found=np.arange(NEURONS, dtype=np.int64) % 5,
    )


def ngram_keys():
    ids, starts = inputs.corpus(300)
    arguments = {"ids": ids, "starts": starts, "n": 2, "bits": 6, "boundary_id": 2}
    return arguments | {"keys": np.zeros(300, dtype=np.uint64)}, ("keys",)


def ngram_coverage():
    counted, bins = counts(), 4
    arguments, outputs = counting(("histogram", "large"), fires=counted.sum(axis=0))
    longer = int(np.count_nonzero(np.diff(arguments["segments"]) > bins))
    return arguments | {
        "histogram": np.full((bins + 1, NEURONS), 5, dtype=np.int64),
        "large": np.full((longer, NEURONS), 6, dtype=np.int64),
    }, outputs


def ngram_triggers():
    threshold = np.random.default_rng(4).choice([1, 2, 5, 2**40], NEURONS).astype(np.int64)
    offsets = inputs.bounds((counts() >= threshold).sum(axis=0))
    return counting(
        ("segment_of", "fires"),
        threshold=threshold,
        offsets=offsets,
        segment_of=np.full(offsets[-1], -1, dtype=np.int32),
        fires=np.full(offsets[-1], -1, dtype=np.int64),
    )


def ffn(dtype=torch.float32):
    def lattice(*shape, seed, most=2):
        return torch.from_numpy(inputs.lattice(shape, seed, most)).to(dtype)

    return {
        "x": lattice(20, 12, seed=1),
        "fc1_weight": lattice(NEURONS, 12, seed=2),
        "fc1_bias": lattice(NEURONS, seed=3),
        "fc2_weight": lattice(9, NEURONS, seed=4),
        "fc2_bias": lattice(9, seed=5),
        "residual": torch.arange(180.0).reshape(20, 9),
        "mask": np.full((1, 20, 3), 77, dtype=np.uint32),
        "z_max": torch.full((NEURONS,), -torch.inf),
    }, ("residual", "mask", "z_max")


OPS = {
    "segment_counts": lambda: segment_counts(np.int64),
    "segment_counts uint8": lambda: segment_counts(np.uint8),
    "segment_counts uint16": lambda: segment_counts(np.uint16),
    "segment_counts uint32": lambda: segment_counts(np.uint32),
    "firing_rows": firing_rows,
    "first_segments": first_segments,
    "ngram_keys": ngram_keys,
    "ngram_coverage": ngram_coverage,
    "ngram_triggers": ngram_triggers,
    "ffn": ffn,
}
ON_HOST = ("order", "segments", "starts", "offsets", "ids", "threshold", "count", "found")


def run(case, arguments, backend):
    getattr(ops, case.split()[0])(**arguments, backend=backend)


def content(arguments, outputs):
    return [bytes(np.ascontiguousarray(as_tensor(arguments[one]).numpy())) for one in outputs]


def expected(case):
    arguments, outputs = OPS[case]()
    before = content(arguments, outputs)
    run(case, arguments, "reference")
    after = content(arguments, outputs)
    assert all(one != other for one, other in zip(before, after, strict=True))
    return after


@pytest.mark.parametrize("case", OPS)
def test_tensors_of_the_cpu(backend, case):
    arguments, outputs = OPS[case]()
    tensors = {
        name: as_tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    run(case, tensors, backend)
    assert content(arguments, outputs) == expected(case)


def test_unsigned_tensors_of_the_cpu(backend):
    arguments, outputs = segment_counts(np.uint16)
    arguments["mask"] = torch.from_numpy(arguments["mask"])
    arguments["counts"] = torch.from_numpy(arguments["counts"])
    assert (arguments["mask"].dtype, arguments["counts"].dtype) == (torch.uint32, torch.uint16)
    run("segment_counts", arguments, backend)
    arguments["counts"] = arguments["counts"].numpy()
    assert content(arguments, outputs) == expected("segment_counts uint16")


@pytest.fixture
def on_device(monkeypatch):
    """The backend ``triton``, as if the memory of the host were that of its device."""
    triton = backends.resolve("triton")
    if triton.device != "cpu":
        pytest.skip("there is a device: it needs no stand-in")
    seen = []
    device = as_device(triton, triton.on_device, seen)
    resolve = backends.resolve
    monkeypatch.setattr(
        backends, "resolve", lambda name=None: device if name == "device" else resolve(name)
    )
    return seen


@pytest.mark.parametrize("case", OPS)
@pytest.mark.parametrize("which", ["mask", "outputs", "all"])
def test_tensors_of_a_device_are_taken_as_they_are(on_device, case, which):
    arguments, outputs = OPS[case]()
    chosen = {"mask": ("mask",), "outputs": outputs, "all": tuple(arguments)}[which]
    tensors = {
        name: elsewhere(value)
        if name in chosen and name not in ON_HOST and isinstance(value, np.ndarray | torch.Tensor)
        else value
        for name, value in arguments.items()
    }
    run(case, tensors, "device")
    given = [value for value in tensors.values() if isinstance(value, Elsewhere)]
    assert {id(value) for value in given} == {id(value) for value in on_device}
    assert content(arguments, outputs) == expected(case)


@pytest.mark.parametrize("case", OPS)
def test_tensors_of_a_device_are_refused_elsewhere(backend, case):
    arguments, outputs = OPS[case]()
    before = content(arguments, outputs)
    moved = {"ngram_keys": "keys"}.get(case, "mask")
    tensors = arguments | {moved: elsewhere(arguments[moved])}
    message = (
        f"^{case.split()[0]}: {moved} lies on cuda:0, expected cpu for the backend '{backend}'"
    )
    with pytest.raises(DTypeError, match=message):
        run(case, tensors, backend)
    tensors[moved] = as_tensor(arguments[moved]).to("meta")
    with pytest.raises(DTypeError, match=f"{moved} lies on meta, expected a tensor with memory"):
        run(case, tensors, backend)
    assert content(arguments, outputs) == before


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, name)
        for case, make in OPS.items()
        for name in ON_HOST
        if " " not in case and name in make()[0]
    ],
)
def test_what_is_checked_for_its_values_stays_on_the_host(on_device, case, name):
    arguments, outputs = OPS[case]()
    before = content(arguments, outputs)
    tensors = arguments | {name: elsewhere(arguments[name])}
    with pytest.raises(DTypeError, match=f"{name} lies on cuda:0, expected the host's memory"):
        run(case, tensors, "device")
    assert not on_device
    assert content(arguments, outputs) == before


@pytest.mark.usefixtures("on_device")
def test_checks_of_a_device_s_tensors():
    """Shapes, dtypes, strides and overlaps are seen without reading an element."""
    mask = elsewhere(np.zeros((10, 2), np.uint32))
    segments, found = inputs.bounds([10]), elsewhere(np.zeros((1, 70), np.int64))

    def fails(error, match, mask=mask, counts=found):
        with pytest.raises(error, match=match):
            ops.segment_counts(mask, None, segments, counts, backend="device")

    fails(ShapeError, "counts is for 70 neurons, expected at most 64")
    fails(DTypeError, "mask has dtype float32", mask=elsewhere(torch.zeros(10, 2)))
    fails(ShapeError, "mask has strides", mask=elsewhere(torch.zeros(3, 10).int().T))
    memory = torch.zeros(40, dtype=torch.int64)
    fails(
        ShapeError,
        "counts overlaps mask",
        mask=elsewhere(memory.view(torch.int32)[:20].view(10, 2)),
        counts=elsewhere(memory[5:].view(1, 35)),
    )
    wide = torch.zeros(1, 40, requires_grad=True)
    fails(DTypeError, "counts requires a gradient", counts=wide)
    fails(DTypeError, "mask lies on torch.sparse_coo", mask=torch.zeros(10, 2).int().to_sparse())


def test_arrays_that_are_held_are_looked_at_and_copied_once(on_device):
    arguments, outputs = segment_counts(np.int64)
    order, segments = arguments["order"], arguments["segments"]
    first, _ = segment_counts(np.int64)
    with ops.hold(order, None, as_tensor(segments), elsewhere(order), backend="device"):
        run("segment_counts", arguments, "device")
        made = [dict(one.made) for one in held._held.values()]
        assert {what if isinstance(what, str) else what[0] for one in made for what in one} == {
            "range",
            "decreases",
            "copy",
            "pieces",
        }
        # Nobody looks again: neither at wrong values nor at other bounds.
        kept = segments.copy()
        segments[1:-1] = segments[1]
        run("segment_counts", arguments | {"counts": first["counts"]}, "device")
        segments[:] = kept
        again = [one.made for one in held._held.values()]
        for one, other in zip(made, again, strict=True):
            assert all(one[what] is other[what] for what in one)
        with ops.hold(order, backend="device"):
            pass
        assert len(held._held) == 2
    assert not held._held
    assert content(arguments, outputs) == content(first, outputs) == expected("segment_counts")
    assert not on_device


def test_nothing_is_held_on_the_cpu(backend):
    with ops.hold(np.zeros(3), backend=backend):
        assert not held._held


# --- pre-activations that are not finite ----------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_smallest_wrong_place_is_noted_and_nothing_raised(backend, dtype, shape):
    arguments, _ = ffn(dtype)
    wrong = torch.full(shape, NONE_WRONG)
    ops.ffn(**arguments, wrong=wrong, backend=backend)
    assert wrong.item() == NONE_WRONG
    for row, neuron, lowest in ((7, 33, 7 * NEURONS + 33), (9, 2, 7 * NEURONS + 33), (7, 5, 495)):
        arguments, _ = ffn(dtype)
        arguments["x"][:] = arguments["fc1_weight"][:] = 0
        arguments["x"][row:] = arguments["fc1_weight"][neuron] = 3e38
        ops.ffn(**arguments, wrong=wrong, backend=backend)
        assert wrong.item() == lowest
        with pytest.raises(NonFiniteError, match=f"neuron {neuron} on row {row} is not finite"):
            ops.ffn(**arguments, backend=backend)


def test_what_notes_a_wrong_place_is_checked(backend):
    arguments, outputs = ffn()
    before = content(arguments, outputs)
    for wrong, error, match in (
        (torch.zeros(2, dtype=torch.int64), ShapeError, r"wrong has shape \[2\], expected one el"),
        (torch.zeros(1), DTypeError, "wrong has dtype float32, expected int64"),
        (np.zeros(1, np.int64), DTypeError, "wrong is a ndarray, expected a tensor of int64"),
    ):
        with pytest.raises(error, match=match):
            ops.ffn(**arguments, wrong=wrong, backend=backend)
    assert content(arguments, outputs) == before


@pytest.mark.usefixtures("on_device")
def test_what_notes_a_wrong_place_lies_where_it_is_computed():
    arguments, _ = ffn()
    message = "wrong lies on cpu, triton computes on cuda"
    with pytest.raises(DTypeError, match=message):
        ops.ffn(**arguments, wrong=torch.full((), NONE_WRONG), backend="device")
    wrong = torch.full((), 3)
    arguments["x"][0, 0] = torch.nan
    ops.ffn(**arguments, wrong=elsewhere(wrong), backend="device")
    assert wrong.item() == 0


def test_float16(backend):
    """Sums of a lattice are exact; fc2 reads h rounded to float16."""
    arguments, outputs = ffn(torch.float16)
    arguments["x"][0, 0] = 2047
    arguments["fc1_weight"][1, 0] = 3
    before = content(arguments, outputs)
    z = arguments["x"].double() @ arguments["fc1_weight"].double().T + arguments["fc1_bias"]
    h = z.clamp(min=0).half().double()
    assert (h != z.clamp(min=0)).any()
    residual = arguments["residual"] + (
        h @ arguments["fc2_weight"].double().T + arguments["fc2_bias"]
    )
    if not backends.resolve(backend).float16:
        with pytest.raises(BackendUnavailable, match=f"backend '{backend}': it has no float16"):
            ops.ffn(**arguments, backend=backend)
        assert content(arguments, outputs) == before
        return
    ops.ffn(**arguments, backend=backend)
    assert (z == 0).sum() > 10
    assert np.array_equal(reference.unpack(arguments["mask"][0], NEURONS), (z > 0).numpy())
    assert torch.equal(arguments["z_max"], z.amax(dim=0).float())
    assert torch.equal(arguments["residual"], residual.float())
