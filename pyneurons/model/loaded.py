"""An OPT model that is in this process already: an object of transformers, wherever its weights are.

In memory, on a GPU, or where accelerate has put them: on the meta device, with hooks that bring them
from memory or disk. Each tensor is read by its name; the model's own forward is never called.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from pyneurons.errors import InputError, IntegrityError
from pyneurons.model.checkpoint import config_of
from pyneurons.model.source import DTYPES, FINGERPRINT_BYTES, WeightSource, check_tensors, named

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a module."""

    file: str  # the model's class
    name: str  # as the module has it
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @classmethod
    def of(cls, model: str, name: str, held: torch.Tensor) -> Parameter:
        """Describe a parameter, which may have no content here."""
        dtype = _KINDS.get(held.dtype, str(held.dtype))
        return cls(model, name, dtype, tuple(held.shape), held.numel() * held.element_size())


class LoadedModel(WeightSource):
    """An `OPTForCausalLM` or `OPTModel` of transformers, read parameter by parameter.

    Parameters
    ----------
    model : torch.nn.Module
        Its weights are copied when they are read and must stay as they are until the scan is done.

    Raises
    ------
    InputError
        If it is not an OPT with ReLU neurons in plain floating point, or has no weights: on the meta
        device without a hook of accelerate that brings them.

    Notes
    -----
    What accelerate offloaded to disk is read from there, each tensor as a whole. The fingerprint is
    that of names, shapes and beginnings; it differs from the one of the same model on disk.
    """

    def __init__(self, model: Any) -> None:
        kind = type(model).__name__
        config: Any = getattr(model, "config", None)
        if not isinstance(model, torch.nn.Module) or not hasattr(config, "to_dict"):
            message = f"model: a {kind} is neither a path, nor the name of a model, nor a model of "
            message += "transformers"
            raise InputError(message)
        super().__init__()
        self.directory = None
        path = str(getattr(config, "name_or_path", "")).rstrip("/")
        self.name = path.rpartition("/")[2] or kind
        self.config = config_of(config.to_dict(), kind)
        self._model = model
        held = {
            name.removeprefix("model."): Parameter.of(kind, name, parameter)
            for name, parameter in model.named_parameters(remove_duplicate=False)
        }
        expected = self.config.tensor_shapes()
        check_tensors(kind, held, expected)
        self._parameters = {name: held[name] for name in expected}
        self.tensors = self._parameters
        self.extra = tuple(sorted(set(held) - set(expected)))
        self.dtype = self._layer_dtype()
        self._lock = threading.Lock()
        self._heads: dict[str, bytes] = {}
        empty = [name for name in expected if self._is_empty(name)]
        if empty:
            message = f"{kind}: it has no weights: {named(empty)} on the meta device, as after "
            message += "init_empty_weights, and no hook of accelerate brings them; load them first"
            raise InputError(message)

    def fingerprint(self) -> str:
        """Return a SHA-256 that tells this model from others.

        Over the configuration, each tensor's name, dtype and shape and its first 4,096 bytes; of
        tensors that were read those are known, the others are read. A changed bit elsewhere in the
        weights is not noticed.
        """
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, entry in self._parameters.items():
            if name not in self._heads:
                row = max(1, entry.bytes // entry.shape[0])
                self.read(name, slice(0, -(-FINGERPRINT_BYTES // row)))
            digest.update(f"\n{name} {entry.dtype} {entry.shape}\n".encode())
            digest.update(self._heads[name])
        return digest.hexdigest()

    def _fill(self, name: str, start: int, values: torch.Tensor) -> None:
        """Copy rows of a parameter from ``start`` on."""
        entry = self._parameters[name]
        with self._lock, self._present(entry.name) as parameter:
            now = Parameter.of(entry.file, entry.name, parameter)
            if now != entry:
                message = f"{entry.file}: {entry.name} became {now.dtype} {list(now.shape)} since "
                message += "it was opened; a model must stay as it is while it is scanned"
                raise IntegrityError(message)
            values.copy_(parameter[start : start + len(values)])
        enough = min(FINGERPRINT_BYTES, entry.bytes)
        if start == 0 and values.nbytes >= enough:
            self._heads[name] = values.view(torch.uint8).flatten()[:enough].numpy().tobytes()

    def _is_empty(self, name: str) -> bool:
        path = self._parameters[name].name
        parameter = self._model.get_parameter(path)
        return parameter.device.type == "meta" and self._bringing(path) is None

    def _bringing(self, path: str) -> torch.nn.Module | None:
        """Return the innermost module around a parameter whose hook of accelerate brings weights."""
        while path:
            path = path.rpartition(".")[0]
            module = self._model.get_submodule(path)
            if hasattr(module, "_hf_hook"):
                from accelerate.utils import has_offloaded_params

                if has_offloaded_params(module):
                    return module
        return None

    @contextmanager
    def _present(self, path: str) -> Iterator[torch.Tensor]:
        """Have a parameter with its content, for as long as the block lasts."""
        bringing = None
        if self._model.get_parameter(path).device.type == "meta":
            bringing = self._bringing(path)
        if bringing is None:
            yield self._model.get_parameter(path).detach()
            return
        from accelerate.utils import align_module_device

        with align_module_device(bringing, torch.device("cpu")):
            yield self._model.get_parameter(path).detach()
