"""The map from the residual stream to scores of the vocabulary."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from pyneurons.model.source import Embeddings

PROJECTIONS = ("dot", "cosine", "final_norm")

NEURON_BLOCK = 256
"""Neurons that are projected together."""

ROWS = 512
"""Rows that are converted together: they stay in L2."""

_BLOCK = 8192
DOUBLE_ROWS = 2048
"""Rows that are converted to float64 together, on a device that is not the CPU."""


@dataclass(frozen=True)
class Rounded:
    """Rows in 16 bits."""

    rows: torch.Tensor  # float16 or bfloat16 [V', E], `scale` times the rows
    scale: float  # a power of two
    share: float  # the largest length that rounding took from a row, as a share of the row's


@dataclass(frozen=True)
class Unembedding:
    """The map from the residual stream to vocabulary scores.

    ``rows [V', E]`` are the rows of the output embedding that have a tokenizer entry (``ids``),
    in the checkpoint's dtype; ``project_out [E, D]`` stands between where there is one (350m).
    All tensors lie on one device, and what is computed from them stays there.
    """

    rows: torch.Tensor
    ids: np.ndarray
    project_out: torch.Tensor | None
    final_norm_gain: torch.Tensor | None
    projection: str = "dot"

    @classmethod
    def of(
        cls, embeddings: Embeddings, strings: Sequence[str | None], projection: str
    ) -> Unembedding:
        """Return the map of a model, without the ids that have no string; of no strings, all ids."""
        size = embeddings.head.shape[0]
        ids = np.arange(size)
        if strings:
            ids = np.array([i for i, string in enumerate(strings) if string is not None])
            ids = ids[ids < size]
        head = embeddings.head
        rows = head if ids.size == size else head[torch.from_numpy(ids)]
        return cls(rows, ids, embeddings.project_out, embeddings.final_norm_weight, projection)

    @property
    def threaded(self) -> bool:
        """Whether threads share the work: on the CPU; another device has its own parallelism."""
        return self.rows.device.type == "cpu"

    def to(self, device: torch.device | str) -> Unembedding:
        """Return this map with its tensors on a device; those that are there are not copied."""
        project_out, gain = self.project_out, self.final_norm_gain
        return replace(
            self,
            rows=self.rows.to(device),
            project_out=None if project_out is None else project_out.to(device),
            final_norm_gain=None if gain is None else gain.to(device),
        )

    def directions(self, update: torch.Tensor) -> torch.Tensor:
        """Return what rows are multiplied with for updates [B, D]: float32 [B, E]."""
        update = update.float()
        if self.projection == "final_norm":
            update = update - update.mean(dim=1, keepdim=True)
            if self.final_norm_gain is not None:
                update = update * self.final_norm_gain.float()
        if self.project_out is not None:
            if self.threaded:
                update = update @ self.project_out.float().T
            else:  # In float32 a GPU may be allowed to round to TF32.
                update = (update.double() @ self.project_out.double().T).float()
        if self.projection == "cosine":
            update = update / update.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return update

    def block(self, start: int, out: torch.Tensor) -> None:
        """Write rows from ``start`` on, in float32, to ``out``: what directions are multiplied with."""
        out.copy_(self.rows[start : start + out.shape[0]])
        self._finish(out)

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (first row, at most 8,192 rows of `block`), in a buffer that is used again."""
        height, width = self.rows.shape
        buffer = torch.empty(min(_BLOCK, height), width, device=self.rows.device)
        for start in range(0, height, _BLOCK):
            rows = buffer[: min(_BLOCK, height - start)]
            self.block(start, rows)
            yield start, rows

    def take(self, columns: torch.Tensor) -> torch.Tensor:
        """Return single rows of `block`."""
        rows = self.rows.index_select(0, columns).float()
        self._finish(rows)
        return rows

    @functools.cached_property
    def total(self) -> torch.Tensor:
        """The sum of all rows, float64 [E]."""
        total = torch.zeros(self.rows.shape[1], dtype=torch.float64, device=self.rows.device)
        for _, rows in self.blocks():
            # In parts: the float64 copy of a block would be twice its size.
            for few in torch.split(rows, ROWS):
                total += few.double().sum(dim=0)
        return total

    def means(self, directions: torch.Tensor) -> torch.Tensor:
        """Return the mean scores of directions [B, E] over the vocabulary, float64 [B]."""
        return directions.double() @ self.total / self.rows.shape[0]

    def scores(self, directions: torch.Tensor, out: torch.Tensor, pool: Executor) -> None:
        """Write the scores of directions [B, E] on the whole vocabulary, float32 [B, V'].

        Cost: 2 B V' E operations in float32; memory: 512 E float32 a thread. On another device than
        the CPU the operations are in float64, on 8,192 rows in float32 and 2,048 in float64 at a time.
        """
        if not self.threaded:
            exact = directions.double()
            for first, rows in self.blocks():
                for start in range(0, len(rows), DOUBLE_ROWS):
                    few = rows[start : start + DOUBLE_ROWS]
                    place = slice(first + start, first + start + len(few))
                    out[:, place] = exact @ few.double().T
            return

        def multiply(start: int) -> None:
            rows = torch.empty(min(ROWS, self.rows.shape[0] - start), self.rows.shape[1])
            self.block(start, rows)
            torch.mm(directions, rows.T, out=out[:, start : start + rows.shape[0]])

        list(pool.map(multiply, range(0, self.rows.shape[0], ROWS)))

    @functools.cached_property
    def lengths(self) -> torch.Tensor:
        """The lengths of rows, float32 [V'], none of them 0: a row of zeros is there as well."""
        return torch.cat([rows.norm(dim=1) for _, rows in self.blocks()]).clamp_min_(1e-30)

    @functools.cached_property
    def rounding(self) -> float:
        """The largest length that rounding to bfloat16 takes from a row, as a share of the row's."""
        return self._rounding(torch.bfloat16, 1.0)

    @functools.cached_property
    def rounded(self) -> Rounded:
        """The rows in 16 bits, for products on a GPU: as they are where they have them."""
        if self.rows.dtype.itemsize == 2 and self.projection != "cosine":
            return Rounded(self.rows, 1.0, 0.0)
        # Of numbers that do not differ too much float16 keeps 3 bits more.
        largest = max(float(rows.abs().max()) for _, rows in self.blocks())
        scale = 2.0 ** -math.frexp(largest)[1]
        share = self._rounding(torch.float16, scale)
        dtype = torch.float16
        if share > self.rounding:
            dtype, scale, share = torch.bfloat16, 1.0, self.rounding
        rounded = torch.empty(self.rows.shape, dtype=dtype, device=self.rows.device)
        for first, rows in self.blocks():
            rounded[first : first + len(rows)] = rows.mul_(scale)
        return Rounded(rounded, scale, share)

    def _rounding(self, dtype: torch.dtype, scale: float) -> float:
        """Return the largest share of a row's length that rounding ``scale`` times the row takes."""
        largest = 0.0
        for first, rows in self.blocks():
            if scale != 1:
                rows.mul_(scale)
            lost = (rows - rows.to(dtype)).norm(dim=1)
            length = self.lengths[first : first + len(rows)] * scale
            largest = max(largest, float((lost / length).max()))
        return largest

    def _finish(self, rows: torch.Tensor) -> None:
        if self.projection == "cosine":
            rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
