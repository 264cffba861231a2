"""Tensors as the checks of the ops see them: NumPy views of their memory, no element read.

A tensor of the CPU is seen as the array that it is. One of a device is seen as a `Shadow`: its address,
shape, strides and element size are those of the tensor, so that every check of these holds for both;
what is checked for its values has to be on the host.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Shadow(np.ndarray[Any, Any]):
    """An array at the address of a tensor of a device: to read or write an element is to crash."""

    name: str
    tensor: Tensor


class _Place:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, found out without loading torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def view(name: str, tensor: Tensor, dtype: np.dtype[Any]) -> Any:
    """Return the array of a plain strided tensor, its elements taken as ``dtype``.

    Parameters
    ----------
    name : str
        What messages call it.
    tensor : Tensor
        Elements of the size of ``dtype``.
    """
    import torch

    if tensor.device.type == "cpu":
        if tensor.dtype == torch.bfloat16:  # NumPy has none
            tensor = tensor.view(torch.int16)
        return tensor.numpy().view(dtype)
    size = dtype.itemsize
    place = _Place(
        {
            "version": 3,
            "shape": tuple(tensor.shape),
            "strides": tuple(size * stride for stride in tensor.stride()),
            "typestr": dtype.str,
            "data": (tensor.data_ptr(), False),
        }
    )
    shadow = np.asarray(place).view(Shadow)
    shadow.name, shadow.tensor = name, tensor
    return shadow
