"""The whole scan in float32 beside transformers' float32, and whose pre-activations are closer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from opt_shapes import zipf_rows
from programs import LargestPreactivations
from side_by_side import Scans, Tokens, beside, observed

if TYPE_CHECKING:
    from pathlib import Path

    from interleaved import Interleaved

CONTEXT, AMOUNT, ROUNDS = 2048, 131_072, 2
TOOLS = {"TransformerLens run_with_cache, hook_pre": 2048, "nnsight trace": 4096}


def bench_scan_float32(
    compare: Interleaved, checkpoint: Path, tmp_path: Path, *, small: bool
) -> None:
    amount = 2 * CONTEXT if small else AMOUNT
    beside(
        compare,
        checkpoint,
        Tokens.write(zipf_rows(amount // CONTEXT, CONTEXT), tmp_path),
        tmp_path / "sample",
        dtype="float32",
        theirs=CONTEXT if small else 2 * CONTEXT,
        tools=TOOLS,
        rounds=1 if small else ROUNDS,
        case=f"opt-125m, T = {CONTEXT}, float32, n = 1..3",
        shape="opt-125m",
        **errors(checkpoint, tmp_path / "errors"),
    )


def errors(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Return how far the largest z of every neuron is from float64's, root mean square.

    Where a scan multiplies by torch's float32, its bits are those of transformers, and the ratio 1.
    """
    tokens = Tokens.write(zipf_rows(1, CONTEXT), folder)
    layers = list(observed(checkpoint))
    options = {"dtype": "float32", "context": CONTEXT, "layers": layers, "ngrams": ()}
    scan = Scans(checkpoint, tokens.file, **options).run()
    truth = LargestPreactivations(checkpoint, torch.float64).of(tokens.rows)[layers]
    theirs = LargestPreactivations(checkpoint, torch.float32).of(tokens.rows)[layers]
    ours_rms = float(np.sqrt(np.mean((scan.z_max - truth) ** 2)))
    theirs_rms = float(np.sqrt(np.mean((theirs - truth) ** 2)))
    assert ours_rms < 1e-4 * np.abs(truth).max()
    return {
        "error_rms": ours_rms,
        "error_rms_of_transformers": theirs_rms,
        "error_ratio": ours_rms / theirs_rms,
    }
