"""A weight laid out once for all products that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from pyneurons.errors import DTypeError, NonFiniteError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor, dtype

WIDTH: Final = 32
"""Columns of a panel, and the terms that each step of a sum takes."""


@dataclass(frozen=True, eq=False)
class Panels:
    """A weight [columns, terms] as matrix engines read it.

    ``data`` is bfloat16 ``[ceil(columns / 32), ceil(terms / 32) * 16, 32, 2]``, flat: panels of 32
    columns, in them pairs of terms side by side; zeros behind the last column and the last term.

    Parameters
    ----------
    data : Tensor, flat, bfloat16
    shape : (int, int)
        Columns (outputs) and terms (inputs), the shape of the weight it was made from.
    """

    data: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, weight: Tensor, name: str = "weight") -> Panels:
        """Lay out a weight.

        Parameters
        ----------
        weight : Tensor, [columns, terms], bfloat16
        name : str
            For messages.

        Raises
        ------
        ShapeError, DTypeError
            If it is no bfloat16 matrix.
        NonFiniteError
            If an element is NaN or infinite: products leave out what is multiplied by 0.

        Notes
        -----
        Cost: one pass over the weight; the result is as large, up to padding.
        """
        import torch
        from torch.nn import functional

        if weight.dtype != torch.bfloat16:
            message = f"{name}: dtype is {weight.dtype}, expected torch.bfloat16"
            raise DTypeError(message)
        if weight.dim() != 2:
            message = f"{name}: shape is {list(weight.shape)}, expected two axes"
            raise ShapeError(message)
        columns, terms = weight.shape
        check_finite(weight, name)
        padded = functional.pad(weight, (0, -terms % WIDTH, 0, -columns % WIDTH))
        pairs = padded.view(-1, WIDTH, padded.shape[1] // 2, 2)
        return cls(pairs.transpose(1, 2).contiguous().flatten(), (columns, terms))

    @property
    def dtype(self) -> dtype:
        """Always bfloat16."""
        return self.data.dtype

    def weight(self) -> Tensor:
        """Return the weight, [columns, terms], that was laid out."""
        columns, terms = self.shape
        panels = self.data.view(-(-columns // WIDTH), -1, WIDTH, 2)
        return panels.transpose(1, 2).flatten(2).flatten(0, 1)[:columns, :terms].contiguous()


@dataclass(frozen=True, eq=False)
class SplitPanels:
    """A weight [columns, terms] of float32 as a sum of one to three of bfloat16, laid out.

    ``weight = parts[0] + parts[1] + parts[2]``, each part the bfloat16 nearest to what those before
    leave; as few as are exact. A bfloat16 weight is one, a float16 weight two (11 bits of
    significand in 8 and 3), any other float32 weight three (24 in 8, 8 and 8).

    Parameters
    ----------
    parts : tuple of Panels
        Of the same shape, the largest part first.
    """

    parts: tuple[Panels, ...]

    MOST: ClassVar[int] = 3

    @classmethod
    def of(cls, weight: Tensor, name: str = "weight") -> SplitPanels:
        """Split a weight and lay out its parts.

        Parameters
        ----------
        weight : Tensor, [columns, terms], float32, float16 or bfloat16
        name : str
            For messages.

        Raises
        ------
        ShapeError, DTypeError
            If it is no matrix of these.
        NonFiniteError
            If an element is NaN or infinite.

        Notes
        -----
        Below 2**-103 the third part may be a denormal, which products take for 0: an element is
        then off by less than 2**-126. Cost: a few passes over the weight, 2 bytes for each element
        and part.
        """
        import torch

        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            message = f"{name}: dtype is {weight.dtype}, expected torch.float32"
            raise DTypeError(message)
        if weight.dim() == 2:
            check_finite(weight, name)
        parts: list[Panels] = []
        rest = weight.float()
        while not parts or (len(parts) < cls.MOST and bool(rest.any())):
            part = rest.bfloat16()
            # The largest numbers of float32 round to infinity; then the one below.
            largest = torch.finfo(torch.bfloat16).max
            part = part.clamp_(-largest, largest)
            parts.append(Panels.of(part, name))
            rest = rest - part.float()
        return cls(tuple(parts))

    @property
    def shape(self) -> tuple[int, int]:
        """Columns (outputs) and terms (inputs)."""
        return self.parts[0].shape

    @property
    def dtype(self) -> dtype:
        """Always float32: what the parts add up to."""
        import torch

        return torch.float32

    def weight(self) -> Tensor:
        """Return the weight, [columns, terms], float32."""
        total = self.parts[-1].weight().float()
        for part in self.parts[-2::-1]:
            total += part.weight().float()
        return total


def check_finite(weight: Tensor, name: str) -> None:
    """Raise NonFiniteError for the first NaN or infinity of a matrix."""
    finite = weight.isfinite()
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        message = f"{name}{place} is {weight[tuple(place)].item()}, expected a finite number"
        raise NonFiniteError(message)
