"""Tensors that say that they lie on a device, in memory of the host: what stands for a GPU in tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from pyneurons import backends


class Elsewhere(torch.Tensor):
    """A tensor whose device is cuda:0; what is made of it is a plain tensor of the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return torch.device("cuda:0")


def as_tensor(array: Any) -> torch.Tensor:
    """The tensor that shares an array's memory: words, keys and narrow counters as signed integers."""
    if isinstance(array, torch.Tensor):
        return array
    return torch.from_numpy(array.view(f"i{array.itemsize}") if array.itemsize > 1 else array)


def elsewhere(array: Any) -> Elsewhere:
    """The same, as a tensor of a device."""
    return torch.Tensor.as_subclass(as_tensor(array), Elsewhere)


def as_device(backend: backends.Backend, ops: frozenset[str], seen: list[Any]) -> backends.Backend:
    """A backend of the device that these tensors name; what it is given for them goes to ``seen``."""

    def plain(op: Any) -> Any:
        def run(*arguments: Any, threads: int) -> None:
            seen.extend(one for one in arguments if isinstance(one, Elsewhere))
            assert not [one for one in arguments if type(one) not in PLAIN]
            op(
                *(
                    torch.Tensor.as_subclass(one, torch.Tensor)
                    if isinstance(one, Elsewhere)
                    else one
                    for one in arguments
                ),
                threads=threads,
            )

        return run

    named = {name: plain(getattr(backend, name)) for name in ops}
    return replace(backend, device="cuda", on_device=ops, **named)


PLAIN = (np.ndarray, torch.Tensor, Elsewhere, int, type(None))
