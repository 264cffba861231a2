"""A pickle of tensors by name, read as data: no opcode of it can call, import or make an object.

The table of opcodes and the readers of their arguments are those of `pickletools`, which only splits a
stream; an opcode that is not known here stops the reading before its argument is read. Of the names that a pickle
may ask for, `GLOBALS` are known, each as a constant; any other name, any other opcode, and any other
use of these stops the reading. Nothing here imports torch.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_PICKLE_BYTES: Final = 16 << 20
MOST_OPCODES: Final = 2_000_000

STORAGES: Final = {
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch FloatStorage": "F32",
    "torch DoubleStorage": "F64",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
"""Names of torch's storage classes, with the dtype that safetensors calls them by."""

_OPCODES: Final = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}

_ORDERED: Final = "collections OrderedDict"
_TENSOR: Final = "torch._utils _rebuild_tensor_v2"
_OLD_TENSOR: Final = "torch._utils _rebuild_tensor"
_PARAMETER: Final = "torch._utils _rebuild_parameter"

GLOBALS: Final = frozenset({_ORDERED, _TENSOR, _OLD_TENSOR, _PARAMETER, *STORAGES})
"""Every name that is known, as ``module name``."""


@dataclass(frozen=True)
class Storage:
    """What a pickle says of a storage: its key in the file, dtype and number of elements."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True)
class View:
    """What a pickle says of a tensor: a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str


class _Ordered(dict[str, Any]):
    """What stands for an OrderedDict."""


def read_pickle(data: bytes, where: str, start: int = 0) -> tuple[Any, int]:
    """Read one pickle.

    Parameters
    ----------
    data : bytes
        At most `MOST_PICKLE_BYTES` of it are read.
    where : str
        Begins every message.
    start : int
        Where in ``data`` the pickle begins.

    Returns
    -------
    value : None, bool, int, float, str, `View`, or a tuple, list or dict of these
    end : int
        The byte behind its end.

    Raises
    ------
    InputError
        If it is malformed, uses an opcode or a name that checkpoints of tensors do not need, or
        uses a known one in another way.
    """
    stream = io.BytesIO(data[start : start + MOST_PICKLE_BYTES])
    machine = _Machine(where)
    try:
        for _ in range(MOST_OPCODES):
            machine.at = start + stream.tell()
            opcode = _OPCODES.get(stream.read(1))
            if opcode is None:
                machine.refuse("no opcode, or the end")
            if opcode.name == "STOP":
                return machine.result(), start + stream.tell()
            action = _ACTIONS.get(opcode.name)
            if action is None:
                machine.refuse(f"the opcode {opcode.name}, which tensors do not need")
            action(machine, _argument(opcode, stream))
    # What the readers of arguments raise for one that is cut short or is no text.
    except (ValueError, OverflowError) as error:
        message = f"{where}: not a whole pickle ({str(error)[:200]})"
        raise InputError(message) from error
    message = f"{where}: more than {MOST_OPCODES:,} opcodes"
    raise InputError(message)


