"""Random damage to files that our own parsers read: either they are read or an error of ours says why.

    python tests/fuzz/fuzz_parsers.py --seconds 60 --seed 1 [TARGET...]

An input that ends in any other error, in a result that contradicts its bytes, or takes longer than ten
seconds is kept in ``corpus/TARGET`` beside this file; the tests run everything that is kept there.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyneurons import _env
from pyneurons.corpus.id_files import npy_layout
from pyneurons.errors import PyneuronsError
from pyneurons.model import zip_directory
from pyneurons.model.config import BOUNDS
from pyneurons.model.regular_file import open_regular
from pyneurons.model.safetensors_file import read_header
from pyneurons.model.strict_json import parse_object
from pyneurons.model.tensor_pickle import read_pickle
from pyneurons.model.torch_file import TorchFile

CORPUS = Path(__file__).parent / "corpus"
LONGEST_S = 10.0

# What is worth trying where a number stands: signs, widths, and the caps.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u0000", b"\\ud800", b"NaN", b"1e999", b"-0",
    b"-1", b"null", b"true", b'"dtype"', b'"F32"', b'"shape"', b'"data_offsets"', b'"__metadata__"',
    b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"cos\nsystem\n",
    b"ctorch\nFloatStorage\n", b"R", b"b", b"Q", b"(", b"t", b"u", b".", b"\x93NUMPY", b"'descr'",
    b"'<i8'", b"'shape'", b"(1,)",
)  # fmt: skip


def safetensors(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    header = read_header(path)
    end = 8 + len(header.raw)
    for entry in header.entries:
        assert entry.offset == end
        assert entry.bytes > 0
        end += entry.bytes
    assert end == len(data)


def strict_json(data: bytes, _: Path) -> None:
    value = parse_object(data, "fuzz")
    assert json.loads(data) == value


def torch_file(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with TorchFile(path) as file:
        for tensor in file.tensors.values():
            assert sum(map(len, file.read(tensor))) == tensor.bytes <= len(data)


def tensor_pickle(data: bytes, _: Path) -> None:
    _, end = read_pickle(data, "fuzz")
    assert 0 < end <= len(data)


def zip_members(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with open_regular(path) as descriptor:
        members = zip_directory.read_directory(descriptor, len(data), path)
        for member in members.values():
            assert 0 <= member.offset <= member.offset + member.bytes <= len(data)
        assert sum(member.bytes for member in members.values()) <= len(data)


def npy_header(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    layout = npy_layout(path)
    assert layout.offset + int(np.prod(layout.shape)) * layout.dtype.itemsize == len(data)


def _safetensors_seeds() -> list[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }
    raw = json.dumps(header).encode()
    return [struct.pack("<Q", len(raw)) + raw + bytes(32), struct.pack("<Q", 2) + b"{}"]


def _torch_seeds() -> list[bytes]:
    import torch

    base = torch.arange(12.0)
    state = OrderedDict(a=base.reshape(3, 4), b=base[2:6].half(), c=base.reshape(4, 3).t())
    seeds = []
    for as_zip in (True, False):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=as_zip)
        seeds.append(file.getvalue())
    return seeds


def _pickle_seeds() -> list[bytes]:
    import zipfile

    first = _torch_seeds()[0]
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return [archive.read(name), *(pickle.dumps({"a": (1, "x")}, p) for p in range(2, 6))]


def _json_seeds() -> list[bytes]:
    config = {"model_type": "opt", **{name: least for name, (least, _) in BOUNDS.items()}}
    return [
        json.dumps(config).encode(),
        '{"a": [1, {"b": "é\\u00e9\\\\\\""}, -1e3, null]}'.encode(),
    ]


def _npy_seeds() -> list[bytes]:
    seeds = []
    for array, version in ((np.zeros((2, 3), int), (1, 0)), (np.zeros(5, "<u2"), (2, 0))):
        file = io.BytesIO()
        np.lib.format.write_array(file, array, version=version)
        seeds.append(file.getvalue())
    return seeds


Target = tuple[Callable[[bytes, Path], None], Callable[[], list[bytes]]]
TARGETS: dict[str, Target] = {
    "safetensors": (safetensors, _safetensors_seeds),
    "strict_json": (strict_json, _json_seeds),
    "torch_file": (torch_file, _torch_seeds),
    "tensor_pickle": (tensor_pickle, _pickle_seeds),
    "zip_directory": (zip_members, _torch_seeds),
    "npy_header": (npy_header, _npy_seeds),
}


def mutate(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Damage a file in one to four places."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(made) + 1)
        match draw.randrange(9):
            case 0 if made:
                made[at % len(made)] ^= 1 << draw.randrange(8)
            case 1 if made:
                made[at % len(made)] = draw.randrange(256)
            case 2:
                del made[at : at + draw.randint(1, 16)]
            case 3:
                made[at:at] = made[at : at + draw.randint(1, 64)]
            case 4:
                made[at:at] = draw.choice(TOKENS)
            case 5:
                width = draw.choice((1, 2, 4, 8))
                number = draw.choice(NUMBERS) % (1 << 8 * width)
                made[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))
            case 6:
                digits = [place for place, byte in enumerate(made) if 48 <= byte < 58]
                if digits:
                    place = draw.choice(digits)
                    made[place : place + 1] = str(draw.choice(NUMBERS)).encode()
            case 7:
                other = draw.choice(others)
                made = made[:at] + other[draw.randrange(len(other) + 1) :]
            case 8:
                del made[at:]
    return bytes(made)


def check(name: str, data: bytes, path: Path) -> bool:
    """Run one input; tells whether it was read. Any error that is not ours goes through."""
    began = time.monotonic()
    try:
        TARGETS[name][0](data, path)
        read = True
    except PyneuronsError as error:
        read = not str(error)
    assert time.monotonic() - began < LONGEST_S, "takes too long"
    return read


def fuzz(name: str, seconds: float, seed: int, path: Path) -> tuple[int, int]:
    """Try damaged files for a while; return how many were tried and how many of them were read.

    Inputs that are read although they were damaged are damaged further.
    """
    draw = random.Random(f"{seed}:{name}")
    seeds = TARGETS[name][1]()
    for data in seeds:
        check(name, data, path)
    pool = seeds + kept(name)
    tried = read = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = mutate(draw.choice(pool), pool, draw)
        try:
            accepted = check(name, data, path)
        except BaseException:
            folder = CORPUS / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            raise
        tried += 1
        read += accepted
        if accepted and len(pool) < 500 and len(data) < 1 << 16:
            pool.append(data)
    return tried, read


def kept(name: str) -> list[bytes]:
    """Inputs that once went wrong, or nearly."""
    folder = CORPUS / name
    return [file.read_bytes() for file in sorted(folder.iterdir())] if folder.is_dir() else []


def main() -> None:
    """Fuzz the targets in turn, in 2 GB of address space beyond what imports take."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    _torch_seeds()
    virtual = _env.virtual_bytes()
    if virtual is not None:
        resource.setrlimit(resource.RLIMIT_AS, (virtual + (2 << 30),) * 2)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in given.targets or TARGETS:
            tried, read = fuzz(name, given.seconds, given.seed, Path(folder) / "input")
            print(f"{name}: {tried:,} files, {read:,} of them read, {tried - read:,} refused")
            if os.listdir(folder) not in ([], ["input"]):  # noqa: PTH208
                sys.exit(f"{name}: something was written: {os.listdir(folder)}")  # noqa: PTH208


if __name__ == "__main__":
    main()
