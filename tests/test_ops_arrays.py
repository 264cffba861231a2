"""Any array as an argument of a counting op: one of our errors, or what the reference does.

Arguments that fit, of which up to two are then spoilt: by dtype, shape, strides, flags, values, or by
sharing memory. Every instruction set ends as the reference does: the same class of error and
message, or the same results; and what is refused is left as it was. PYNEURONS_EXAMPLES: how many are
tried for each op. `tests/sanitize.sh` runs this under AddressSanitizer.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import inputs
from pyneurons import _core, ops, reference
from pyneurons.errors import InputError, IntegrityError, ShapeError

EXAMPLES = int(os.environ.get("PYNEURONS_EXAMPLES", "120"))
INT64 = np.iinfo(np.int64)
OUTPUTS = {
    "segment_counts": ["counts"],
    "firing_rows": ["rows", "found"],
    "first_segments": ["found_segments", "found"],
    "ngram_keys": ["keys"],
    "ngram_coverage": ["histogram", "large"],
    "ngram_triggers": ["segment_of", "fires"],
}
many = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


class Subclass(np.ndarray[Any, Any]):
    pass


def fitting(op: str, rows: int, neurons: int, seed: int) -> dict[str, Any]:
    """Arguments that an op takes; the same ones for the same numbers."""
    random = np.random.default_rng((seed, rows, neurons))
    fires = random.random((rows, neurons)) < random.random()
    mask = inputs.wide_mask(fires, extra=int(random.integers(0, 3)))
    order = inputs.order(rows, rows + 3 if rows else 0, seed) if random.random() < 0.6 else None
    names = np.arange(rows) if order is None else order
    segments = inputs.bounds(inputs.sorted_lengths(len(names), seed))
    lengths = np.diff(segments)
    by_segment = [fires[names[a:b]].sum(axis=0) for a, b in itertools.pairwise(segments)]
    counts = np.array(by_segment, dtype=np.int64).reshape(len(lengths), neurons)
    common = {"mask": mask, "order": order, "segments": segments}
    limit = int(random.integers(0, 4))
    found = random.integers(0, limit + 1, neurons)
    if op == "segment_counts":
        dtype = random.choice([np.int64, np.uint8, np.uint16, np.uint32])
        return {**common, "counts": np.zeros((len(lengths), neurons), dtype=dtype)}
    if op == "firing_rows":
        lists = np.full((neurons, limit), 77, dtype=np.int64)
        return {"mask": mask, "order": order, "rows": lists, "found": found}
    if op == "first_segments":
        lists = np.full((neurons, limit), 77, dtype=np.int32)
        count = random.integers(1, 4, neurons)
        return {**common, "count": count, "found_segments": lists, "found": found}
    if op == "ngram_keys":
        starts = np.sort(random.integers(0, rows + 1, 3))
        starts[0], starts[-1] = 0, rows
        ids = random.integers(0, 255, rows).astype(random.choice([np.uint16, np.uint32]))
        numbers = {"n": int(random.integers(1, 12)), "bits": 8, "boundary_id": 2}
        return {"ids": ids, "starts": starts, **numbers, "keys": np.zeros(rows, dtype=np.uint64)}
    if op == "ngram_coverage":
        bins = int(random.integers(1, 5))
        histogram = np.zeros((bins + 1, neurons), dtype=np.int64)
        large = np.zeros((int((lengths > bins).sum()), neurons), dtype=np.int64)
        return {**common, "fires": counts.sum(axis=0), "histogram": histogram, "large": large}
    threshold = random.integers(1, 4, neurons)
    offsets = inputs.bounds((counts >= threshold).sum(axis=0))
    segment_of = np.full(offsets[-1], 77, dtype=np.int32)
    places = np.full(offsets[-1], 77, dtype=np.int64)
    return {
        **common,
        "threshold": threshold,
        "offsets": offsets,
        "segment_of": segment_of,
        "fires": places,
    }


def unaligned(array: Any) -> Any:
    copy = np.zeros(array.nbytes + 1, dtype=np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def far_apart(array: Any) -> Any:
    """One row, the next of which would be 2**50 bytes on."""
    return as_strided(array[:1], strides=(2**50, *array.strides[1:]))


def stepping(array: Any) -> Any:
    return np.repeat(array, 2, axis=-1)[..., ::2]


def wrapping(_: Any) -> Any:
    """Bounds whose lengths ascend as 64 bits do: four times 2**62 is nothing."""
    return np.cumsum(np.array([0, *[2**62] * 4], dtype=np.uint64), dtype=np.uint64).view(np.int64)


def with_value(value: int) -> Any:
    def change(array: Any) -> Any:
        array = array.copy()
        if array.size:
            kind = np.iinfo(array.dtype)
            array.flat[array.size // 2] = min(max(value, int(kind.min)), int(kind.max))
        return array

    change.__name__ = f"with_{value}"
    return change


DTYPES = [
    "i1",
    "u1",
    "i2",
    "u2",
    "i4",
    "u4",
    "i8",
    "u8",
    ">i4",
    ">u4",
    ">i8",
    "f4",
    "f8",
    "?",
    "c8",
    "O",
    "U3",
    "M8[s]",
    "V8",
]
SPOILT: list[Any] = [
    *[lambda array, to=to: np.zeros(array.shape, dtype=to) for to in DTYPES],
    *[with_value(value) for value in (-1, 0, 1, 255, INT64.max, INT64.min, 2**31, 2**62)],
    unaligned,
    read_only,
    far_apart,
    stepping,
    wrapping,
    lambda array: array[::-1],
    lambda array: array.T,
    np.asfortranarray,
    lambda array: np.broadcast_to(array[:1], array.shape),
    lambda array: as_strided(array[:0], strides=(2**60,) * array.ndim),
    lambda array: array[:0],
    lambda array: array[..., :0],
    lambda array: array[:-1],
    lambda array: array[..., :-1],
    lambda array: array[..., 0],
    lambda array: array[None],
    lambda array: np.concatenate([array, array]),
    lambda array: np.concatenate([array, array], axis=-1),
    lambda array: np.zeros((), dtype=array.dtype),
    lambda array: array.view(Subclass),
    np.ma.array,
    lambda array: array.tolist(),
    lambda array: torch.zeros(array.shape),
    lambda _: None,
    lambda _: 3,
    memoryview,
]


def spoil(value: Any, how: Any) -> Any:
    if isinstance(value, np.ndarray):
        try:
            return how(value)
        except (ValueError, IndexError):  # an array that cannot be spoilt so
            return value
    if isinstance(value, int):
        return [-1, 0, 33, 2**31 - 1, 2**31, 2**40, 2**70, True, 1.0][SPOILT.index(how) % 9]
    return value


def state(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else repr(value)


def outcome(op: str, arguments: dict[str, Any], backend: str, threads: int) -> Any:
    """What is left in the outputs; the error in its place, with the outputs where it promises that."""
    before = {name: state(arguments[name]) for name in OUTPUTS[op]}
    try:
        getattr(ops, op)(**arguments, backend=backend, threads=threads)
    except InputError as error:
        assert {name: state(arguments[name]) for name in OUTPUTS[op]} == before
        return type(error), str(error)
    except IntegrityError as error:
        return type(error), str(error)
    return [state(arguments[name]) for name in OUTPUTS[op]]


@pytest.mark.parametrize("op", OUTPUTS)
@many
@given(data=st.data())
def test_an_error_of_ours_or_the_result(op: str, data: st.DataObject) -> None:
    rows, neurons = data.draw(st.integers(0, 40)), data.draw(st.sampled_from([1, 31, 33, 70, 600]))
    seed = data.draw(st.integers(0, 1 << 16))
    names = list(fitting(op, rows, neurons, seed))
    changes = data.draw(
        st.lists(st.tuples(st.sampled_from(names), st.sampled_from(SPOILT)), max_size=2)
    )
    shared = None
    if data.draw(st.integers(0, 9)) == 9:
        shared = data.draw(st.tuples(st.sampled_from(OUTPUTS[op]), st.sampled_from(names)))

    def arguments() -> dict[str, Any]:
        made = fitting(op, rows, neurons, seed)
        for name, how in changes:
            made[name] = spoil(made[name], how)
        if shared is not None:
            made[shared[0]] = made[shared[1]]
        return made

    expected = outcome(op, arguments(), "reference", 1)
    for isa in ("scalar", "avx2", "avx512"):
        if isa in _core.isas():
            threads = data.draw(st.sampled_from([1, 2, 3]))
            assert outcome(op, arguments(), f"cpp:{isa}", threads) == expected, isa


def test_lengths_that_wrap_are_refused(backend: str) -> None:
    arguments = fitting("ngram_coverage", 10, 31, 0)
    arguments["segments"] = wrapping(arguments["segments"])
    arguments["large"] = np.zeros((4, 31), dtype=np.int64)
    with pytest.raises(ShapeError, match="segments decreases at 2"):
        ops.ngram_coverage(**arguments, backend=backend)


def test_the_longest_ngram(backend: str) -> None:
    arguments = {**fitting("ngram_keys", 20, 1, 0), "n": 2**31 - 1, "bits": 8}
    ops.ngram_keys(**arguments, backend=backend)
    assert (arguments["keys"] == reference.NO_NGRAM).all()
    with pytest.raises(ShapeError, match="n is 2147483648, expected 1 to 2147483647"):
        ops.ngram_keys(**arguments | {"n": 2**31}, backend=backend)
