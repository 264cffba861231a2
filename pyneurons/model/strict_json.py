"""JSON objects read strictly: UTF-8, one value for a key, no NaN, no surprise in depth or size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from pyneurons.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    Raises
    ------
    InputError
        If it is not UTF-8, not JSON, not an object, names a key twice, holds NaN or Infinity, or
        is nested deeper than Python recurses. ``where`` begins the message.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            message = f"{where}: the key {twice[:200]!r} stands there twice"
            raise InputError(message)
        return found

    def constant(name: str) -> NoReturn:
        message = f"{where}: {name} is not JSON"
        raise InputError(message)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        message = f"{where}: not valid JSON ({error})"
        raise InputError(message) from error
    if not isinstance(value, dict):
        message = f"{where}: holds a JSON {type(value).__name__}, expected an object"
        raise InputError(message)
    return value


def read_object(path: Path, *, most_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a regular file of at most ``most_bytes``.

    Raises
    ------
    InputError
        If there is no such file, or `parse_object` refuses it.
    """
    # Asked first: opening a FIFO would wait for a writer, and a device has no end.
    if not path.is_file():
        message = f"{path}: no such file"
        raise InputError(message)
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        message = f"{path}: more than {most_bytes:,} bytes"
        raise InputError(message)
    return parse_object(data, str(path))
