"""Which tiles of `ffn` are fastest on this card, as entries for ``pyneurons/backends/triton_tiles.json``.

Every candidate has to be compiled, about a minute in all: this part runs when it is asked for.
"""

from __future__ import annotations

import time
from typing import Final

import torch

from commit import commit
from device.part import Part, run
from device.products import MODELS, ROWS
from pyneurons.backends import triton_measure
from pyneurons.model.config import PUBLISHED

SECONDS: Final = 40
"""Of one shape, its kernels to be compiled; not measured yet."""


def measure(part: Part) -> None:
    """Time every candidate in both products of each shape, float16."""
    if part.toy:
        part.absent("tiles", "what the interpreter takes says nothing of a card")
        return
    where = f"{torch.cuda.get_device_name()}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    for model in MODELS:
        if not part.in_time("tiles", SECONDS, model=model):
            continue
        config = PUBLISHED[model]
        found = triton_measure.measure_tiles(
            ROWS,
            config.hidden_size,
            config.ffn_dim,
            torch.float16,
            part.device,
            source=f"measured on {where}, {commit() or 'a tree without git'}",
        )
        part.record("tiles", model=model, **found)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    run(measure)
