"""Products of float32 by torch, the rest in C++: what the faster float32 modes are held to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyneurons.backends import Backend, cpp
from pyneurons.errors import BackendUnavailable

if TYPE_CHECKING:
    from torch import Tensor

    from pyneurons.panels import Panels, SplitPanels


def load(name: str) -> Backend:
    """Return the backend ``torch``, the C++ in it for the best instruction set of this processor."""
    best = cpp.load("cpp")

    def ffn(x: Tensor, *arguments: Any, threads: int) -> None:
        _refuse_bfloat16(x)
        best.ffn(x, *arguments, threads=threads)

    def attention(qkv: Tensor, *_: Any, threads: int) -> None:  # noqa: ARG001
        _refuse_bfloat16(qkv)

    return replace(
        best, name=name, ffn=ffn, attention=attention, linear=linear, float32_products="torch"
    )


def linear(
    x: Tensor,
    weight: Panels | SplitPanels,
    bias: Tensor | None,
    out: Tensor,
    *,
    threads: int,  # noqa: ARG001
) -> None:
    """Multiply by the sum of the parts; the threads are those of torch."""
    _refuse_bfloat16(x)
    cpp.linear(x, weight.weight(), bias, out)


def _refuse_bfloat16(x: Tensor) -> None:
    import torch

    if x.dtype == torch.bfloat16:
        message = "backend 'torch': it multiplies float32 only; pass dtype=\"float32\""
        raise BackendUnavailable(message)
