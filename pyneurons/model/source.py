"""Where weights come from, as the engine sees it: named tensors that are read one layer at a time."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from pyneurons.errors import DTypeError, InputError, IntegrityError, NonFiniteError, ShapeError
from pyneurons.model.config import layer_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pyneurons.model.config import OptConfig

DTYPES: Final = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}

FINGERPRINT_BYTES: Final = 4096
"""Of each tensor, for the fingerprint: two models of one shape have equal names and shapes."""

_MOST_NAMED: Final = 10
# Tensors of old checkpoints and of other heads, which no computation here reads.
_HARMLESS: Final = frozenset({"decoder.version", "lm_head.weight"})


class TensorEntry(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def file(self) -> object:
        """Where it is, for messages."""
        ...

    @property
    def name(self) -> str:
        """Its full name there."""
        ...

    @property
    def dtype(self) -> str:
        """F16, BF16, F32, ..."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def bytes(self) -> int:
        """Its size."""
        ...


@dataclass(frozen=True)
class Embeddings:
    """What stands before the first layer and behind the last, in the checkpoint's dtype."""

    tokens: torch.Tensor  # [V, E]
    positions: torch.Tensor  # [max_position_embeddings + 2, D]
    project_in: torch.Tensor | None  # [D, E]
    project_out: torch.Tensor | None  # [E, D]
    head: torch.Tensor  # [V, E]; `tokens` itself where they are tied
    final_norm_weight: torch.Tensor | None  # [D]
    final_norm_bias: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        parts = (
            self.tokens,
            self.positions,
            self.project_in,
            self.project_out,
            None if self.head is self.tokens else self.head,
            self.final_norm_weight,
            self.final_norm_bias,
        )
        return sum(part.nbytes for part in parts if part is not None)


