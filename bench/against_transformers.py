"""A whole scan beside what a user would run instead: transformers with counting hooks.

Both see the same tokens of the same random checkpoint in one process, in turns: a part of the
transformers run, the scan, another part. Before anything is timed, the counts of both programs are
compared on two sequences in float32, where they must agree but for cells next to 0.

    python bench/against_transformers.py --tokens 262144 --memory 1.5GB
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from opt_shapes import FIRING_SHARE, SHAPES, write_checkpoint, zipf_rows
from transformers import OPTForCausalLM

import pyneurons


class Hooked:
    """transformers' OPT with a hook that counts z > 0 behind every fc1."""

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self.model = OPTForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self.counts = [torch.zeros(0)] * len(self.model.model.decoder.layers)
        for i, layer in enumerate(self.model.model.decoder.layers):
            self.counts[i] = torch.zeros(layer.fc1.out_features, dtype=torch.int64)
            layer.fc1.register_forward_hook(self._counter(i))

    def _counter(self, layer: int):
        def count(_module: object, _inputs: object, output: torch.Tensor) -> None:
            self.counts[layer] += (output > 0).reshape(-1, output.shape[-1]).sum(dim=0)

        return count

    def run(self, rows: np.ndarray) -> float:
        """Run the decoder (no head) on each sequence; return the seconds it took."""
        began = time.perf_counter()
        with torch.inference_mode():
            for row in rows:
                self.model.model(input_ids=torch.from_numpy(row[None]).long(), use_cache=False)
        return time.perf_counter() - began


def check(directory: Path, rows: np.ndarray) -> int:
    """Compare the counts of both programs in float32; return the largest difference."""
    hooked = Hooked(directory, torch.float32)
    hooked.run(rows)
    scan = scan_of(directory, rows, dtype="float32")
    difference = np.abs(scan.fires - np.stack([c.numpy() for c in hooked.counts]))
    if int(difference.max()) > 2 or int(difference.sum()) > 1e-5 * scan.fires.size * rows.size:
        message = f"the two programs disagree: {difference.sum()} fires, {difference.max()} at most"
        raise SystemExit(message)
    return int(difference.sum())


def scan_of(directory: Path, rows: np.ndarray, **options: object) -> pyneurons.Scan:
    """Scan rows of ids given in a file."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", rows)
        return pyneurons.scan(directory, Path(folder) / "rows.npy", **options)


def main() -> None:
    """Time both programs and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="opt-125m", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--hooked-tokens", type=int, default=65_536)
    parser.add_argument("--memory", default=None)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = write_checkpoint(Path(folder) / "model", options.shape)
        rows = zipf_rows(options.tokens // options.context, options.context, 50272)
        differ = check(directory, rows[:2])
        hooked = Hooked(directory, getattr(torch, options.dtype))
        half = options.hooked_tokens // options.context // 2
        hooked.run(rows[:1])
        seconds = hooked.run(rows[:half])
        before = half * options.context / seconds
        scan = scan_of(directory, rows, dtype=options.dtype, memory=options.memory, flip_sample=0)
        seconds = hooked.run(rows[half : 2 * half])
        after = half * options.context / seconds
    timing = scan.manifest["timing"]
    thread_s = timing["thread_s"]
    plan = scan.manifest["plan"]
    # Stages on the worker threads are summed over threads, the others are seconds of one.
    threaded = ("embedding", "attention", "norm", "ffn", "residual")
    wall = {k: v / (plan["threads"] if k in threaded else 1) for k, v in thread_s.items()}
    record = {
        "shape": options.shape,
        "context": options.context,
        "tokens": scan.tokens,
        "dtype": options.dtype,
        "memory": options.memory,
        "firing_share": float(scan.frequency.mean()),
        "firing_share_aimed_at": FIRING_SHARE,
        "cells_that_differ_in_float32": differ,
        "scan_tokens_per_s": timing["tokens_per_s"],
        "hooks_tokens_per_s": [before, after],
        "ratio": timing["tokens_per_s"] / ((before + after) / 2),
        "stages_share": {k: v / sum(wall.values()) for k, v in wall.items()},
        "predicted_peak_bytes": plan["predicted_peak_bytes"],
        # Of the whole process, transformers' model and this script's arrays included.
        "peak_resident_bytes": timing["peak_resident_bytes"],
        "residual": plan["residual"],
        "threads": plan["threads"],
        "torch": torch.__version__,
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
