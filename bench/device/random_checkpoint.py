"""A checkpoint of any shape without a file: random weights that are made once, in host memory."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from opt_shapes import DEVIATION, FIRING_SHARE, QUANTILES
from pyneurons.model.source import DTYPES, WeightSource

if TYPE_CHECKING:
    from pyneurons.model.config import OptConfig

NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
LAYERS: Final = "decoder.layers."
APART: Final = 37
"""Rows by which the weights of a layer are turned against those of the layer before."""


@dataclass(frozen=True)
class Entry:
    """One tensor that is made of random numbers."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class RandomCheckpoint(WeightSource):
    """Weights for measurements: 66b's shape needs the 2 GB of one layer, not 132 GB of files.

    All layers read the same memory, each from another row on, so that no two are equal. Weights have
    OPT's initial deviation, biases are 0, and those of fc1 so low that about one cell in twenty fires.

    Parameters
    ----------
    config : OptConfig
    dtype : torch.dtype
        Of all tensors.
    device : torch.device
        Where the random numbers are drawn: a GPU makes 66b's billion in a blink, a CPU in ten
        seconds.
    seed : int
    """

    def __init__(
        self,
        config: OptConfig,
        *,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.directory = "random", None
        self.config = config
        self.dtype = dtype
        self.extra = ()
        self._seed = seed
        self._source = torch.device(device)
        self._generator = torch.Generator(self._source).manual_seed(seed)
        self.tensors = {
            name: Entry(
                file=self.name,
                name=name,
                dtype=NAMES[dtype],
                shape=shape,
                bytes=dtype.itemsize * math.prod(shape),
            )
            for name, shape in config.tensor_shapes().items()
        }
        self._made: dict[str, torch.Tensor] = {}
        for name, entry in self.tensors.items():
            kind, _ = self._kind(name)
            if kind not in self._made:
                self._made[kind] = self._draw(kind, entry.shape)

    def fingerprint(self) -> str:
        """Return what tells shapes, dtypes and seeds apart."""
        said = f"random {self.config} {self.dtype} {self._seed}"
        return hashlib.sha256(said.encode()).hexdigest()

    @staticmethod
    def _kind(name: str) -> tuple[str, int]:
        """Return a tensor's name without the number of its layer, and that number."""
        if not name.startswith(LAYERS):
            return name, 0
        layer, _, rest = name.removeprefix(LAYERS).partition(".")
        return rest, int(layer)

    def _draw(self, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
        if "layer_norm" in kind:
            value = 1.0 if kind.endswith("weight") else 0.0
            return torch.full(shape, value, dtype=self.dtype)
        if kind.endswith("bias"):
            low = QUANTILES[FIRING_SHARE] * DEVIATION * self.config.hidden_size**0.5
            return torch.full(shape, low if kind == "fc1.bias" else 0.0, dtype=self.dtype)
        values = torch.empty(shape, dtype=self.dtype, device=self._source)
        return values.normal_(0, DEVIATION, generator=self._generator).cpu()

    def _fill(self, name: str, start: int, values: torch.Tensor) -> None:
        kind, layer = self._kind(name)
        made = self._made[kind]
        at = (start + APART * layer) % len(made)
        done = 0
        while done < len(values):
            some = min(len(values) - done, len(made) - at)
            values[done : done + some] = made[at : at + some]
            done, at = done + some, 0
