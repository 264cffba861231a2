"""One decoder layer of three shapes, on 1 and 2 threads, beside transformers' layer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import OPTForCausalLM

from interleaved import Ceiling, Rival
from machine import BEST
from opt_shapes import SHAPES, SMALL, write_checkpoint
from pyneurons import ops
from pyneurons.model import opt
from pyneurons.model.checkpoint import Checkpoint
from roofline import ceilings, on

if TYPE_CHECKING:
    from pathlib import Path

    from interleaved import Interleaved

CONTEXT = 2048
SEQUENCES = {"opt-125m": 8, "opt-350m": 6, "opt-1.3b": 4}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", list(SEQUENCES))
def bench_layer(
    compare: Interleaved, tmp_path: Path, name: str, threads: int, *, small: bool
) -> None:
    shape = SMALL if small else SHAPES[name]
    context, sequences = (64, 2) if small else (CONTEXT, SEQUENCES[name])
    directory = write_checkpoint(tmp_path / "model", shape, layers=1, vocabulary=512)
    checkpoint = Checkpoint(directory)
    weights = opt.convert_layer(checkpoint.read_layer(0), checkpoint.config, torch.bfloat16)
    theirs = OPTForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    layer = theirs.eval().model.decoder.layers[0]

    given = torch.randn(sequences, context, shape.hidden) * 0.5
    hidden = torch.empty_like(given)
    strips, words = ops.strip_shape(shape.neurons)
    mask = np.zeros((sequences, strips, context, words), dtype=np.uint32)
    z_max = torch.full((sequences, shape.neurons), -torch.inf)

    def one(sequence: int) -> None:
        hidden[sequence] = given[sequence]
        opt.decoder_layer(
            hidden[sequence], [context], weights, mask[sequence], z_max[sequence], backend=BEST
        )

    pool = ThreadPoolExecutor(threads)

    def ours() -> None:
        """As the engine does: sequences on its own threads, one thread inside torch."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        list(pool.map(one, range(sequences)))
        torch.set_num_threads(before)

    def plain() -> torch.Tensor:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            answers = [layer(part[None], attention_mask=None) for part in given.bfloat16()]
        return torch.cat([a[0] if isinstance(a, tuple) else a for a in answers])

    ours()
    # Of rows of deviation 1/2 that a layer moves by some tenths, bfloat16 keeps 8 bits.
    assert (hidden - plain().reshape(hidden.shape)).abs().max() < 0.1

    rows = sequences * context
    flops = rows * shape.flops_per_token(context)
    peak = Ceiling(lambda: ceilings().amx(threads), flops, "FLOP")
    compare(
        ours,
        tokens=rows,
        rivals={"transformers bfloat16, OPTDecoderLayer": Rival(plain, rows)},
        ceilings={f"AMX from L1, {on(threads)}": peak},
        flops=flops,
        budget_s=3.0,
        case=f"{name}, one layer, T = {context}, {rows:,} tokens",
        shape=name,
        context=context,
        backend=BEST,
        threads=threads,
        firing_share=float(np.bitwise_count(mask).sum() / (rows * shape.neurons)),
        flops_counted="dense, the causal half of attention; what fc2 skips is counted",
    )
    pool.shutdown()
