"""What a figure needs of a run: `pyneurons.Scan` has it, and so may anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyneurons.analysis.detectors import ExpectedDetectors

Columns = dict[str, Any]


class Source(Protocol):
    """A finished run, as the figures read it.

    Tables are dicts of columns, or Arrow tables; ``layers`` are the absolute ids of the L rows of
    the arrays.
    """

    @property
    def name(self) -> str:
        """What the run is called in legends and file names."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """``manifest["settings"]["ngrams"]`` lists the n that were scanned."""

    @property
    def layers(self) -> Sequence[int]:
        """Absolute ids of the scanned layers."""

    @property
    def n_model_layers(self) -> int:
        """Layers of the model, scanned or not."""

    @property
    def dead(self) -> np.ndarray:
        """Bool [L, F]."""

    @property
    def frequency(self) -> np.ndarray:
        """Fires / tokens, float64 [L, F]."""

    @property
    def full_sequences(self) -> int:
        """Sequences counted in `position_fires`."""

    def exact(self, n: int) -> np.ndarray:
        """Return whose n-gram statistics are exact, bool [L, F]."""

    def coverage(self, n: int) -> np.ndarray:
        """Return covering numbers, int64 [L, F]; asked for where all are exact."""

    def detectors(self, n: int) -> Any:
        """Return the table of `pyneurons.analysis.detectors.detectors`."""

    def detected(self, n: int) -> Any:
        """Return the table of `pyneurons.analysis.ensemble.detected`."""

    def expected_detectors(self, n: int) -> ExpectedDetectors:
        """Return what chance makes, one value per scanned layer."""

    def positional(self) -> Any:
        """Return the table of `pyneurons.analysis.positional.positional`, of all layers."""

    def position_fires(self, layer: int) -> np.ndarray:
        """Return fires by position over full sequences, integer [F, T]."""

    def vocabulary(
        self, layer: int, neuron: int
    ) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """Return the (token, score) that an update promotes most, and suppresses most."""


def columns(table: Any) -> Columns:
    """Return the columns of a table: NumPy arrays where a cell is a number, else lists."""
    names = table.column_names if hasattr(table, "column_names") else list(table)
    out: Columns = {}
    for name in names:
        values = table[name]
        values = values.to_pylist() if hasattr(values, "to_pylist") else values
        is_number = len(values) > 0 and isinstance(values[0], int | float | np.number)
        out[name] = np.asarray(values) if is_number else list(values)
    return out


def orders(run: Source) -> tuple[int, ...]:
    """Return the n of the n-grams that were scanned."""
    return tuple(int(n) for n in run.manifest["settings"]["ngrams"])


def whole(values: Any) -> np.ndarray:
    """Return a column as int64, an empty one too."""
    return np.asarray(values, dtype=np.int64)
