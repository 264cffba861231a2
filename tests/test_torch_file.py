"""Files of torch.save read as data: what torch saved comes back bit by bit, all else is refused."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch

import torch_files
from pyneurons.errors import InputError, IntegrityError, PyneuronsError
from pyneurons.model.tensor_pickle import GLOBALS, read_pickle
from pyneurons.model.torch_file import TorchFile
from torch_files import Member, name, pickled, tensor, text, torch_zip, zip_archive

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
FORMATS = (True, False)


def save(value: Any, path: Path, *, as_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=as_zip)
    return path


def bytes_of(value: torch.Tensor) -> bytes:
    flat = value.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    """The tensors of the file are these, bit by bit."""
    with TorchFile(path) as file:
        assert list(file.tensors) == list(expected)
        for key, stored in file.tensors.items():
            assert DTYPES[stored.dtype] == expected[key].dtype
            assert stored.shape == tuple(expected[key].shape)
            assert b"".join(map(bytes, file.read(stored))) == bytes_of(expected[key])


def read_all(path: Path) -> None:
    with TorchFile(path) as file:
        for stored in file.tensors.values():
            list(file.read(stored))


@pytest.mark.parametrize("as_zip", FORMATS)
def test_every_dtype(tmp_path: Path, as_zip: bool) -> None:
    values = torch.arange(-12, 12).reshape(4, 6)
    state = {word: values.to(dtype) for word, dtype in DTYPES.items()}
    same(save(state, tmp_path / "x.bin", as_zip=as_zip), state)


@pytest.mark.parametrize("as_zip", FORMATS)
def test_views_parameters_and_shared_storages(tmp_path: Path, as_zip: bool) -> None:
    base = torch.randn(6, 8, 5).half()
    state = OrderedDict(
        whole=base,
        rows=base[2:4],
        transposed=base.permute(2, 0, 1),
        columns=base[:, ::3, 1],
        one=base[1:2, 3:4, 2:3],
        scalar=base[5, 7, 4],
        again=base,
        parameter=torch.nn.Parameter(base[0].float()),
        buffer=torch.nn.Linear(3, 2).weight,
    )
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    same(save(state, tmp_path / "x.bin", as_zip=as_zip), state)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    state = {"a": torch.randn(3, 4), "b": torch.randn(300)}
    torch.save(state, tmp_path / "x.bin", pickle_protocol=protocol)
    same(tmp_path / "x.bin", state)


def test_a_whole_model(tmp_path: Path) -> None:
    import checkpoints

    state = checkpoints.build().state_dict()
    same(save(state, tmp_path / "x.bin"), state)


def test_the_reader_imports_no_torch() -> None:
    code = (
        "import sys, pyneurons.model.convert_worker;"
        "print([m for m in ('torch', 'pickle', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Other parts of the package bring the standard library's pickle along; nothing here uses it.
    assert "torch" not in done.stdout
    from pyneurons.model import tensor_pickle, torch_file

    for module in (tensor_pickle, torch_file):
        assert not {"pickle", "torch"} & set(vars(module))


# ----- hostile pickles ---------------------------------------------------------------------------


class Evil:
    """Makes the canary when it is unpickled."""

    canary = "canary"

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + torch_files.tuple_of(*arguments) + b"R"


TOUCH = text("touch canary")
GOOD = text("a") + tensor()
DICT = name("collections", "OrderedDict") + b")R"

HOSTILE = {
    "os.system": pickled(text("a"), call("os", "system", TOUCH)),
    "posix.system": pickled(GOOD, text("b"), call("posix", "system", TOUCH)),
    "eval": pickled(text("a"), call("builtins", "eval", text("open('canary', 'w')"))),
    "name alone": pickled(text("a"), name("os", "system")),
    "stacked name": pickled(text("a"), text("os"), text("system"), b"\x93" + TOUCH + b"\x85R"),
    "dotted name": pickled(text("a"), name("torch", "os.system") + TOUCH + b"\x85R"),
    "escaped name": pickled(text("a"), b"c\\x6fs\n\\x73ystem\n" + TOUCH + b"\x85R"),
    "escaped known name": pickled(text("a"), b"ctorch\n\\x48alfStorage\n"),
    "name that is no ASCII": pickled(text("a"), "cos\nsyst\u00e9m\n".encode()),
    "nested pickle": pickled(
        text("a"),
        call("pickle", "loads", b"C" + bytes([len(pickle.dumps(Evil()))]) + pickle.dumps(Evil())),
    ),
    "torch.load": pickled(text("a"), call("torch", "load", text("other.bin"))),
    "torch's own loader": pickled(text("a"), call("torch.storage", "_load_from_bytes", text("x"))),
    "hub": pickled(text("a"), call("torch.hub", "load", text("evil/repo"), text("m"))),
    "instance": pickled(text("a"), b"(" + TOUCH + b"ios\nsystem\n"),
    "object": pickled(text("a"), b"(" + name("os", "system") + TOUCH + b"o"),
    "new object": pickled(text("a"), name("subprocess", "Popen") + TOUCH + b"\x85\x81"),
    "new object with names": pickled(text("a"), name("subprocess", "Popen") + TOUCH + b"\x85}\x92"),
    "extension registry": pickled(text("a"), b"\x82\x01"),
    "text persistent id": pickled(text("a"), b"Pcanary\n"),
    "attributes of a foreign class": pickled(
        text("a"), name("torch._utils", "_rebuild_tensor_v2") + b"}" + text("x") + TOUCH + b"sb"
    ),
    "attributes of a tensor": pickled(text("a"), tensor() + b"}" + text("x") + TOUCH + b"sb"),
    "attributes of a dict": pickled(GOOD, tail=b"}" + text("__class__") + TOUCH + b"sb"),
    "attributes that are no dict": pickled(GOOD, tail=DICT + TOUCH + b"\x86b"),
    "item of a non-dict": pickled(text("a"), tensor() + text("x") + TOUCH + b"s"),
    "item of a tuple": pickled(text("a"), b")" + text("x") + TOUCH + b"s"),
    "items of a name": pickled(text("a"), name("torch", "HalfStorage") + b"(" + GOOD + b"u"),
    "item appended to a dict": pickled(text("a"), b"}" + TOUCH + b"a"),
    "items appended to a tensor": pickled(text("a"), tensor() + b"(" + TOUCH + b"e"),
    "name that nothing calls": pickled(
        text("a") + tensor().replace(b"ccollections\nOrderedDict\n)R", b"cos\nsystem\n")
    ),
    "call of a text": pickled(text("a"), TOUCH + b")R"),
    "call of a storage class": pickled(text("a"), call("torch", "FloatStorage", text("10"))),
    "ordered dict of items": pickled(text("a"), call("collections", "OrderedDict", b"]")),
    "call with a list": pickled(text("a"), name("collections", "OrderedDict") + b"]R"),
    "key twice": pickled(GOOD, GOOD),
    "key that is a number": pickled(b"K\x01" + tensor()),
    "odd items": pickled(GOOD, text("b")),
    "memo that was never set": pickled(text("a"), b"h\x07"),
    "pop": pickled(GOOD, tail=b"N0"),
    "empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02u.",
    "two values": b"\x80\x02NN.",
    "open mark": b"\x80\x02N(N.",
    "no stop": pickled(GOOD)[:-1],
    "empty": b"",
    "not a pickle": b"PK or what",
    "unknown opcode": b"\x80\x02\xff.",
    "length of 2**60": b"\x80\x02\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "negative length": b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "text that is no UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "python 2 text": pickled(b"S'os.system'\n" + tensor()),
    "bytes": pickled(text("a"), b"C\x01x"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    for data in (torch_zip(HOSTILE[case], {"0": bytes(16)}), legacy(HOSTILE[case])):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"pytorch_model\.bin") as caught, TorchFile(path):
            pass
        assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == ["pytorch_model.bin"]  # noqa: PTH208


def legacy(
    value: bytes, keys: bytes = b"\x80\x02](" + text("0") + b"e.", tail: bytes | None = None
) -> bytes:
    magic = b"\x80\x02" + torch_files.integer(0x1950A86A20F9469CFC6C) + b"."
    protocol = b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    stored = struct.pack("<Q", 4) + bytes(16) if tail is None else tail
    return magic + protocol + system + value + keys + stored


def test_the_canary_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That what is refused above does harm to who opens it with pickle, and that these files are sound."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / "canary").exists()
    for data in (torch_zip(pickled(GOOD), {"0": bytes(16)}), legacy(pickled(GOOD))):
        (tmp_path / "x.bin").write_bytes(data)
        with TorchFile(tmp_path / "x.bin") as file:
            assert file.tensors["a"].shape == (4,)
    (tmp_path / "x.bin").write_bytes(torch_zip(pickled(GOOD), {"0": bytes(16)}))
    assert torch.equal(torch.load(tmp_path / "x.bin")["a"], torch.zeros(4))


def test_opcodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyneurons.model.tensor_pickle.MOST_OPCODES", 50)
    with pytest.raises(InputError, match="more than 50 opcodes"):
        read_pickle(b"\x80\x02" + b"]" * 60 + b".", "x")


def test_a_mark_that_stays_open_is_no_end() -> None:
    assert read_pickle(b"\x80\x02N.", "x") == (None, 4)
    for left in (b"N(N.", b"NN.", b"."):
        with pytest.raises(InputError, match="an end with more than one value"):
            read_pickle(b"\x80\x02" + left, "x")


def test_bytes_behind_the_last_storage(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(legacy(pickled(GOOD)) + b"x")
    with pytest.raises(InputError, match="1 bytes behind the last storage"):
        TorchFile(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("compressed", "compressed or encrypted"),
        ("encrypted", "compressed or encrypted"),
        ("bomb", "compressed or encrypted"),
        ("member inside another", "overlap"),
        ("member into the directory", "run into the zip directory"),
        ("same member twice", "is there twice"),
        ("path up", "is named"),
    ],
)
def test_why_an_archive_is_refused(tmp_path: Path, case: str, words: str) -> None:
    (tmp_path / "x.bin").write_bytes(ZIPS[case])
    with pytest.raises(InputError, match=words):
        TorchFile(tmp_path / "x.bin")


def test_known_names_are_constants_not_objects() -> None:
    assert all(isinstance(known, str) for known in GLOBALS)
    value, _ = read_pickle(b"\x80\x02" + name("torch", "HalfStorage") + b".", "x")
    assert not callable(value)


def test_a_deep_pickle_neither_recurses_nor_crashes() -> None:
    value, _ = read_pickle(b"\x80\x02)" + b"\x85" * 50_000 + b".", "x")
    del value
    with pytest.raises(InputError, match="no storage"):
        read_pickle(b"\x80\x02)" + b"\x85" * 50_000 + b"Q.", "x")


# ----- storages and views ------------------------------------------------------------------------


def one(stored: bytes | None = None, **view: Any) -> bytes:
    return pickled(text("a") + tensor(stored, **view))


VIEWS = {
    "past the end": one(offset=1),
    "strides past the end": one(shape=(2, 2), stride=(3, 1)),
    "expanded": one(shape=(1 << 40,), stride=(0,)),
    "overflowing shape": one(shape=(1 << 62, 4, 4), stride=(1, 1, 1)),
    "overflowing stride": one(shape=(2,), stride=(1 << 62,)),
    "negative stride": one(offset=3, stride=(-1,)),
    "negative offset": one(offset=-1, shape=(1,)),
    "negative axis": one(shape=(-1,)),
    "no elements": one(shape=(0,)),
    "shape and stride differ": one(shape=(2, 2)),
    "nine axes": one(shape=(1,) * 9, stride=(1,) * 9),
    "storage size": one(torch_files.storage(elements=5)),
    "storage dtype": one(torch_files.storage(kind="DoubleStorage")),
    "storage of another key": one(torch_files.storage(key="1")),
    "key with a path": one(torch_files.storage(key="../data.pkl")),
    "storage of 2**61": one(torch_files.storage(elements=1 << 61)),
    "negative storage": one(torch_files.storage(elements=-4)),
    "untyped storage": one(torch_files.storage(kind="UntypedStorage")),
    "two dtypes": pickled(
        text("a") + tensor(), text("b") + tensor(torch_files.storage(kind="IntStorage"))
    ),
    "two sizes": pickled(
        text("a") + tensor(), text("b") + tensor(torch_files.storage(elements=2), shape=(2,))
    ),
    "storage of a number": one(b"K\x01"),
    "no name": pickled(text("") + tensor()),
    "a long name": pickled(text("a" * 1025) + tensor()),
    "a lone surrogate": pickled(text("\ud800") + tensor()),
    "no tensor": pickled(text("a") + b"K\x01"),
    "a dict of dicts": pickled(text("a") + DICT),
    "a list": b"\x80\x02](" + tensor() + b"e.",
    "a tensor alone": b"\x80\x02" + tensor() + b".",
    "nothing": pickled(),
    "bytes behind": pickled(GOOD) + b"N.",
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_of_what_is_not_there(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.bin"
    for data in (torch_zip(VIEWS[case], {"0": bytes(16)}), legacy(VIEWS[case])):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"x\.bin"), TorchFile(path):
            pass


# ----- zip archives ------------------------------------------------------------------------------

PICKLE = Member("archive/data.pkl", pickled(GOOD))
DATA = Member("archive/data/0", bytes(16))
INNER = zip_archive([Member("archive/data/1", b"")])[: 30 + len("archive/data/1")].ljust(64, b"\0")
ZIPS = {
    "compressed": zip_archive([Member(PICKLE.name, PICKLE.data, method=8), DATA]),
    "compressed storage": zip_archive([PICKLE, Member(DATA.name, bytes(16), method=8)]),
    "bomb": zip_archive([PICKLE, Member(DATA.name, b"", method=8, size=1 << 31)]),
    "encrypted": zip_archive([PICKLE, Member(DATA.name, bytes(16), flags=1)]),
    "same member twice": zip_archive([PICKLE, DATA, DATA]),
    "overlap": zip_archive(
        [PICKLE, DATA, Member("archive/data/1", bytes(16), at=len(PICKLE.data) + 46)]
    ),
    "member inside another": zip_archive(
        [
            Member(PICKLE.name, PICKLE.data),
            Member("archive/data/0", INNER),
            Member(
                "archive/data/1",
                b"",
                at=len(PICKLE.data) + 2 * 30 + len("archive/data.pklarchive/data/0"),
            ),
        ]
    ),
    "member into the directory": zip_archive(
        [PICKLE, DATA, Member("archive/data/1", b"", size=200)]
    ),
    "one header for two": zip_archive(
        [PICKLE, DATA, Member("archive/data/1", b"", at=0, local_name="archive/data/1")]
    ),
    "header outside": zip_archive([PICKLE, Member(DATA.name, bytes(16), at=1 << 30)]),
    "header in the directory": zip_archive([PICKLE, Member(DATA.name, bytes(16), size=200)]),
    "another name in the header": zip_archive(
        [PICKLE, Member(DATA.name, bytes(16), local_name="archive/data/9")]
    ),
    "path up": zip_archive([PICKLE, DATA, Member("archive/../../x", b"")]),
    "absolute path": zip_archive([PICKLE, DATA, Member("/etc/passwd", b"")]),
    "backslash": zip_archive([PICKLE, DATA, Member("archive\\x", b"")]),
    "NUL": zip_archive([PICKLE, DATA, Member("archive/a\0b", b"")]),
    "directory": zip_archive([PICKLE, DATA, Member("archive/data/", b"")]),
    "no name": zip_archive([PICKLE, DATA, Member("", b"")]),
    "two roots": zip_archive([PICKLE, DATA, Member("other/data.pkl", pickled(GOOD))]),
    "no pickle": zip_archive([DATA]),
    "TorchScript": zip_archive([PICKLE, DATA, Member("archive/constants.pkl", b"N.")]),
    "big-endian": zip_archive([PICKLE, DATA, Member("archive/byteorder", b"big")]),
    "no member": zip_archive([]),
    "more members than there are": zip_archive([PICKLE, DATA], count=3),
    "fewer members than there are": zip_archive([PICKLE, DATA], count=1),
    "gap before the directory": zip_archive([PICKLE, DATA])[:-22]
    + b"x"
    + zip_archive([PICKLE, DATA])[-22:],
    "bytes behind": zip_archive([PICKLE, DATA], behind=b"x"),
    "wide without the field": zip_archive(
        [PICKLE, Member(DATA.name, bytes(16), extra=b"\x07\0\0\0")]
    ),
    "wide and 2**63": zip_archive(
        [PICKLE, Member(DATA.name, bytes(16), extra=struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63))]
    ),
    "front alone": zip_archive([PICKLE, DATA])[:40],
    "tar": b"\0" * 1024,
}


@pytest.mark.parametrize("case", ZIPS)
def test_zip_archives_that_torch_does_not_write(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(ZIPS[case])
    with pytest.raises(InputError, match=r"x\.bin") as caught, TorchFile(path):
        pass
    assert caught.value.exit_code == 2


def test_a_comment_and_wide_sizes_are_read(tmp_path: Path) -> None:
    wide = Member(DATA.name, bytes(range(16)), extra=struct.pack("<2H2Q", 1, 16, 16, 16))
    (tmp_path / "x.bin").write_bytes(zip_archive([PICKLE, wide], comment=b"any"))
    with TorchFile(tmp_path / "x.bin") as file:
        assert b"".join(file.read(file.tensors["a"])) == bytes(range(16))


@pytest.mark.parametrize("as_zip", FORMATS)
def test_truncation_anywhere_is_noticed(tmp_path: Path, as_zip: bool) -> None:
    state = {"a": torch.ones(3, 4), "b": torch.ones(2).half()}
    whole = save(state, tmp_path / "whole.bin", as_zip=as_zip).read_bytes()
    path = tmp_path / "x.bin"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError), TorchFile(path):
            pass


def test_every_flipped_bit_of_a_storage_is_noticed(tmp_path: Path) -> None:
    path = save({"a": torch.ones(3, 4), "b": torch.ones(8, 2)[:, 1]}, tmp_path / "x.bin")
    whole = path.read_bytes()
    with TorchFile(path) as file:
        places = [(key, place.offset, place.bytes) for key, place in file._storages.items()]
    for _, offset, size in places:
        for at in range(offset, offset + size):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(IntegrityError, match="checksum"):
                read_all(path)


@pytest.mark.parametrize("as_zip", FORMATS)
def test_no_damage_gives_another_error(tmp_path: Path, as_zip: bool) -> None:
    import random

    whole = bytearray(
        save({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "w", as_zip=as_zip).read_bytes()
    )
    generator = random.Random(7)
    path = tmp_path / "x.bin"
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(whole))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            read_all(path)
        except PyneuronsError:
            refused += 1
    assert refused > 100


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = save({"a": torch.ones(3), "b": torch.ones(4)}, tmp_path / "x.bin")
    with TorchFile(path) as file:
        os.utime(path, ns=(0, 1))
        with pytest.raises(IntegrityError, match="changed since it was opened"):
            list(file.read(file.tensors["a"]))
    with TorchFile(path) as file:
        os.truncate(path, 100)
        with pytest.raises(IntegrityError, match="ended at byte"):
            list(file.read(file.tensors["b"]))


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="no such file"), TorchFile(path):
            pass
