"""A sound safetensors file with one mutation is always refused, without one always accepted."""

from __future__ import annotations

import copy
import json
import math
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pyneurons.errors import InputError
from pyneurons.model.safetensors_file import DTYPE_BYTES, read_header

if TYPE_CHECKING:
    from pathlib import Path

Header = dict[str, dict[str, Any]]

relaxed = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
KINDS = ["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL"]


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """The header of one to five tensors that lie end to end, named in any order."""
    header: Header = {}
    at = 0
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        dtype = draw(st.sampled_from(KINDS))
        shape = draw(st.lists(st.integers(1, 5), max_size=4))
        size = math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    order = draw(st.permutations(list(header)))
    return {name: header[name] for name in order}


def data_bytes(header: Header) -> int:
    return max(entry["data_offsets"][1] for entry in header.values())


def written(path: Path, header: Header | bytes, data: int, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data))
    return path


@relaxed
@given(headers(), st.integers(0, 20))
def test_a_sound_file_is_accepted(tmp_path: Path, header: Header, padding: int) -> None:
    raw = json.dumps(header).encode() + b" " * padding
    path = written(tmp_path / "x.safetensors", raw, data_bytes(header))
    found = {entry.name: entry for entry in read_header(path).entries}
    assert found.keys() == header.keys()
    for name, entry in found.items():
        given_ = header[name]
        assert entry.shape == tuple(given_["shape"])
        assert entry.offset == 8 + len(raw) + given_["data_offsets"][0]
        assert entry.bytes == given_["data_offsets"][1] - given_["data_offsets"][0]
    with safe_open(path, framework="pt") as opened:
        assert set(opened.keys()) == found.keys()


def _shift(entry: dict[str, Any], draw: st.DrawFn) -> None:
    by = draw(st.integers(-9, 9).filter(bool))
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]


def _stretch(entry: dict[str, Any], draw: st.DrawFn) -> None:
    entry["data_offsets"][draw(st.integers(0, 1))] += draw(st.integers(-9, 9).filter(bool))


def _invert(entry: dict[str, Any], _: st.DrawFn) -> None:
    entry["data_offsets"].reverse()


def _reshape(entry: dict[str, Any], draw: st.DrawFn) -> None:
    shape = entry["shape"] or [1]
    shape[draw(st.integers(0, len(shape) - 1))] += draw(
        st.sampled_from([1, 7, 1 << 31, 1 << 32, 1 << 62, 1 << 64, 10**30])
    )
    entry["shape"] = shape


def _empty(entry: dict[str, Any], draw: st.DrawFn) -> None:
    entry["shape"] = [*entry["shape"], 0]
    if draw(st.booleans()):
        entry["data_offsets"][1] = entry["data_offsets"][0]


def _wider(entry: dict[str, Any], _: st.DrawFn) -> None:
    sizes = DTYPE_BYTES[entry["dtype"]]
    entry["dtype"] = next(kind for kind in KINDS if DTYPE_BYTES[kind] != sizes)


def _not_a_number(entry: dict[str, Any], draw: st.DrawFn) -> None:
    wrong = draw(st.sampled_from([1.0, -1, True, "1", None, [1], {}]))
    key = draw(st.sampled_from(["shape", "data_offsets"]))
    entry[key] = [wrong, *entry[key][1:]]


def _keys(entry: dict[str, Any], draw: st.DrawFn) -> None:
    if draw(st.booleans()):
        del entry[draw(st.sampled_from(sorted(entry)))]
    else:
        entry[draw(st.sampled_from(["more", "Dtype", "strides"]))] = 0


def _unknown(entry: dict[str, Any], draw: st.DrawFn) -> None:
    entry["dtype"] = draw(st.sampled_from(["f32", "F33", "", None, 32, ["F32"], "F32 "]))


OF_AN_ENTRY = [_shift, _stretch, _invert, _reshape, _empty, _wider, _not_a_number, _keys, _unknown]


@pytest.mark.parametrize("mutation", OF_AN_ENTRY, ids=lambda m: m.__name__)
@relaxed
@given(header=headers(), data=st.data())
def test_one_mutation_of_an_entry_is_refused(
    tmp_path: Path, mutation: Any, header: Header, data: st.DataObject
) -> None:
    size = data_bytes(header)
    changed = copy.deepcopy(header)
    name = data.draw(st.sampled_from(sorted(changed)))
    mutation(changed[name], data.draw)
    path = written(tmp_path / "x.safetensors", changed, size)
    with pytest.raises(InputError, match=r"x\.safetensors"):
        read_header(path)


@relaxed
@given(header=headers(), data=st.data())
def test_one_mutation_of_the_file_is_refused(
    tmp_path: Path, header: Header, data: st.DataObject
) -> None:
    size = data_bytes(header)
    raw = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    match data.draw(st.integers(0, 6)):
        case 0:
            written(path, header, size + data.draw(st.integers(1, 9)))
        case 1:
            whole = written(path, header, size).read_bytes()
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        case 2:
            by = data.draw(st.integers(-3, 3).filter(bool))
            written(path, raw, size, length=len(raw) + by)
        case 3:
            name = data.draw(st.sampled_from(sorted(header)))
            again = b"," + json.dumps({name: header[name]}).encode()[1:]
            written(path, raw[:-1] + again, size)
        case 4:
            extra = {"an empty one": {"dtype": "F32", "shape": [0], "data_offsets": [size, size]}}
            written(path, header | extra, size)
        case 5:
            name = data.draw(st.sampled_from(sorted(header)))
            written(path, header | {"the same place": header[name]}, size)
        case _:
            at = data.draw(st.integers(0, len(raw)))
            written(path, raw[:at] + b"\xff" + raw[at:], size)
    with pytest.raises(InputError, match=r"x\.safetensors"):
        read_header(path)


@relaxed
@given(
    st.lists(st.one_of(st.integers(0, 4), st.integers(0, 1 << 70)), max_size=9),
    st.sampled_from(KINDS),
    st.integers(0, 1 << 12),
)
def test_shape_and_bytes_agree_as_integers_without_bounds_say(
    tmp_path: Path, shape: list[int], dtype: str, size: int
) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    path = written(tmp_path / "x.safetensors", {"a": entry}, size)
    fits = math.prod(shape) * DTYPE_BYTES[dtype] == size > 0 and len(shape) <= 8
    if fits:
        assert read_header(path).entries[0].bytes == size
    else:
        with pytest.raises(InputError, match=r"x\.safetensors: tensor 'a'"):
            read_header(path)
