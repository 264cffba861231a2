"""An OPT checkpoint on disk: config.json and safetensors, checked whole before anything is read.

The one room that imports huggingface_hub and safetensors for a model. Nothing of a
checkpoint is run: no pickle, no code of its own, no Auto class.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from pyneurons.errors import InputError, IntegrityError
from pyneurons.model.config import BOUNDS, DEFAULTS, PUBLISHED, OptConfig, check_field
from pyneurons.model.regular_file import Version, check_version, pread_into
from pyneurons.model.safetensors_file import Entry, Header, read_header
from pyneurons.model.source import (
    DTYPES,
    FINGERPRINT_BYTES,
    Embeddings,
    WeightSource,
    check_tensors,
    named,
)
from pyneurons.model.strict_json import read_object
from pyneurons.model.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "DTYPES",
    "Checkpoint",
    "Embeddings",
    "OptConfig",
    "find_config",
    "load_tokenizer",
    "read_config",
    "resolve",
]

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
BIN_FILE: Final = "pytorch_model.bin"
BIN_INDEX_FILE: Final = "pytorch_model.bin.index.json"

_MOST_CONFIG_BYTES: Final = 1 << 20
_MOST_INDEX_BYTES: Final = 100_000_000
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SIDE_FILES: Final = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
_HUB_WEIGHTS: Final = (SINGLE_FILE, INDEX_FILE, "model-*.safetensors")
_HUB_PICKLES: Final = (BIN_FILE, BIN_INDEX_FILE, "pytorch_model-*.bin")
_BOOLEANS: Final = (
    "do_layer_norm_before",
    "_remove_final_layer_norm",
    "enable_bias",
    "layer_norm_elementwise_affine",
    "tie_word_embeddings",
)


def resolve(model: str | Path, *, pickled: bool = False) -> Path:
    """Return the directory of a model.

    Parameters
    ----------
    model : str or Path
        A local directory, or a Hugging Face id (``facebook/opt-125m``): its files come from the
        local cache, and are downloaded into it where the hub can be reached.
    pickled : bool
        Ask the hub for pickled weights in place of safetensors, for `convert`.

    Raises
    ------
    InputError
        If there is no such directory and no such model.
    """
    path = Path(model).expanduser()
    # An empty text is what an unset variable of a shell gives, not the directory at hand.
    if str(model) and path.is_dir():
        return path
    if str(model) and path.exists():
        message = f"{path}: not a directory; give the one that holds config.json"
        raise InputError(message)
    if not isinstance(model, str) or not _HUB_ID.fullmatch(model):
        message = f"{model}: no such directory, and not the id of a model (owner/name)"
        raise InputError(message)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        wanted = (*_SIDE_FILES, *(_HUB_PICKLES if pickled else _HUB_WEIGHTS))
        return Path(snapshot_download(model, allow_patterns=list(wanted)))
    # LocalEntryNotFoundError, what an unreachable hub gives, is a FileNotFoundError.
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"{model}: no such directory, and no model from the hub or its cache ({reason})"
        raise InputError(message) from error


def find_config(model: str | Path) -> OptConfig:
    """Return the configuration of a model without its weights.

    Parameters
    ----------
    model : str or Path
        A published size (``66b``, ``opt-66b``, ``facebook/opt-66b``), known without a file; a
        directory that holds config.json and need not hold weights; that file itself.

    Raises
    ------
    InputError
        If it is none of these, or `read_config` refuses the file.
    """
    path = Path(model).expanduser()
    if str(model) and path.is_dir():
        return read_config(path / "config.json")
    if path.name == "config.json" and path.is_file():
        return read_config(path)
    size = str(model).removeprefix("facebook/").removeprefix("opt-")
    if size in PUBLISHED:
        return PUBLISHED[size]
    message = (
        f"{model}: no directory with a config.json, and none of the sizes {', '.join(PUBLISHED)}"
    )
    raise InputError(message)


def read_config(path: Path) -> OptConfig:
    """Read a config.json; what it leaves out is as transformers' OPTConfig has it.

    Raises
    ------
    InputError
        If the model is not an OPT with ReLU neurons in plain floating point, wants code of its
        own, or a number is out of bounds.
    """
    return config_of(read_object(path, most_bytes=_MOST_CONFIG_BYTES), path)


def config_of(raw: Mapping[str, Any], path: Path | str) -> OptConfig:
    """Return the configuration in the fields of a config.json; ``path`` is for messages.

    Raises
    ------
    InputError
        As `read_config`.
    """
    if raw.get("model_type") != "opt":
        message = f"{path}: model_type is {raw.get('model_type')!r:.80}, expected 'opt'"
        raise InputError(message)
    activation = raw.get("activation_function", "relu")
    if activation != "relu":
        message = (
            f"{path}: activation_function is {activation!r:.80}; only with 'relu' does a neuron "
            "fire or not"
        )
        raise InputError(message)
    for name, why in (
        ("auto_map", "code of its own, which is never run"),
        ("custom_pipelines", "code of its own, which is never run"),
        ("trust_remote_code", "code of its own, which is never run"),
        ("quantization_config", "quantized weights, which are not read"),
    ):
        if raw.get(name) not in (None, False):
            message = f"{path}: {name} asks for {why}"
            raise InputError(message)
    for name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        # A name with a slash is one of a repository on the hub, whose kernels others would load.
        if "/" in str(raw.get(name)):
            message = f"{path}: {name} asks for code from {raw[name]!r:.80}, which is never run"
            raise InputError(message)
    given = {name: raw[name] for name in (*BOUNDS, *_BOOLEANS) if name in raw}
    if given.get("word_embed_proj_dim", 0) is None:
        del given["word_embed_proj_dim"]
    for name, value in given.items():
        check_field(name, value, str(path))

    full: dict[str, Any] = {**DEFAULTS, **given}
    full.setdefault("word_embed_proj_dim", full["hidden_size"])
    full["remove_final_layer_norm"] = full.pop("_remove_final_layer_norm")
    try:
        return OptConfig(**full)
    except InputError as error:
        message = f"{path}: {error}"
        raise InputError(message) from error


class Checkpoint(WeightSource):
    """An OPT model on disk; ``tensors`` tells of each its file, offset and bytes as well.

    Parameters
    ----------
    directory : Path or str
        Holds config.json and model.safetensors, or model.safetensors.index.json and its shards
        (the single file is taken where both are there, as transformers does).

    Raises
    ------
    InputError
        If a file is missing or malformed, or does not fit the configuration.

    Notes
    -----
    Tensors are read with pread into memory of their own, never mapped: a file that shrinks while
    it is read gives an error and not SIGBUS. Safe for several threads.
    """

    def __init__(self, directory: Path | str) -> None:
        super().__init__()
        self.directory: Path = Path(directory)
        self.name = self.directory.name
        self.config = read_config(self.directory / "config.json")
        self._headers = _read_headers(self.directory)
        self._versions: Mapping[Path, Version] = {
            header.file: header.version for header in self._headers
        }
        found = _by_name(self._headers)
        expected = self.config.tensor_shapes()
        check_tensors(self.directory, found, expected)
        self._entries: dict[str, Entry] = {name: found[name] for name in expected}
        self.tensors = self._entries
        self.extra = tuple(sorted(set(found) - set(expected)))
        self.dtype = self._layer_dtype()

    def _fill(self, name: str, start: int, values: torch.Tensor) -> None:
        """Read rows of a tensor from ``start`` on."""
        entry = self._entries[name]
        offset = entry.offset + start * (entry.bytes // entry.shape[0])
        self._pread(entry.file, offset, values.view(torch.uint8).flatten().numpy().data)

    def fingerprint(self) -> str:
        """Return a SHA-256 that tells this model from others.

        Over the configuration, each file's header and size, and the first 4,096 bytes of each
        tensor; the name and place of the directory do not matter. A changed bit elsewhere in the
        weights is not noticed.
        """
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for header in self._headers:
            digest.update(f"\n{header.version.size} {len(header.raw)}\n".encode())
            digest.update(header.raw)
            for entry in header.entries:
                head = bytearray(min(FINGERPRINT_BYTES, entry.bytes))
                self._pread(entry.file, entry.offset, memoryview(head))
                digest.update(head)
        return digest.hexdigest()

    def _pread(self, file: Path, offset: int, into: memoryview) -> None:
        """Fill ``into`` from ``offset``, sure that the file is the one that was opened."""
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            message = f"{file}: cannot be read any more ({error.strerror})"
            raise IntegrityError(message) from error
        try:
            check_version(file, descriptor, self._versions[file])
            pread_into(descriptor, offset, into, file)
            check_version(file, descriptor, self._versions[file])
        finally:
            os.close(descriptor)


def _read_headers(directory: Path) -> tuple[Header, ...]:
    """Return the headers of a checkpoint's files, in order of their names."""
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.is_file():
        return (_checked_header(single),)
    if not index.is_file():
        raise InputError(_no_safetensors(directory))
    weight_map = read_weight_map(index, ".safetensors")
    files = sorted(set(weight_map.values()))
    headers = tuple(_checked_header(directory / file) for file in files)
    held = {(entry.name, header.file.name) for header in headers for entry in header.entries}
    wrong = sorted(held ^ set(weight_map.items()))
    if wrong:
        message = f"{index}: does not agree with the files about " + named(
            f"{name} in {file}" for name, file in wrong
        )
        raise InputError(message)
    return headers


