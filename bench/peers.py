"""Other tools on the same tokens and checkpoint: TransformerLens and nnsight, offline.

They live in `.venv-bench` (`make bench-peers`) and run there in a process of their own, which does
nothing until it is asked for its turn. `Peer` is this side of it, `main` the other:

    python bench/peers.py TOOL CHECKPOINT DTYPE ROWS.npy

Each line on its standard input says how many of the rows of token ids to run; the answer is one line
of JSON with the seconds that the tool took. What a tool is asked for is what counting needs, by its
own documentation: the pre-activations of every layer, compared with 0 and added up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

HOME = Path(__file__).resolve().parent.parent / ".venv-bench"
PYTHON = HOME / "bin" / "python"
WHY_NOT = "the peers are not installed: make bench-peers"
BATCH_TOKENS = 2048

TOOLS = {
    "TransformerLens run_with_cache, hook_pre": "transformer-lens",
    "TransformerLens run_with_cache, everything": "transformer-lens",
    "nnsight trace": "nnsight",
}


def installed() -> bool:
    """Return whether `make bench-peers` came to its end."""
    return (HOME / ".set-up").exists()


class Peer:
    """One tool in its own process, idle between its turns."""

    def __init__(self, tool: str, checkpoint: Path, dtype: str, rows: Path) -> None:
        self.tool = tool
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        self._child = subprocess.Popen(
            [str(PYTHON), __file__, tool, str(checkpoint), dtype, str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.version = str(self._answer()["version"])

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, f"{self.tool} ended with {self._child.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, rows: int) -> dict[str, Any]:
        """Let it run the first rows; return ``seconds`` and ``fires`` [L, F] as lists."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{rows}\n")
        self._child.stdin.flush()
        return self._answer()

    def seconds(self, rows: int) -> float:
        """Let it run the first rows; return how long it took, by its own clock."""
        return float(self.run(rows)["seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Closes both pipes, which ends it, and waits.
        self._child.__exit__(None, None, None)


# --- in .venv-bench -------------------------------------------------------------------------------


def transformer_lens(model: Any, checkpoint: str, *, everything: bool) -> Callable[[Any], Any]:
    """Return a function that counts fires of a batch through `run_with_cache`."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(checkpoint, hf_model=model, dtype=model.dtype)
    names = [f"blocks.{i}.mlp.hook_pre" for i in range(model.config.num_hidden_layers)]
    wanted = None if everything else names

    def count(ids: torch.Tensor) -> torch.Tensor:
        _, cache = bridge.run_with_cache(ids, names_filter=wanted, return_type=None)
        return torch.stack([(cache[name] > 0).flatten(0, -2).sum(dim=0) for name in names])

    return count


def nnsight_trace(model: Any) -> Callable[[Any], Any]:
    """Return a function that counts fires of a batch inside a trace."""
    import nnsight
    import torch

    wrapped = nnsight.NNsight(model.model)
    layers = range(model.config.num_hidden_layers)

    def count(ids: torch.Tensor) -> torch.Tensor:
        with wrapped.trace(input_ids=ids, use_cache=False):
            counts = nnsight.save([])
            for i in layers:
                z = wrapped.decoder.layers[i].fc1.output
                counts.append((z > 0).reshape(-1, z.shape[-1]).sum(dim=0))
        return torch.stack(counts)

    return count


def main() -> None:
    """Load the tool, then run what standard input asks for."""
    tool, checkpoint, dtype, rows_file = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what tools print is not an answer
    from importlib.metadata import version

    import torch
    from transformers import OPTForCausalLM

    rows = np.load(rows_file)
    model = OPTForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
    if tool == "nnsight trace":
        count = nnsight_trace(model)
    else:
        count = transformer_lens(model, checkpoint, everything=tool.endswith("everything"))
    together = max(1, BATCH_TOKENS // rows.shape[1])
    print(json.dumps({"version": version(TOOLS[tool])}), file=answers)
    for line in sys.stdin:
        ids = torch.from_numpy(rows[: int(line)]).long()
        began = time.perf_counter()
        with torch.inference_mode():
            fires = sum(count(ids[i : i + together]) for i in range(0, len(ids), together))
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "fires": fires.tolist()}), file=answers)


if __name__ == "__main__":
    main()
