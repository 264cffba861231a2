"""A weight laid out once for all products that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pyneurons._memory import aligned_zeros
from pyneurons.errors import DTypeError, NonFiniteError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator

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

        if weight.dtype != torch.bfloat16:
            message = f"{name}: dtype is {weight.dtype}, expected torch.bfloat16"
            raise DTypeError(message)
        return cls.rounded(weight, name)

    @classmethod
    def rounded(cls, weight: Tensor, name: str = "weight") -> Panels:
        """Round a weight of any floating dtype to bfloat16 and lay it out.

        Raises
        ------
        ShapeError
            If it is no matrix.
        NonFiniteError
            If an element is, once rounded, NaN or infinite.

        Notes
        -----
        Cost: one pass over the weight; besides the result, for a while 2 bytes for each element of
        1,024 columns. A whole rounded copy of a matrix of 66b would be 680 MB.
        """
        import torch

        _check_matrix(weight, name)
        columns, terms = weight.shape
        size = -(-columns // WIDTH) * -(-terms // WIDTH) * WIDTH * WIDTH
        data = torch.from_numpy(aligned_zeros((size,), np.uint16)).view(torch.bfloat16)
        for start in range(0, columns, _BLOCK):
            block = weight[start : start + _BLOCK].bfloat16()
            _check_finite(block, name, start)
            _lay_out(block, data[start * (-(-terms // WIDTH) * WIDTH) :])
        return cls(data, (columns, terms))

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
        and part, for a while 2 more for each element and 24 for each of 1,024 columns.
        """
        import torch

        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            message = f"{name}: dtype is {weight.dtype}, expected torch.float32"
            raise DTypeError(message)
        _check_matrix(weight, name)
        blocks: list[list[Tensor]] = []
        for start in range(0, max(1, len(weight)), _BLOCK):
            block = weight[start : start + _BLOCK]
            _check_finite(block, name, start)
            blocks.append([_laid_out(part) for part in _parts(block, cls.MOST)])
        sizes = [len(block[0]) for block in blocks]
        parts: list[Panels] = []
        while any(blocks):
            # Taken out of the list: the memory of the pieces goes as that of the whole comes.
            pieces = [
                block.pop(0) if block else torch.zeros(size, dtype=torch.bfloat16)
                for block, size in zip(blocks, sizes, strict=True)
            ]
            parts.append(Panels(torch.cat(pieces), (weight.shape[0], weight.shape[1])))
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


_BLOCK: Final = 32 * WIDTH
"""Columns that are split at a time: whole panels."""


def _parts(weight: Tensor, most: int) -> Iterator[Tensor]:
    """Yield what a matrix is the sum of, bfloat16: at least one part, as few as are exact."""
    import torch

    largest = torch.finfo(torch.bfloat16).max
    rest = weight.float()
    for number in range(most):
        # The largest numbers of float32 would round to infinity.
        part = rest.bfloat16().clamp_(-largest, largest)
        yield part
        rest = rest - part.float()
        if number + 1 < most and not bool(rest.any()):
            return


def _laid_out(weight: Tensor) -> Tensor:
    """Return the data of `Panels`."""
    import torch

    columns, terms = (-(-side // WIDTH) * WIDTH for side in weight.shape)
    data = torch.from_numpy(aligned_zeros((columns * terms,), np.uint16)).view(weight.dtype)
    _lay_out(weight, data)
    return data


def _lay_out(weight: Tensor, data: Tensor) -> None:
    """Write the data of `Panels` to where ``data`` begins."""
    import torch
    from torch.nn import functional

    columns, terms = weight.shape
    padding = (0, -terms % WIDTH, 0, -columns % WIDTH)
    padded = (functional.pad(weight, padding) if any(padding) else weight).contiguous()
    # Pairs as one number each: element by element this is 9 times as slow (Sapphire Rapids class).
    pairs = padded.view(torch.int32).view(-1, WIDTH, padded.shape[1] // 2)
    into = data[: padded.numel()].view(torch.int32).view(-1, padded.shape[1] // 2, WIDTH)
    into.copy_(pairs.transpose(1, 2))


def _check_matrix(weight: Tensor, name: str) -> None:
    if weight.dim() != 2:
        message = f"{name}: shape is {list(weight.shape)}, expected two axes"
        raise ShapeError(message)


def _check_finite(weight: Tensor, name: str, first: int = 0) -> None:
    """Raise NonFiniteError for the first NaN or infinity; the first row is row ``first``."""
    if weight.numel() == 0:
        return
    least, most = weight.aminmax()  # NaN where an element is; isfinite takes 20 times as long
    if bool(least.isfinite() & most.isfinite()):
        return
    row, column = (~weight.isfinite()).nonzero()[0].tolist()
    value = weight[row, column].item()
    message = f"{name}[{first + row}, {column}] is {value}, expected a finite number"
    raise NonFiniteError(message)
