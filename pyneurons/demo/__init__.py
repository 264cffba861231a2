"""The embedded demo: a small real OPT, the text it was trained on, and its untrained twin.

The model in `model_directory` is an ordinary Hugging Face directory (4096 tokens, 6 layers of 768
neurons, a context of 256, float16), trained by `pyneurons.demo.train` on the train split of
`pyneurons.demo.corpus`; its ``training.json`` holds the loss curve and every setting. Importing
this package loads neither torch nor transformers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pyneurons.demo.corpus import DOMAINS, demo_corpus, documents, held_out_corpus

__all__ = [
    "DOMAINS",
    "demo_corpus",
    "documents",
    "held_out_corpus",
    "model_directory",
    "untrained_twin",
]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
INITIAL_STD = 0.02


def model_directory() -> Path:
    """Return the directory of the embedded model.

    Returns
    -------
    pathlib.Path
        Holds ``config.json``, ``model.safetensors``, ``tokenizer.json``,
        ``tokenizer_config.json`` and ``training.json``.

    Raises
    ------
    FileNotFoundError
        If the installation lacks the model.
    """
    directory = Path(__file__).parent / "model"
    if not (directory / "model.safetensors").is_file():
        message = f"the embedded model is missing from {directory}; reinstall pyneurons"
        raise FileNotFoundError(message)
    return directory


def untrained_twin(directory: str | Path, seed: int = 0) -> Path:
    """Write a checkpoint like the embedded model's, with weights as OPT starts from.

    The control of every finding on the embedded model: what the twin shows as well is owed to the
    architecture and the text, not to training. Matrices and embeddings are drawn from a normal
    distribution with standard deviation 0.02, biases are 0, LayerNorm gains 1.

    Parameters
    ----------
    directory : str or Path
        Where to; made if it does not exist.
    seed : int
        Seed of the weights.

    Returns
    -------
    pathlib.Path
        The directory.
    """
    # A user who only reads results need not have them.
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    source, target = model_directory(), Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors = {}
    with safe_open(source / "model.safetensors", framework="numpy") as weights:
        for name in sorted(weights.keys()):
            shape = tuple(weights.get_slice(name).get_shape())
            if len(shape) > 1:
                drawn = random.normal(0.0, INITIAL_STD, shape)
            else:
                drawn = np.full(shape, float("norm" in name and name.endswith("weight")))
            tensors[name] = drawn.astype(np.float16)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    padding = config["pad_token_id"]
    tensors["model.decoder.embed_tokens.weight"][padding] = 0
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", *TOKENIZER_FILES):
        shutil.copyfile(source / name, target / name)
    return target
