"""Make the golden runs again: ``.venv/bin/python tests/golden/make.py``.

A finished run and an unfinished one of this release, a few tens of kB, and what is to be read from them
(``expected.json``). Later versions read the first and refuse to go on with the second. Made again
where the format of runs changes before a release, and kept as they are after it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

sys.path.append(str(Path(__file__).resolve().parent.parent / "helpers"))

import checkpoints
import pyneurons
from pyneurons import failpoints
from pyneurons.model.checkpoint import read_config
from pyneurons.result import Run, columns_of, unfinished

HERE = Path(__file__).resolve().parent
FINISHED, UNFINISHED, EXPECTED = HERE / "finished", HERE / "unfinished", HERE / "expected.json"
CONFIG = {
    "model_type": "opt", "vocab_size": 267, "hidden_size": 16, "ffn_dim": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
WORDS = ("the", "thing", "on", "a", "hat", "in", "Ö", "42", "and")


def write_model(directory: Path) -> None:
    """Write a model of which no bit depends on a random generator."""
    checkpoints.write_tokenizer(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    tensors = {}
    shapes = read_config(directory / "config.json").tensor_shapes()
    for number, (name, shape) in enumerate(shapes.items()):
        place = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        values = ((place * 7919 + 31 * number) % 251 - 125) / 128
        values = 1 + values / 8 if "norm.weight" in name else values
        tensors[name] = (values / 4 if values.ndim == 2 else values).astype(np.float32)
    save_file(tensors, directory / "model.safetensors")


def documents() -> dict[str, list[str]]:
    """Return the corpus: two domains of a few words."""
    texts = [
        " ".join(WORDS[(i * i + 3 * j * i) % len(WORDS)] for j in range(2 + i % 5))
        for i in range(1, 9)
    ]
    return {"first": texts[::2], "second": texts[1::2]}


def scan(model: str | Path, out: str | Path, **more: Any) -> pyneurons.Scan:
    """Scan as the golden runs were."""
    plain = {"context": 24, "ngrams": (1, 2), "dtype": "bfloat16", "flip_sample": 30}
    plain |= {"progress": False, "checkpoint_minutes": 0, "threads": 1}
    return pyneurons.scan(model, documents(), out=out, **(plain | more))


def reading(run: pyneurons.Scan) -> dict[str, Any]:
    """Return what is read from a run, as JSON has it: counters, tables, detectors."""
    small = {"tokens": run.tokens, "domain_tokens": run.domain_tokens, "layers": run.layers}
    small |= {"fires": run.fires, "dead": run.dead, "first_fire": run.first_fire}
    small |= {"z_max": run.z_max, "domain_fires": run.domain_fires, "mi": run.mi.round(9)}
    small["position_fires"] = [run.position_fires(layer).sum(axis=0) for layer in run.layers]
    small |= {f"coverage_{n}": run.coverage(n) for n in (1, 2)}
    small |= {f"detectors_{n}": columns_of(run.detectors(n, K=12)) for n in (1, 2)}
    small["vocabulary"] = run.vocabulary(1, 3)
    small["contexts"] = run.contexts(0, 5)[:2]
    small["which"] = columns_of(run.which(" the"))
    small["strings"] = run.strings[:300:25]
    small["rows"] = {
        name: Run.open(run.directory).table(name).num_rows
        for name in ("neurons", "ngrams", "suppression", "vocabulary", "examples", "tokens")
    }
    return json.loads(json.dumps(small, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return str(value)


def main() -> None:
    """Make all of it."""
    with tempfile.TemporaryDirectory() as folder:
        # Plans and manifests hold paths as they were given: none of this machine.
        os.chdir(folder)
        platform.platform = lambda: "Linux"
        write_model(Path("model"))
        run = scan("model", "finished")
        failpoints.arm("layer=error@2")
        try:
            scan("model", "unfinished")
        except RuntimeError:
            failpoints.arm(None)
        (unfinished(Path("unfinished")) / "lock").unlink()
        for place in (FINISHED, UNFINISHED):
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree("finished", FINISHED)
        shutil.copytree(unfinished(Path("unfinished")), UNFINISHED)
        EXPECTED.write_text(json.dumps(reading(run), indent=None) + "\n", encoding="utf-8")
        os.chdir(HERE)


if __name__ == "__main__":
    main()
