"""What a run that survives costs: the demo scan with ``out=`` beside the same in a temporary run."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

import pyneurons
from interleaved import Rival, quartiles
from pyneurons import corpus, demo
from pyneurons.model.checkpoint import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from interleaved import Interleaved

CONTEXT, AMOUNT, ROUNDS = 256, 300_032, 12


def bench_commits(compare: Interleaved, tmp_path: Path, *, small: bool) -> None:
    amount = 16 * CONTEXT if small else AMOUNT
    with corpus.read(
        demo.demo_corpus(),
        load_tokenizer(demo.model_directory()),
        context=CONTEXT,
        packing="pack",
        vocab_size=4096,
        scratch=tmp_path,
    ) as read:
        full = read.starts[:-1][read.full][: amount // CONTEXT]
        rows = read.ids[full[:, None] + range(CONTEXT)]
    np.save(tmp_path / "rows.npy", rows.astype(np.int32))
    seconds: dict[str, list[float]] = {name: [] for name in ("commits", "residual", "whole")}

    def scan(out: Path | None) -> pyneurons.Scan:
        return pyneurons.scan("demo", tmp_path / "rows.npy", out=out, progress=False)

    def lasting() -> None:
        run = scan(tmp_path / "run")
        timing = run.manifest["timing"]
        seconds["commits"].append(timing["commit_s"])
        seconds["residual"].append(timing["thread_s"].get("keeping the residual", 0.0))
        seconds["whole"].append(timing["total_s"])
        shutil.rmtree(tmp_path / "run")

    temporary = scan(None)
    kept = scan(tmp_path / "run")
    assert np.array_equal(kept.fires, temporary.fires)
    shutil.rmtree(tmp_path / "run")

    def notes() -> dict[str, Any]:
        spent = np.add(seconds["commits"], seconds["residual"])
        return {
            "commit_s": quartiles(seconds["commits"]),
            "residual_s": quartiles(seconds["residual"]),
            "share": quartiles(spent / np.array(seconds["whole"])),
        }

    compare(
        lasting,
        tokens=int(rows.size),
        rivals={"the same in a temporary run": Rival(lambda: scan(None), int(rows.size))},
        rounds=1 if small else ROUNDS,
        notes=notes,
        case="demo model, out= beside a temporary run",
        threads=2,
    )
