"""JSON objects read strictly: UTF-8, one value for a key, no NaN, bounds on size, values and depth."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pyneurons.errors import InputError
from pyneurons.model.regular_file import open_regular

if TYPE_CHECKING:
    from pathlib import Path

MOST_DEPTH: Final = 64
"""Deepest nesting; a config.json has 3 levels, the header of a safetensors file 3."""

MOST_VALUES: Final = 2_000_000
"""Most values of one object, 7 for each tensor of a header.

A value costs Python about 100 bytes: parsing stays below 300 MB whatever the text.
"""

_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    Raises
    ------
    InputError
        If it is not UTF-8, not JSON, not an object, names a key twice, holds NaN or Infinity, has
        more than `MOST_VALUES` values or is nested deeper than `MOST_DEPTH`. ``where`` begins the
        message.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            twice, _ = Counter(name for name, _ in items).most_common(1)[0]
            message = f"{where}: the key {twice[:200]!r} stands there twice"
            raise InputError(message)
        return found

    def constant(name: str) -> NoReturn:
        message = f"{where}: {name} is not JSON"
        raise InputError(message)

    check_structure(data, where)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        message = f"{where}: not valid JSON ({error})"
        raise InputError(message) from error
    if not isinstance(value, dict):
        message = f"{where}: holds a JSON {type(value).__name__}, expected an object"
        raise InputError(message)
    return value


def check_structure(data: bytes, where: str) -> None:
    """Bound the number of values and the depth of JSON text before anything is made of it.

    Every value but the first comes after ``,``, ``:`` or ``[``, and keys are strings: counting these
    marks outside strings bounds what a parser would allocate. The text need not be valid.

    Raises
    ------
    InputError
        If there are more than `MOST_VALUES` values, or brackets nest deeper than `MOST_DEPTH`.
    """
    many = data.count(b'"') > 4 * MOST_VALUES
    if not many:
        # Outside strings a backslash is no JSON; inside, what it stands before ends no string.
        plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        outside = b"".join(plain.split(b'"')[::2])
        many = sum(outside.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES
    if many:
        message = f"{where}: more than {MOST_VALUES:,} values"
        raise InputError(message)
    depth = 0
    for bracket in outside.translate(None, _BRACKETS):
        depth += _STEPS[bracket]
        if depth > MOST_DEPTH:
            message = f"{where}: nested deeper than {MOST_DEPTH} levels"
            raise InputError(message)


def read_object(path: Path, *, most_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a regular file of at most ``most_bytes``.

    Raises
    ------
    InputError
        If there is no such file, or `parse_object` refuses it.
    """
    with open_regular(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        message = f"{path}: more than {most_bytes:,} bytes"
        raise InputError(message)
    return parse_object(data, str(path))