def _argument(opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> Any:
    """Read what stands behind an opcode."""
    if opcode.name == "GLOBAL":
        # pickletools would take escapes in names for what they stand for, which pickle does not.
        module, attribute = stream.readline(), stream.readline()
        return f"{module[:-1].decode('ascii')} {attribute[:-1].decode('ascii')}"
    return None if opcode.arg is None else opcode.arg.reader(stream)


class _Machine:
    """The stack and memo of a pickle; every operation checks what it takes."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def refuse(self, what: str) -> NoReturn:
        """Stop, naming the byte."""
        message = (
            f"{self.where}: byte {self.at:,}: {what}; this is no checkpoint of plain tensors, and "
            "nothing of it was run"
        )
        raise InputError(message)

    def pop(self) -> Any:
        """Take the top of the stack."""
        if not self.stack:
            self.refuse("an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the top of the stack, which stays."""
        if not self.stack:
            self.refuse("an empty stack")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        if not self.marks:
            self.refuse("no mark on the stack")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self) -> None:
        """Put a mark on the stack."""
        self.marks.append(self.stack)
        self.stack = []

    def result(self) -> Any:
        """Return the one value that is left."""
        if len(self.stack) != 1 or self.marks:
            self.refuse("an end with more than one value")
        return self.stack[0]

    def put(self, index: int) -> None:
        """Remember the top of the stack."""
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        """Push what was remembered."""
        if index not in self.memo:
            self.refuse(f"memo {index} was never set")
        self.stack.append(self.memo[index])

    def name(self, name: str) -> None:
        """Push a known name."""
        if name not in GLOBALS:
            self.refuse(f"it asks for {name[:200].replace(' ', '.')!r}, which is never called")
        self.stack.append(_Global(name))

    def stacked_name(self) -> None:
        """Push a known name whose parts are on the stack."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self.refuse("a name that is no text")
        self.name(f"{module} {name}")

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values to the dict on top of the stack."""
        target = self.top()
        if not isinstance(target, dict):
            self.refuse(f"items set in a {type(target).__name__}")
        if len(items) % 2:
            self.refuse("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                self.refuse(f"a key that is a {type(key).__name__}, expected text")
            if key in target:
                self.refuse(f"the key {key[:200]!r} stands there twice")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        """Add items to the list on top of the stack."""
        target = self.top()
        if not isinstance(target, list):
            self.refuse(f"items appended to a {type(target).__name__}")
        target += items

    def build(self) -> None:
        """Take the attributes of a state dict, which only its ``_metadata`` may be."""
        state, target = self.pop(), self.top()
        if (
            not isinstance(target, _Ordered)
            or not isinstance(state, dict)
            or [*state] != ["_metadata"]
        ):
            self.refuse(f"attributes set on a {type(target).__name__}")

    def storage(self) -> None:
        """Take a persistent id: ("storage", class, key, location, elements[, None])."""
        given = self.pop()
        if not isinstance(given, tuple) or len(given) not in {5, 6} or given[0] != "storage":
            self.refuse("a persistent id that names no storage")
        kind, key, location, elements = given[1:5]
        if (
            not isinstance(kind, _Global)
            or kind.name not in STORAGES
            or not isinstance(key, str)
            or not isinstance(location, str)
            or not _natural(elements)
            or given[5:] not in ((), (None,))
        ):
            self.refuse("a storage that is described in an unknown way")
        self.stack.append(Storage(key, STORAGES[kind.name], elements))

    def reduce(self) -> None:
        """Take a known name and its arguments for what the call would give."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            self.refuse("a call of something that is no known name")
        match function.name, arguments:
            case ("collections OrderedDict", ()):
                self.stack.append(_Ordered())
            case ("torch._utils _rebuild_tensor_v2", (storage, offset, shape, stride, _, _, *_)) | (
                "torch._utils _rebuild_tensor",
                (storage, offset, shape, stride),
            ) if len(arguments) <= 7:
                self.stack.append(self._view(storage, offset, shape, stride))
            case ("torch._utils _rebuild_parameter", (View() as view, _, _)):
                self.stack.append(view)
            case _:
                self.refuse(f"a call of {function.name.replace(' ', '.')} with other arguments")

    def _view(self, storage: Any, offset: Any, shape: Any, stride: Any) -> View:
        if (
            not isinstance(storage, Storage)
            or not _natural(offset)
            or not _naturals(shape)
            or not _naturals(stride)
            or len(shape) != len(stride)
        ):
            self.refuse("a tensor that is described in an unknown way")
        return View(storage, offset, shape, stride)


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _naturals(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(_natural(item) for item in value)


def _tuple_of(length: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, _: Any) -> None:
        items = [machine.pop() for _ in range(length)]
        machine.stack.append(tuple(reversed(items)))

    return make


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


_ACTIONS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda _machine, _argument: None,
    "FRAME": lambda _machine, _argument: None,
    "MARK": lambda machine, _: machine.mark(),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "BININT": _push,
    "BININT1": _push,
    "BININT2": _push,
    "LONG1": _push,
    "BINFLOAT": _push,
    "BINUNICODE": _push,
    "SHORT_BINUNICODE": _push,
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.marked())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.marked()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.marked()),
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "GLOBAL": lambda machine, name: machine.name(name),
    "STACK_GLOBAL": lambda machine, _: machine.stacked_name(),
    "BINPERSID": lambda machine, _: machine.storage(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
"""What each opcode does to the stack; those that are not here stop the reading."""
