"""Files of arrays: the bytes that the safetensors library writes."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pyneurons import result

DTYPES = ["?", "u1", "i1", "i2", "u2", "f2", "i4", "u4", "f4", "f8", "i8", "u8"]
SHAPES = [(), (0,), (5,), (3, 2), (0, 4), (2, 3, 2)]


@pytest.mark.parametrize("seed", range(5))
def test_arrays_are_written_as_the_library_does(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"{letter}{i}" for i, letter in enumerate('zaé"\\\n_ß0Z' * 4)]
    arrays = {
        name: np.asarray(random.integers(0, 100, SHAPES[random.integers(6)])).astype(kind)
        for name, kind in zip(names, random.permutation(DTYPES * 4), strict=False)
    }
    save_file(arrays, tmp_path / "theirs")
    result.write_arrays(tmp_path / "ours", arrays)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_strides_and_order_of_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    plain = np.arange(24, dtype=np.int32).reshape(4, 6)
    arrays = {"every other": plain[::2, ::3], "turned": plain.T, "big": plain.astype(">i4")}
    result.write_arrays(tmp_path / "file", arrays)
    for name, values in load_file(tmp_path / "file").items():
        np.testing.assert_array_equal(values, arrays[name])


def test_a_full_disk_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        result.write_arrays(Path("/dev/full"), {"a": np.zeros(1 << 20)})
    assert raised.value.errno == errno.ENOSPC