class WeightSource(ABC):
    """The weights of an OPT model, all names, shapes and dtypes checked before any is read.

    Names are those of transformers without a leading ``model.``: ``decoder.layers.0.fc1.weight``.
    Safe for several threads.

    The first time that a tensor is read whole, its SHA-256 is taken (0.4 s for 125m) and compared with
    the one that `expect` was given: a bit that changed since then stops the run.

    Attributes
    ----------
    config : OptConfig
    tensors : mapping of str to TensorEntry
        Every tensor that the configuration calls for.
    extra : tuple of str
        Names that no computation here reads.
    dtype : torch.dtype
        The narrowest dtype that holds every layer weight exactly.
    name : str
        Of the model, for people.
    directory : Path or None
        Where it is on disk, if it is.
    """

    config: OptConfig
    tensors: Mapping[str, TensorEntry]
    extra: tuple[str, ...]
    dtype: torch.dtype
    name: str
    directory: Path | None

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._expected_digests: dict[str, str] = {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 that tells this model from others."""

    @abstractmethod
    def _fill(self, name: str, start: int, values: torch.Tensor) -> None:
        """Write rows of a tensor from ``start`` on to ``values``, contiguous host memory."""

    @property
    def embedding_bytes(self) -> int:
        """Bytes of what `read_embeddings` returns."""
        config = self.config
        return sum(
            self.tensors[name].bytes for name in config.embedding_shapes() | config.head_shapes()
        )

    def layer_bytes(self, layer: int) -> int:
        """Return the bytes of one layer's tensors."""
        return sum(
            self.tensors[layer_name(layer, name)].bytes for name in self.config.layer_shapes()
        )

    def fc2_bytes(self, layer: int) -> int:
        """Return the bytes of what `read_fc2` returns."""
        return self.tensors[layer_name(layer, "fc2.weight")].bytes

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Read a tensor, or rows [start, stop) of it, in the checkpoint's dtype.

        Parameters
        ----------
        name : str
            One of ``tensors``.
        rows : slice, optional
            Of the first axis, without a step. Default: all.

        Returns
        -------
        Tensor
            In host memory of its own.

        Raises
        ------
        IntegrityError
            If it cannot be read as it was described when it was opened.
        NonFiniteError
            If a weight is NaN or infinite.
        """
        entry = self.tensors[name]
        start, stop, step = (rows or slice(None)).indices(entry.shape[0])
        if step != 1:
            message = f"read: rows of {name} have step {step}, expected 1"
            raise InputError(message)
        values = torch.empty((max(0, stop - start), *entry.shape[1:]), dtype=DTYPES[entry.dtype])
        self._read(name, start, values)
        return values

    def read_into(self, name: str, values: torch.Tensor) -> None:
        """Read a whole tensor into a contiguous one of its shape and dtype, in host memory.

        Raises
        ------
        ShapeError, DTypeError
            If ``values`` is another one; it is then untouched.
        IntegrityError, NonFiniteError
            As `read` does.
        """
        entry = self.tensors[name]
        if tuple(values.shape) != entry.shape or not values.is_contiguous():
            message = f"read_into: values have shape {list(values.shape)}, expected "
            message += f"{list(entry.shape)} ({name}), contiguous"
            raise ShapeError(message)
        if values.dtype != DTYPES[entry.dtype]:
            message = f"read_into: values are {values.dtype}, expected {entry.dtype} ({name})"
            raise DTypeError(message)
        self._read(name, 0, values)

    def _read(self, name: str, start: int, values: torch.Tensor) -> None:
        if len(values):
            self._fill(name, start, values)
            if values.nbytes == self.tensors[name].bytes:
                self._check_digest(name, values)
            _check_finite(self.tensors[name], values, start)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every tensor that was read whole so far, by name."""
        return dict(sorted(self._digests.items()))

    def expect(self, digests: Mapping[str, str]) -> None:
        """Let reading stop where a tensor is not the one that another run read.

        Parameters
        ----------
        digests : mapping of str to str
            `digests` of that run. Tensors that are not named are not compared.

        Raises
        ------
        IntegrityError
            If one that was read already is another.
        """
        self._expected_digests = dict(digests)
        for name, digest in self._digests.items():
            self._compare(name, digest)

    def weights_sha256(self) -> str:
        """Return one SHA-256 over the digests of all tensors that were read."""
        lines = "".join(f"{name} {digest}\n" for name, digest in self.digests.items())
        return hashlib.sha256(lines.encode()).hexdigest()

    def _check_digest(self, name: str, values: torch.Tensor) -> None:
        if name not in self._digests:
            data = values.view(torch.uint8).flatten().numpy().data
            digest = hashlib.sha256(data).hexdigest()
            self._compare(name, digest)
            self._digests[name] = digest

    def _compare(self, name: str, digest: str) -> None:
        expected = self._expected_digests.get(name, digest)
        if digest != expected:
            message = (
                f"{self.tensors[name].file}: {name} has SHA-256 {digest[:16]}..., the run that goes "
                f"on read {expected[:16]}...; the weights changed"
            )
            raise IntegrityError(message)

    def read_layer(self, layer: int) -> dict[str, torch.Tensor]:
        """Read the tensors of one layer, by name inside the layer (``fc1.weight``)."""
        return {name: self.read(layer_name(layer, name)) for name in self.config.layer_shapes()}

    def read_fc2(self, layer: int) -> torch.Tensor:
        """Read fc2 of one layer, [D, F]: column n is the update of neuron n."""
        return self.read(layer_name(layer, "fc2.weight"))

    def read_embeddings(self) -> Embeddings:
        """Read what stands before the first layer and behind the last."""

        def get(name: str) -> torch.Tensor | None:
            return self.read(name) if name in self.tensors else None

        tokens = self.read("decoder.embed_tokens.weight")
        head = get("lm_head.weight")
        return Embeddings(
            tokens=tokens,
            positions=self.read("decoder.embed_positions.weight"),
            project_in=get("decoder.project_in.weight"),
            project_out=get("decoder.project_out.weight"),
            head=tokens if head is None else head,
            final_norm_weight=get("decoder.final_layer_norm.weight"),
            final_norm_bias=get("decoder.final_layer_norm.bias"),
        )

    def _layer_dtype(self) -> torch.dtype:
        """Return the narrowest dtype that holds every layer weight exactly."""
        kinds = {
            self.tensors[layer_name(layer, name)].dtype
            for layer in range(self.config.num_hidden_layers)
            for name in self.config.layer_shapes()
        }
        return DTYPES[kinds.pop()] if len(kinds) == 1 else torch.float32


def check_tensors(
    where: object, found: Mapping[str, TensorEntry], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that a model holds what its configuration calls for, and no other layer.

    Raises
    ------
    InputError
        Names what is missing, what has another shape or dtype, or what is too many.
    """
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    if missing:
        message = f"{where}: tensors that config.json calls for are missing: {named(missing)}"
        raise InputError(message)
    for name, shape in expected.items():
        entry = found[name]
        if entry.shape != shape:
            message = (
                f"{entry.file}: {entry.name} has shape {list(entry.shape)}, expected {list(shape)} "
                "(config.json)"
            )
            raise InputError(message)
        if entry.dtype not in DTYPES:
            message = f"{entry.file}: {entry.name} is {entry.dtype}, expected F16, BF16 or F32"
            raise InputError(message)
    foreign = sorted(
        name for name in set(found) - set(expected) - _HARMLESS if name.startswith("decoder.")
    )
    if foreign:
        message = f"{where}: tensors of a decoder other than config.json describes: " + named(
            f"{name} {list(found[name].shape)}" for name in foreign
        )
        raise InputError(message)


def _check_finite(entry: TensorEntry, values: torch.Tensor, start: int) -> None:
    """Raise NonFiniteError for the first NaN or infinity; row 0 is row ``start`` of the tensor."""
    # aminmax passes NaN on and takes a twentieth of isfinite's time.
    least, greatest = torch.aminmax(values)
    if bool(least.isfinite() & greatest.isfinite()):
        return
    place = (~values.isfinite()).nonzero()[0].tolist()
    message = (
        f"{entry.file}: {entry.name}{[start + place[0], *place[1:]]} is "
        f"{float(values[tuple(place)])}; the checkpoint is damaged"
    )
    raise NonFiniteError(message)


def named(names: Iterable[Any]) -> str:
    """Return the first names of a list, and how many more there are."""
    listed = [str(name)[:200] for name in names]
    more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    return ", ".join(listed[:_MOST_NAMED]) + more