def read_weight_map(index: Path, suffix: str) -> dict[str, str]:
    """Return the file of each tensor that an index names, all in the directory of the index.

    Raises
    ------
    InputError
        If there is no map, a name is no plain file name that ends in ``suffix``, or a file is not
        there.
    """
    weight_map = read_object(index, most_bytes=_MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        message = f"{index}: no weight_map"
        raise InputError(message)
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _plain_name(file, suffix):
            message = f"{index}: {name[:200]!r} is in {file!r:.200}, expected a file name"
            raise InputError(message)
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        message = f"{index}: files that are not there: {named(missing)}"
        raise InputError(message)
    return weight_map


def bin_files(directory: Path) -> tuple[list[Path], Path | None]:
    """Return the files of pickled weights, and their index where there is one; nothing is opened.

    Raises
    ------
    InputError
        If there are none, or the index is malformed or names a file that is not there.
    """
    single, index = directory / BIN_FILE, directory / BIN_INDEX_FILE
    if single.is_file():
        return [single], None
    if not index.is_file():
        message = f"{directory}: neither {BIN_FILE} nor {BIN_INDEX_FILE}"
        raise InputError(message)
    return [
        directory / file for file in sorted(set(read_weight_map(index, ".bin").values()))
    ], index


def _plain_name(file: str, suffix: str) -> bool:
    """Whether a name can only mean a file of the directory itself with this suffix."""
    plain = re.fullmatch(r"[\w-][\w.-]*", file, flags=re.ASCII) is not None
    return plain and file.endswith(suffix) and file != suffix


def _checked_header(path: Path) -> Header:
    """Return a header that pyneurons and the safetensors library both accept."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as opened:
            names = set(opened.keys())
    except (SafetensorError, OSError) as error:
        message = f"{path}: the safetensors library refuses it ({error})"
        raise InputError(message) from error
    if names != {entry.name for entry in header.entries}:
        message = f"{path}: the safetensors library reads other tensors in it"
        raise InputError(message)
    return header


def _no_safetensors(directory: Path) -> str:
    pickled = sorted(path.name for path in directory.glob("pytorch_model*.bin"))
    found = f", only {pickled[0]}, a pickle, which a scan never opens" if pickled else ""
    return (
        f"{directory}: neither {SINGLE_FILE} nor {INDEX_FILE}{found}. Where a model has pickled "
        "weights alone (the facebook/opt-* repositories), write safetensors once: "
        f"pyneurons convert {directory if pickled else 'MODEL'} NEW_DIRECTORY"
    )


def _by_name(headers: Iterable[Header]) -> dict[str, Entry]:
    """Return all entries by name without a leading ``model.``."""
    found: dict[str, Entry] = {}
    for header in headers:
        for entry in header.entries:
            name = entry.name.removeprefix("model.")
            if name in found:
                message = (
                    f"{header.file}: {entry.name} is a second tensor {name} "
                    f"(the other is in {found[name].file.name})"
                )
                raise InputError(message)
            found[name] = entry
    return found
