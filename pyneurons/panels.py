"""A bfloat16 weight laid out once for all products that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
        finite = weight.isfinite()
        if not bool(finite.all()):
            place = (~finite).nonzero()[0].tolist()
            message = f"{name}{place} is {weight[tuple(place)].item()}, expected a finite number"
            raise NonFiniteError(message)
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
