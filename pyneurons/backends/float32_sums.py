"""Products of torch on a GPU whose sums stay in float32."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SWITCHES: Final = (
    "allow_tf32",
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)


@contextmanager
def float32_sums() -> Iterator[None]:
    """Let torch's products sum in float32, of float32 operands that are not shortened.

    By default it lets cuBLAS add parts of a sum in 16 bits, and a caller may have allowed more.
    """
    import torch

    switches = torch.backends.cuda.matmul
    names = [name for name in SWITCHES if hasattr(switches, name)]  # the last is of torch 2.7
    before = {name: getattr(switches, name) for name in names}
    for name in names:
        setattr(switches, name, False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(switches, name, value)
