"""Sizes, rates and numbers as people write them: ``80GiB``, ``3GB/s``, ``5M``."""

from __future__ import annotations

import math

from pyneurons.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def _value(given: float | str, units: dict[str, int]) -> float | None:
    """Return a number with its unit multiplied in, or None for what is none."""
    if not isinstance(given, str):
        return given
    text = given.strip().lower()
    digits = text.rstrip("kmgti")
    factor = units.get(text[len(digits) :])
    try:
        return float(digits) * factor if factor is not None else None
    except ValueError:
        return None


def _checked(value: float | None, name: str, given: float | str, example: str) -> float:
    if value is None:
        message = f"{name}: {given!r} is not {example}"
        raise InputError(message)
    if not value > 0 or math.isinf(value):
        message = f"{name}: {given} is not a positive number"
        raise InputError(message)
    return value


def size_of(given: float | str, name: str) -> int:
    """Return bytes from a number of bytes or a text such as ``1.5GB`` or ``800MiB``."""
    text = given.strip().lower().removesuffix("b") if isinstance(given, str) else given
    example = "a size; write bytes, or for example 1.5GB"
    return int(_checked(_value(text, _UNITS | _BINARY), name, given, example))


def rate_of(given: float | str, name: str) -> float:
    """Return bytes a second from a text such as ``3GB/s`` (``3GB`` is read alike)."""
    text = given
    if isinstance(given, str):
        text = given.strip().lower().removesuffix("/s").removesuffix("b")
    example = "a rate; write for example 3GB/s"
    return _checked(_value(text, _UNITS | _BINARY), name, given, example)


def number_of(given: float | str, name: str) -> int:
    """Return a whole number from one or a text such as ``5M`` or ``2e6``."""
    value = _checked(_value(given, _UNITS), name, given, "a number; write for example 5M")
    if value != int(value):
        message = f"{name}: {given} is not a whole number"
        raise InputError(message)
    return int(value)
