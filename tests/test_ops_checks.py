"""Wrong arguments: the same error on every backend, before anything is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import inputs
from pyneurons import ops, reference
from pyneurons.errors import DTypeError, PyneuronsError, ShapeError

POISON = 77


def segment_counts_arguments():
    return {
        "mask": reference.pack(inputs.bits(10, 40)),
        "order": np.arange(8, dtype=np.int32),
        "segments": inputs.bounds([3, 5]),
        "counts": np.full((2, 40), POISON, dtype=np.int64),
    }


def firing_rows_arguments():
    return {
        "mask": reference.pack(inputs.bits(10, 40)),
        "order": np.arange(8, dtype=np.int32),
        "rows": np.full((40, 3), POISON, dtype=np.int64),
        "found": np.zeros(40, dtype=np.int64),
    }


def first_segments_arguments():
    return {
        "mask": reference.pack(inputs.bits(10, 40)),
        "order": np.arange(10, dtype=np.int32),
        "segments": inputs.bounds([4, 6]),
        "count": np.ones(40, dtype=np.int64),
        "found_segments": np.full((40, 3), POISON, dtype=np.int32),
        "found": np.zeros(40, dtype=np.int64),
    }


def ngram_keys_arguments():
    return {
        "ids": np.arange(3, 13, dtype=np.uint16),
        "starts": inputs.bounds([4, 6]),
        "n": 2,
        "bits": 8,
        "boundary_id": 2,
        "keys": np.full(10, POISON, dtype=np.uint64),
    }


def ngram_coverage_arguments():
    fires = inputs.bits(10, 40)
    return {
        "mask": reference.pack(fires),
        "order": np.arange(10, dtype=np.int32),
        "segments": inputs.bounds([1, 2, 7]),
        "fires": fires.sum(axis=0),
        "histogram": np.full((5, 40), POISON, dtype=np.int64),
        "large": np.full((1, 40), POISON, dtype=np.int64),
    }


def ngram_triggers_arguments():
    return {
        "mask": np.full((10, 1), 0xFFFFFFFF, dtype=np.uint32),
        "order": np.arange(10, dtype=np.int32),
        "segments": inputs.bounds([4, 6]),
        "threshold": np.ones(32, dtype=np.int64),
        "offsets": inputs.bounds([2] * 32),
        "segment_of": np.full(64, POISON, dtype=np.int32),
        "fires": np.full(64, POISON, dtype=np.int64),
    }


def ffn_arguments():
    return {
        "x": torch.ones(6, 4),
        "fc1_weight": torch.ones(40, 4),
        "fc1_bias": torch.ones(40),
        "fc2_weight": torch.ones(5, 40),
        "fc2_bias": torch.ones(5),
        "residual": torch.full((6, 5), float(POISON)),
        "mask": np.full((1, 6, 2), POISON, dtype=np.uint32),
        "z_max": torch.full((40,), float(POISON)),
    }


OPS = {
    "segment_counts": (segment_counts_arguments, ("counts",)),
    "firing_rows": (firing_rows_arguments, ("rows", "found")),
    "first_segments": (first_segments_arguments, ("found_segments", "found")),
    "ngram_keys": (ngram_keys_arguments, ("keys",)),
    "ngram_coverage": (ngram_coverage_arguments, ("histogram", "large")),
    "ngram_triggers": (ngram_triggers_arguments, ("segment_of", "fires")),
    "ffn": (ffn_arguments, ("residual", "mask", "z_max")),
}


def i64(*values):
    return np.array(values, dtype=np.int64)


def i32(*values):
    return np.array(values, dtype=np.int32)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(shape, dtype):
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.zeros(count + 1, dtype=np.uint8)[1:].view(dtype).reshape(shape)


def z(shape, dtype):
    return np.zeros(shape, dtype=dtype)


# op, the argument that is wrong, its wrong value, the error, a piece of the message.
WRONG = [
    (
        "segment_counts",
        "mask",
        z((10, 2), np.int32),
        DTypeError,
        "mask has dtype int32, expected uint32",
    ),
    ("segment_counts", "mask", z((10, 2), ">u4"), DTypeError, "mask has dtype >u4"),
    ("segment_counts", "mask", [[1]], DTypeError, "mask is a list, expected an ndarray of uint32"),
    ("segment_counts", "mask", torch.zeros(10, 2), DTypeError, "mask has dtype float32"),
    (
        "segment_counts",
        "mask",
        z(10, np.uint32),
        ShapeError,
        r"mask has shape \[10\], expected 2 axes",
    ),
    ("segment_counts", "mask", z((10, 4), np.uint32)[:, ::2], ShapeError, "mask has strides"),
    ("segment_counts", "mask", z((10, 2), np.uint32)[::-1], ShapeError, "mask has strides"),
    ("segment_counts", "mask", z((2, 10), np.uint32).T, ShapeError, "mask has strides"),
    (
        "segment_counts",
        "mask",
        np.broadcast_to(z(2, np.uint32), (10, 2)),
        ShapeError,
        "mask has strides",
    ),
    ("segment_counts", "mask", unaligned((10, 2), np.uint32), ShapeError, "mask is not aligned"),
    (
        "segment_counts",
        "mask",
        z((10, 1), np.uint32),
        ShapeError,
        r"counts is for 40 neurons, expected at most 32 \(mask has shape \[10, 1\]\)",
    ),
    (
        "segment_counts",
        "mask",
        z((7, 2), np.uint32),
        ShapeError,
        "order has values from 0 to 7, expected 0 to 6",
    ),
    ("segment_counts", "order", np.arange(8), DTypeError, "order has dtype int64, expected int32"),
    (
        "segment_counts",
        "order",
        i32(0, 1, -1, 3, 4, 5, 6, 7),
        ShapeError,
        "order has values from -1 to 7, expected 0 to 9",
    ),
    (
        "segment_counts",
        "order",
        i32(0, 1, 10, 3, 4, 5, 6, 7),
        ShapeError,
        "order has values from 0 to 10",
    ),
    ("segment_counts", "order", z(16, np.int32)[::2], ShapeError, "order has strides"),
    (
        "segment_counts",
        "segments",
        i32(0, 3, 8),
        DTypeError,
        "segments has dtype int32, expected int64",
    ),
    (
        "segment_counts",
        "segments",
        i64(0, 3, 9),
        ShapeError,
        "segments goes from 0 to 9, expected within 0 to 8",
    ),
    ("segment_counts", "segments", i64(-1, 3, 8), ShapeError, "segments goes from -1 to 8"),
    ("segment_counts", "segments", i64(0, 8, 5), ShapeError, "segments decreases at 2"),
    ("segment_counts", "segments", i64(), ShapeError, "segments is empty"),
    (
        "segment_counts",
        "segments",
        i64(0, 8),
        ShapeError,
        r"counts has shape \[2, 40\], expected \[1, 40\] \(one row per segment\)",
    ),
    (
        "segment_counts",
        "counts",
        z((2, 40), np.int32),
        DTypeError,
        "counts has dtype int32, expected int64",
    ),
    ("segment_counts", "counts", z((2, 40), np.float64), DTypeError, "counts has dtype float64"),
    (
        "segment_counts",
        "counts",
        z((3, 40), np.int64),
        ShapeError,
        r"counts has shape \[3, 40\], expected \[2, 40\]",
    ),
    ("segment_counts", "counts", z(80, np.int64), ShapeError, "counts has shape"),
    ("segment_counts", "counts", z((40, 2), np.int64).T, ShapeError, "counts has strides"),
    (
        "segment_counts",
        "counts",
        read_only(z((2, 40), np.int64)),
        ShapeError,
        "counts is read-only",
    ),
    ("segment_counts", "threads", 0, ShapeError, "threads is 0, expected 1 to 1024"),
    ("segment_counts", "threads", 1.5, DTypeError, "threads is a float, expected an int"),
    ("segment_counts", "threads", True, DTypeError, "threads is a bool"),
    (
        "firing_rows",
        "order",
        i32(0, 10),
        ShapeError,
        "order has values from 0 to 10, expected 0 to 9",
    ),
    (
        "firing_rows",
        "rows",
        z((65, 3), np.int64),
        ShapeError,
        r"found has shape \[40\], expected \[65\]",
    ),
    ("firing_rows", "rows", z((40, 3), np.int32), DTypeError, "rows has dtype int32"),
    (
        "firing_rows",
        "found",
        z(41, np.int64),
        ShapeError,
        r"found has shape \[41\], expected \[40\]",
    ),
    (
        "firing_rows",
        "found",
        np.full(40, 4),
        ShapeError,
        "found has values from 4 to 4, expected 0 to 3",
    ),
    ("firing_rows", "found", np.full(40, -1), ShapeError, "found has values from -1"),
    ("firing_rows", "mask", z((10, 1), np.uint32), ShapeError, "rows is for 40 neurons"),
    (
        "first_segments",
        "count",
        z(41, np.int64),
        ShapeError,
        r"count has shape \[41\], expected \[40\]",
    ),
    ("first_segments", "count", z(40, np.int64), ShapeError, "count has values from 0"),
    ("first_segments", "segments", i64(0, 11), ShapeError, "segments"),
    ("first_segments", "found", np.full(40, 4), ShapeError, "found has values from 4"),
    ("first_segments", "found_segments", z((40, 3), np.int64), DTypeError, "dtype int64"),
    (
        "ngram_keys",
        "ids",
        z(10, np.int64),
        DTypeError,
        "ids has dtype int64, expected uint16 or uint32",
    ),
    ("ngram_keys", "ids", z(11, np.uint16), ShapeError, r"keys has shape \[10\], expected \[11\]"),
    (
        "ngram_keys",
        "ids",
        np.full(10, 255, np.uint16),
        ShapeError,
        "ids has values from 255 to 255, expected 0 to 254",
    ),
    (
        "ngram_keys",
        "starts",
        i64(0, 4),
        ShapeError,
        "starts goes from 0 to 4, expected from 0 to 10",
    ),
    ("ngram_keys", "starts", i64(1, 10), ShapeError, "starts goes from 1 to 10"),
    ("ngram_keys", "starts", i64(0, 7, 6, 10), ShapeError, "starts decreases at 2"),
    ("ngram_keys", "n", 0, ShapeError, "n is 0, expected 1 to 2147483647"),
    ("ngram_keys", "n", 1.0, DTypeError, "n is a float"),
    ("ngram_keys", "bits", 33, ShapeError, "bits is 33, expected 1 to 32"),
    ("ngram_keys", "boundary_id", -1, ShapeError, "boundary_id is -1"),
    ("ngram_keys", "keys", z(10, np.int64), DTypeError, "keys has dtype int64, expected uint64"),
    (
        "ngram_coverage",
        "segments",
        i64(0, 7, 8, 10),
        ShapeError,
        "segment 1 is shorter than the one before",
    ),
    (
        "ngram_coverage",
        "fires",
        z(41, np.int64),
        ShapeError,
        r"fires has shape \[41\], expected \[40\]",
    ),
    ("ngram_coverage", "fires", z(40, np.int32), DTypeError, "fires has dtype int32"),
    ("ngram_coverage", "histogram", z((1, 40), np.int64), ShapeError, "expected 2 rows or more"),
    ("ngram_coverage", "histogram", z((0, 40), np.int64), ShapeError, "expected 2 rows or more"),
    (
        "ngram_coverage",
        "histogram",
        z((8, 40), np.int64),
        ShapeError,
        r"large has shape \[1, 40\], expected \[0, 40\] \(segments longer than 7 rows\)",
    ),
    (
        "ngram_coverage",
        "large",
        z((1, 39), np.int64),
        ShapeError,
        r"large has shape \[1, 39\], expected \[1, 40\]",
    ),
    ("ngram_coverage", "large", z((2, 40), np.int64), ShapeError, "large has shape"),
    ("ngram_coverage", "large", z((1, 40), np.uint32), DTypeError, "large has dtype uint32"),
    (
        "ngram_triggers",
        "threshold",
        z(32, np.int64),
        ShapeError,
        "threshold has values from 0 to 0",
    ),
    (
        "ngram_triggers",
        "threshold",
        np.ones(33, np.int64),
        ShapeError,
        r"offsets has shape \[33\], expected \[34\]",
    ),
    (
        "ngram_triggers",
        "offsets",
        inputs.bounds([2] * 31 + [3]),
        ShapeError,
        "offsets goes from 0 to 65, expected from 0 to 64",
    ),
    (
        "ngram_triggers",
        "offsets",
        i64(1, *range(2, 65, 2)),
        ShapeError,
        "offsets goes from 1 to 64",
    ),
    (
        "ngram_triggers",
        "offsets",
        i64(0, 4, 2, *range(6, 66, 2)),
        ShapeError,
        "offsets decreases at 2",
    ),
    (
        "ngram_triggers",
        "segment_of",
        z(64, np.int64),
        DTypeError,
        "segment_of has dtype int64, expected int32",
    ),
    (
        "ngram_triggers",
        "fires",
        z(63, np.int64),
        ShapeError,
        r"fires has shape \[63\], expected \[64\]",
    ),
    (
        "ffn",
        "x",
        torch.ones(6, 4, dtype=torch.float64),
        DTypeError,
        "x has dtype float64, expected float32 or bfloat16",
    ),
    ("ffn", "x", np.ones((6, 4), np.float32), DTypeError, "x is a ndarray, expected a tensor"),
    ("ffn", "x", torch.ones(4, 6).T, ShapeError, "x has strides"),
    (
        "ffn",
        "x",
        torch.ones(6, 5),
        ShapeError,
        r"fc1_weight has shape \[40, 4\], expected \[40, 5\] \(D of x\)",
    ),
    ("ffn", "x", torch.ones(7, 4), ShapeError, r"residual has shape \[6, 5\], expected \[7, 5\]"),
    ("ffn", "x", torch.ones(24), ShapeError, "x has shape"),
    (
        "ffn",
        "fc1_weight",
        torch.ones(40, 4, dtype=torch.bfloat16),
        DTypeError,
        "fc1_weight has dtype bfloat16, expected float32",
    ),
    (
        "ffn",
        "fc1_weight",
        torch.ones(40, 4, requires_grad=True),
        DTypeError,
        "fc1_weight requires a gradient",
    ),
    ("ffn", "fc1_weight", torch.ones(40, 4, device="meta"), DTypeError, "fc1_weight lies on meta"),
    ("ffn", "fc1_bias", torch.ones(41), ShapeError, r"fc1_bias has shape \[41\], expected \[40\]"),
    (
        "ffn",
        "fc2_weight",
        torch.ones(40, 5),
        ShapeError,
        r"fc2_weight has shape \[40, 5\], expected \[5, 40\]",
    ),
    (
        "ffn",
        "fc2_bias",
        torch.ones(5, dtype=torch.bfloat16),
        DTypeError,
        "fc2_bias has dtype bfloat16",
    ),
    (
        "ffn",
        "residual",
        torch.ones(6, 5, dtype=torch.bfloat16),
        DTypeError,
        "residual has dtype bfloat16, expected float32",
    ),
    (
        "ffn",
        "mask",
        z((1, 7, 2), np.uint32),
        ShapeError,
        r"mask has shape \[1, 7, 2\], expected \[1, 6, 2\] \(strips for 40 neurons\)",
    ),
    ("ffn", "mask", z((2, 6, 2), np.uint32), ShapeError, "mask has shape"),
    ("ffn", "mask", z((1, 6, 1), np.uint32), ShapeError, "mask has shape"),
    ("ffn", "mask", z((1, 6, 0), np.uint32), ShapeError, "mask has shape"),
    ("ffn", "mask", z((1, 6, 4), np.uint32)[:, :, ::2], ShapeError, "mask has strides"),
    ("ffn", "mask", read_only(z((1, 6, 2), np.uint32)), ShapeError, "mask is read-only"),
    ("ffn", "z_max", torch.ones(39), ShapeError, r"z_max has shape \[39\], expected \[40\]"),
    ("ffn", "z_max", torch.ones(40, dtype=torch.float64), DTypeError, "z_max has dtype float64"),
]


def call(op, arguments, backend):
    getattr(ops, op)(**arguments, backend=backend)


def bytes_of(value):
    return value.tobytes() if isinstance(value, np.ndarray) else value.numpy().tobytes()


@pytest.mark.parametrize("op", OPS)
def test_the_untouched_arguments_are_fine(backend, op):
    make, _ = OPS[op]
    call(op, make(), backend)


@pytest.mark.parametrize(
    ("op", "name", "value", "error", "message"),
    WRONG,
    ids=[f"{op}-{name}-{number}" for number, (op, name, *_) in enumerate(WRONG)],
)
def test_wrong_arguments(backend, op, name, value, error, message):
    make, outputs = OPS[op]
    arguments = make()
    before = {output: bytes_of(arguments[output]) for output in outputs if output != name}
    arguments[name] = value
    with pytest.raises(error, match=f"^{op}: .*{message}"):
        call(op, arguments, backend)
    for output, content in before.items():
        assert bytes_of(arguments[output]) == content, output


def test_errors_are_of_the_house_and_of_python():
    assert issubclass(ShapeError, PyneuronsError)
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DTypeError, TypeError)


def overlapping():
    """Arguments of each op in which an output lies over something else."""
    memory = np.zeros(4000, dtype=np.uint8)

    def piece(shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return memory[:size].view(dtype).reshape(shape)

    yield "segment_counts", {"mask": piece((10, 2), np.uint32), "counts": piece((2, 40), np.int64)}
    yield "segment_counts", {"segments": piece(3, np.int64), "counts": piece((2, 40), np.int64)}
    yield "firing_rows", {"rows": piece((40, 3), np.int64), "found": piece(40, np.int64)}
    yield "firing_rows", {"order": piece(8, np.int32), "found": piece(40, np.int64)}
    yield (
        "first_segments",
        {"found_segments": piece((40, 3), np.int32), "found": piece(40, np.int64)},
    )
    yield "first_segments", {"segments": piece(3, np.int64), "found": piece(40, np.int64)}
    yield "ngram_keys", {"ids": piece(10, np.uint16), "keys": piece(10, np.uint64)}
    yield (
        "ngram_coverage",
        {"histogram": piece((5, 40), np.int64), "large": piece((1, 40), np.int64)},
    )
    yield "ngram_coverage", {"fires": piece(40, np.int64), "large": piece((1, 40), np.int64)}
    yield "ngram_triggers", {"segment_of": piece(64, np.int32), "fires": piece(64, np.int64)}
    z_max = torch.zeros(40)
    yield "ffn", {"fc1_bias": z_max, "z_max": z_max}
    x = torch.zeros(6, 5)
    yield "ffn", {"x": x, "residual": x, "fc1_weight": torch.ones(40, 5)}


@pytest.mark.parametrize(("op", "shared"), list(overlapping()))
def test_outputs_have_memory_of_their_own(backend, op, shared):
    make, _ = OPS[op]
    with pytest.raises(ShapeError, match=f"^{op}: .* overlaps .*, expected memory of its own"):
        call(op, make() | shared, backend)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, 6, 7])
def test_checks_in_parts_miss_no_place(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_CHECKED", 3)
    mask = np.zeros((100, 1), dtype=np.uint32)
    bounds = np.cumsum(np.arange(10))
    lengths = np.diff(bounds)
    lengths[at], lengths[at + 1] = lengths[at + 1], lengths[at]
    shorter = np.concatenate([[0], np.cumsum(lengths)])
    down = bounds.copy()
    down[at + 1] = down[at + 2] + 1
    outputs = (np.zeros(5, np.int64), np.zeros((4, 5), np.int64))
    for segments, match in ((down, f"decreases at {at + 2}"), (shorter, f"segment {at + 1} is")):
        large = np.zeros((6, 5), np.int64)
        with pytest.raises(ShapeError, match=match):
            ops.ngram_coverage(mask, None, segments, *outputs, large)
    ops.ngram_coverage(mask, None, bounds, *outputs, np.zeros((6, 5), np.int64))
    with pytest.raises(ShapeError, match="segments longer than 3 rows"):
        ops.ngram_coverage(mask, None, bounds, *outputs, np.zeros((5, 5), np.int64))
