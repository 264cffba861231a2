"""A curve drawn with characters, for a terminal."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np

from pyneurons.errors import ShapeError

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"


def plot(values: np.ndarray, *, width: int = 72, height: int = 4, first_position: int = 0) -> str:
    """Draw firing frequencies by position with block characters.

    Parameters
    ----------
    values : float [T]
        Frequencies between 0 and 1.
    width : int
        Columns of the whole drawing, labels included. A column shows the mean of its positions.
    height : int
        Rows of the curve.
    first_position : int
        Position of ``values[0]``, for the labels.

    Returns
    -------
    str
        ``height`` lines and one with the first and last position, none longer than ``width``.
        A column is blank only where the neuron never fires, and full only where it always does.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or height < 1:
        message = f"plot: values has shape {list(values.shape)}, height is {height}; "
        message += "expected [T] and at least 1"
        raise ShapeError(message)
    columns = min(values.size, max(width - 3, 1))
    edges = np.linspace(0, values.size, columns + 1).round().astype(np.int64)
    steps = height * (len(_BLOCKS) - 1)
    means = [float(values[a:b].mean()) for a, b in pairwise(edges.tolist())]
    levels = [
        steps if mean >= 1 else min(max(round(mean * steps), 1), steps - 1) if mean > 0 else 0
        for mean in means
    ]
    lines = []
    for row in range(height - 1, -1, -1):
        label = "1" if row == height - 1 else "0" if row == 0 else " "
        filled = (min(max(level - 8 * row, 0), 8) for level in levels)
        lines.append(f"{label} ┤" + "".join(_BLOCKS[part] for part in filled))
    if columns == 0:
        return "\n".join(lines)
    left, right = str(first_position), str(first_position + values.size - 1)
    gap = max(columns - len(left) - len(right), 1)
    axis = left + " " * gap + right if columns > len(left) + len(right) else left
    return "\n".join([*(line.rstrip() for line in lines), ("   " + axis)[:width].rstrip()])
