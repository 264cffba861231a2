"""What makes two runs the same: everything that a counter, or any other number of a run, depends on.

Memory budgets, threads and places are not part of it, for no bit depends on them.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from pyneurons import _core, _env, durable
from pyneurons.backends import resolve

if TYPE_CHECKING:
    from pyneurons.corpus import Corpus
    from pyneurons.engine.device import Device
    from pyneurons.engine.run import Settings
    from pyneurons.model.source import WeightSource

TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.json", "merges.txt")

_READ_BYTES: Final = 1 << 24
_CODE: Final = ("backends", "corpus", "engine", "kernels", "model", "observers")
_OTHER_CODE: Final = ("covering.py", "ops.py", "panels.py", "reference.py", "result.py")


def identity(
    checkpoint: WeightSource, corpus: Corpus, settings: Settings, device: Device[Any] | None
) -> dict[str, Any]:
    """Return what a run is of, in plain JSON values.

    Cost: reads every weight once, 1.5 GB/s a thread (Sapphire Rapids class): before the scan, so
    that a run does not go on with weights of which a bit has changed.
    """
    return {
        "model": {
            "fingerprint": checkpoint.fingerprint(),
            "config": asdict(checkpoint.config),
            "weights": weight_hashes(checkpoint, settings.threads),
            "tokenizer": tokenizer_hashes(checkpoint.directory),
        },
        "corpus": {
            "files": [
                {name: source[name] for name in ("domain", "bytes", "sha256")}
                for source in corpus.sources
            ],
            "packing": corpus.packing,
            "context": corpus.context,
            "domains": list(corpus.domains),
            "tokens": corpus.tokens,
            "sequences": corpus.sequences,
            "boundary_id": corpus.boundary_id,
            "sha256": corpus.sha256,
        },
        "options": {
            "layers": list(settings.layers),
            "ngrams": list(settings.ngrams),
            "list_limit": settings.list_limit,
            "flip_sample": settings.flip_sample,
            "projection": settings.projection,
            "keep_bits": settings.keep_bits,
        },
        "numeric": numeric(settings, device),
    }


def numeric(settings: Settings, device: Device[Any] | None) -> dict[str, Any]:
    """Return what rounding depends on: mode, kernels, libraries, machine."""
    backend = resolve(settings.backend)
    found = {
        "mode": settings.mode,
        "float32_products": settings.float32_products,
        "backend": backend.name,
        "isa": backend.isa,
        "host_isa": _core.detect(),
        "processor": _env.processor(),
        "pyneurons": version("pyneurons-scan"),
        "code": code_hash(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    if device is not None:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else type(device).__name__
        found["device"] = gpu
        found["fc1_route"] = settings.fc1_route
        found["neuron_order"] = settings.neuron_order
    return found


def weight_hashes(checkpoint: WeightSource, threads: int) -> dict[str, str]:
    """Return the SHA-256 of each tensor that the configuration calls for."""

    def digest(name: str) -> str:
        found = hashlib.sha256()
        entry = checkpoint.tensors[name]
        step = max(1, _READ_BYTES * entry.shape[0] // entry.bytes)
        for start in range(0, entry.shape[0], step):
            rows = checkpoint.read(name, slice(start, start + step))
            found.update(rows.view(torch.uint8).flatten().numpy().data)
        return found.hexdigest()

    with ThreadPoolExecutor(threads, thread_name_prefix="pyneurons-hash") as pool:
        return dict(zip(checkpoint.tensors, pool.map(digest, checkpoint.tensors), strict=True))


def tokenizer_hashes(directory: Path | None) -> dict[str, str]:
    """Return the SHA-256 of each file that `load_tokenizer` may read; of a loaded model none."""
    if directory is None:
        return {}
    files = [directory / name for name in TOKENIZER_FILES]
    return {path.name: durable.sha256_of(path) for path in files if path.is_file()}


def code_hash() -> str:
    """Return the SHA-256 of the compiled core, the kernels and all code that makes numbers."""
    package = Path(__file__).parent.parent
    files = [package / name for name in _OTHER_CODE]
    for room in _CODE:
        # In a checkout the kernels lie beside the package.
        folder = next(p for p in (package / room, package.parent / room) if p.is_dir())
        files += sorted(folder.rglob("*.py"))
    digest = hashlib.sha256()
    for path in [Path(_core.__file__), *files]:
        digest.update(f"{path.name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
