"""The arrays and tables of a run, and the directory that holds them.

=============================  ====================================================================
``manifest.json``              settings, model, corpus, numeric mode, plan, timing; written last
``counts-LLL.safetensors``     one per layer: integer counters, bounds, histograms of n-gram counts
``corpus.safetensors``         token ids, sequence starts and domains, n-gram spectra
``neurons.parquet``            one row per neuron
``ngrams.parquet``             layer, neuron, n, t0.., fires, occurrences, rank, covered, complete
``suppression.parquet``        one row per (detector, trigger): scores, ranks, baselines
``vocabulary.parquet``         top and bottom tokens of each neuron's update
``examples.parquet``           a bounded deterministic sample of firing positions
``tokens.parquet``             id, string, count
``plan.json``                  what the counters depend on (`pyneurons.ledger`); with ``out=``
``SHA256SUMS``                 checksums of all the others
=============================  ====================================================================

Counters are written in the narrowest unsigned type that holds them and read back as int64.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from pyneurons import durable
from pyneurons.errors import IncompleteError, InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FORMAT = 1
Columns = dict[str, Any]
Table: TypeAlias = pa.Table

_MOST = 2**63 - 1
_SIGNED_ON_DISK = frozenset({"first_fire"})
LAYER_TABLES = ("ngrams", "suppression", "vocabulary", "examples")
"""Tables with rows of every layer that the observers find."""
TABLES = (*LAYER_TABLES, "neurons", "tokens")
SUMS = "SHA256SUMS"
_SHA256 = re.compile(r"[0-9a-f]{64}")


_NAMES = {
    "b1": "BOOL", "u1": "U8", "i1": "I8", "i2": "I16", "u2": "U16", "f2": "F16", "i4": "I32",
    "u4": "U32", "f4": "F32", "f8": "F64", "i8": "I64", "u8": "U64",
}  # fmt: skip
"""Elements of a safetensors file, in the library's order from last to first."""
_PLACE = {kind: place for place, kind in enumerate(_NAMES)}


def narrowest(values: np.ndarray) -> np.ndarray:
    """Return integer ``values`` in the narrowest unsigned dtype that holds them all."""
    if values.dtype.kind not in "iu":
        return values
    top = int(values.max()) if values.size else 0
    if values.size and int(values.min()) < 0:
        message = f"a counter is negative ({int(values.min())}): counters only grow"
        raise IntegrityError(message)
    for dtype in (np.uint8, np.uint16, np.uint32):
        if top <= np.iinfo(dtype).max:
            return values.astype(dtype)
    _check_signed(top, "a counter")
    return values.astype(np.uint64)


def _check_signed(top: int, what: str) -> None:
    """Refuse what int64, in which all is computed, would make negative."""
    if top > _MOST:
        message = f"{what} is {top}, at most {_MOST} can be: it is damaged, or it has wrapped"
        raise IntegrityError(message)


def _signed(values: np.ndarray, what: str) -> np.ndarray:
    """Return unsigned counters as int64."""
    if values.dtype == np.uint64 and values.size:
        _check_signed(int(values.max()), what)
    return values.astype(np.int64)


def _arrow(values: Any) -> pa.Array:
    if not isinstance(values, np.ndarray):
        return pa.array(values)
    if isinstance(values, np.ma.MaskedArray):
        return pa.array(values.data, mask=np.ma.getmaskarray(values))
    if values.dtype == object:
        return pa.array(values.tolist(), type=pa.string())
    if values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.array(values)


def table(columns: Mapping[str, Any] | pa.Table) -> pa.Table:
    """Make an Arrow table of columns; one that is a table stays as it is.

    A 2-d array becomes a fixed-size list, an array of objects a column of strings and nulls, a
    masked array a column with nulls.
    """
    if isinstance(columns, pa.Table):
        return columns
    return pa.table({name: _arrow(values) for name, values in columns.items()})


def columns_of(arrow: pa.Table) -> Columns:
    """Return NumPy columns of an Arrow table (lists stay Python lists)."""
    out: Columns = {}
    for name in arrow.column_names:
        column = arrow.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            width = column.type.list_size
            out[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        elif pa.types.is_list(column.type) or pa.types.is_string(column.type):
            out[name] = column.to_pylist()
        else:
            out[name] = column.to_numpy(zero_copy_only=False)
    return out


def counts_file(layer: int) -> str:
    """Return the name of a layer's file of counters."""
    return f"counts-{layer:03d}.safetensors"


def bits_file(layer: int) -> str:
    """Return the name of the file that holds a layer's bits, where they were kept."""
    return f"bits-{layer:03d}.npy"


def table_part(name: str, layer: int, part: str) -> str:
    """Return the name of some rows of one layer, as long as its run is not finished."""
    return f"{name}-{layer:03d}-{part}"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file, the same bytes as the library's.

    That one ends the process where it finds no memory; here nothing is copied, and a failed write is
    an OSError, as everywhere else.
    """
    ordered = sorted(arrays, key=lambda name: (-_PLACE[arrays[name].dtype.str[1:]], name))
    header: dict[str, Any] = {}
    end = 0
    for name in ordered:
        values = arrays[name]
        begin, end = end, end + values.nbytes
        kind = _NAMES[values.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in ordered:
            little = arrays[name].dtype.newbyteorder("<")
            values = np.ascontiguousarray(arrays[name], dtype=little)
            file.write(values.reshape(-1).view(np.uint8).data)


def write_counts(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the counters of one layer, each in the narrowest type that holds it."""
    write_arrays(
        path,
        {
            name: values if name in _SIGNED_ON_DISK else narrowest(values)
            for name, values in arrays.items()
        },
    )


class TableWriter:
    """Writes a table row group by row group."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def append(self, rows: Table) -> None:
        """Write one row group."""
        self._writer.write_table(rows.cast(self._writer.schema))

    def close(self) -> None:
        """Write what stands at the end of the file."""
        self._writer.close()


def write_table(path: Path, parts: Iterable[Table]) -> None:
    """Write a table of parts, one row group each; at least one."""
    writer: TableWriter | None = None
    try:
        for part in parts:
            writer = TableWriter(path, part.schema) if writer is None else writer
            writer.append(part)
    finally:
        if writer is not None:
            writer.close()


def write_part(path: Path, rows: Table) -> None:
    """Write some rows of a table by themselves; Arrow's own format gives them back as they are."""
    # zstd took .04 s longer over the demo's six layers, 1 % of its scan (Sapphire Rapids class).
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, rows.schema, options=options) as to,
    ):
        to.write_table(rows)


def read_part(path: Path) -> Table:
    """Read what `write_part` wrote."""
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as opened:
        return opened.read_all()


def is_in_bounds(manifest: Mapping[str, Any]) -> bool:
    """Whether n-gram statistics of some neurons may be known in bounds only: merged without bits."""
    return "merged" in manifest and not manifest["settings"]["keep_bits"]


def has_suppression(manifest: Mapping[str, Any]) -> bool:
    """Whether there are scores of triggers: not in runs that were merged without the model."""
    return "merged" not in manifest or bool(manifest["merged"]["suppression"])


def final_files(manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of the files of a finished run with ``out=``, but `SUMS`."""
    settings = manifest["settings"]
    names = ["manifest.json", "plan.json", "corpus.safetensors"]
    absent = set() if settings["ngrams"] else {"ngrams"}
    absent |= set() if has_suppression(manifest) else {"suppression"}
    names += [f"{name}.parquet" for name in TABLES if name not in absent]
    for layer in manifest["layers"]:
        names.append(counts_file(layer))
        names += [bits_file(layer)] if settings["keep_bits"] else []
    return sorted(names)


def sums_text(sums: Mapping[str, str]) -> bytes:
    """Return the text of ``SHA256SUMS``, which ``sha256sum --check`` reads as well."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def read_sums(directory: Path) -> dict[str, str]:
    """Read ``SHA256SUMS``: the SHA-256 of every file of a finished run.

    Raises
    ------
    IntegrityError
        If it is missing, or not to the byte what was written.
    """
    path = directory / SUMS
    try:
        raw = path.read_bytes()
        lines = (line.partition("  ") for line in raw.decode("ascii").splitlines())
        sums = {name: sha256 for sha256, _, name in lines}
        good = bool(sums) and sums_text(sums) == raw
        good = good and all(_SHA256.fullmatch(sha256) for sha256 in sums.values())
    except (OSError, ValueError):
        good = False
    if not good:
        message = f"{path}: missing or damaged, no checksum can be compared"
        raise IntegrityError(message)
    return sums


def wrong_sums(directory: Path, sums: Mapping[str, str]) -> list[str]:
    """Return the files that are missing, or whose checksum is another."""
    return [
        name
        for name, sha256 in sums.items()
        if not (directory / name).is_file() or durable.sha256_of(directory / name) != sha256
    ]


def unfinished(directory: Path) -> Path:
    """Return where a run is written before it is complete: beside its place."""
    directory = directory.absolute()
    return directory.with_name(f".{directory.name}.partial")


def check_out(directory: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something, unless it is a run that may be replaced."""
    if not directory.exists():
        return
    if not directory.is_dir():
        message = f"out: {directory} is a file; name a new directory"
        raise InputError(message)
    if not any(directory.iterdir()):
        return
    is_run = (directory / "manifest.json").exists()
    if not overwrite:
        what = "a finished run" if is_run else "files"
        message = f"out: {directory} exists already and holds {what}; name another directory"
        message += " or pass overwrite=True (--overwrite)" if is_run else ""
        raise InputError(message)
    if not is_run:
        message = f"out: {directory} holds files that are not a run; it is not overwritten"
        raise InputError(message)


class Run:
    """A finished run, read lazily from its directory."""

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.layers: list[int] = list(manifest["layers"])
        self.ngram_orders: list[int] = list(manifest["settings"]["ngrams"])
        self.domains: list[str] = list(manifest["corpus"]["domains"])
        self.n_neurons: int = manifest["model"]["ffn_dim"]
        self.context: int = manifest["settings"]["context"]
        self.in_bounds: bool = is_in_bounds(manifest)
        self.has_suppression: bool = has_suppression(manifest)
        self._cache: dict[str, Any] = {}

    @classmethod
    def open(cls, directory: str | Path) -> Run:
        """Open a run directory; refuse what is not one, or was written by a newer version."""
        directory = Path(directory)
        path = directory / "manifest.json"
        if not path.exists():
            if unfinished(directory).is_dir():
                message = f"{directory} is not finished: the command that began it continues it "
                message += f"(pyneurons status {directory})"
                raise IncompleteError(message)
            message = f"{directory} is not a finished run: it has no manifest.json"
            raise InputError(message)
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            message = f"{path}: not valid JSON ({error}); the run directory is damaged"
            raise IntegrityError(message) from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else "?"
            message = f"{path}: format {found}, this version reads format {FORMAT}"
            if isinstance(found, int) and found > FORMAT:
                message += "; a newer version of pyneurons wrote it, and reads it"
            raise InputError(message)
        run = cls(directory, manifest)
        for layer in run.layers:
            if not (directory / counts_file(layer)).exists():
                message = f"{directory} lacks {counts_file(layer)}: the run directory is damaged"
                raise IntegrityError(message)
        return run

    def _read(self, file: str, name: str) -> np.ndarray:
        path = self.directory / file
        try:
            with safe_open(path, framework="numpy") as opened:
                values: np.ndarray = opened.get_tensor(name)
        except SafetensorError as error:
            message = f"{path}: no readable array {name!r} ({error})"
            raise InputError(message) from error
        return values

    def layer_array(self, layer: int, name: str) -> np.ndarray:
        """Return one array of one layer (absolute id); unsigned counters come back as int64."""
        values = self.stored_layer_array(layer, name)
        if values.dtype.kind != "u":
            return values
        return _signed(values, f"{self.directory / counts_file(layer)}: an element of {name!r}")

    def _check_layer(self, layer: int) -> None:
        if layer not in self.layers:
            message = f"layer {layer} was not scanned; scanned layers: {self.layers}"
            raise InputError(message)

    def stored_layer_array(self, layer: int, name: str) -> np.ndarray:
        """Return one array of one layer in the type in which it is stored."""
        self._check_layer(layer)
        return self._read(counts_file(layer), name)

    def layer_names(self, layer: int) -> list[str]:
        """Return the names of the arrays of one layer, sorted."""
        self._check_layer(layer)
        with safe_open(self.directory / counts_file(layer), framework="numpy") as opened:
            return sorted(opened.keys())

    def array(self, name: str) -> np.ndarray:
        """Return one array of every scanned layer, stacked: [L, ...]."""
        if name not in self._cache:
            self._cache[name] = np.stack([self.layer_array(layer, name) for layer in self.layers])
        cached: np.ndarray = self._cache[name]
        return cached

    def bits(self, layer: int) -> np.ndarray:
        """Return the bits of one layer, bool [N, F]; needs a scan with ``keep_bits=True``."""
        words = self.bit_words(layer)
        bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=2, bitorder="little")
        return np.concatenate(list(bits), axis=1)[:, : self.n_neurons].astype(np.bool_)

    def bit_words(self, layer: int) -> np.ndarray:
        """Return the bits of one layer as they are stored, uint32 [strips, N, words], mapped."""
        path = self.directory / bits_file(layer)
        if not path.exists():
            message = f"the bits of layer {layer} were not kept; scan with keep_bits=True"
            raise InputError(message)
        words: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return words

    def histogram(
        self, layer: int, n: int, name: str = "histogram"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (offsets [F+1], count, number): how many n-grams have which count, per neuron.

        Of a merged run also ``"aligned"`` and ``"disjoint"``: see `pyneurons.merging.histograms`.
        """
        self.check_order(n)
        offsets, count, number = (
            self.layer_array(layer, f"{name}_{n}_{part}") for part in ("offsets", "count", "number")
        )
        return offsets, count, number

    def check_order(self, n: int) -> None:
        """Refuse an n-gram order that was not scanned."""
        if n not in self.ngram_orders:
            message = f"n = {n} was not scanned; scanned orders: {self.ngram_orders}"
            raise InputError(message)

    def corpus_array(self, name: str) -> np.ndarray:
        """Return an array of ``corpus.safetensors``."""
        if f"corpus/{name}" not in self._cache:
            self._cache[f"corpus/{name}"] = self._read("corpus.safetensors", name)
        cached: np.ndarray = self._cache[f"corpus/{name}"]
        return cached

    def spectrum(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (occurrences, number): how many distinct n-grams occur how often."""
        self.check_order(n)
        occurrences, number = (
            _signed(self.corpus_array(name), f"{self.directory}: an element of {name!r}")
            for name in (f"spectrum_{n}_occurrences", f"spectrum_{n}_number")
        )
        return occurrences, number

    def table(self, name: str, **equal: Any) -> pa.Table:
        """Return a stored table, only the rows whose columns equal the values given."""
        path = self.directory / f"{name}.parquet"
        if not path.exists():
            message = f"{self.directory} holds no table {name!r}"
            raise InputError(message)
        condition = None
        for column, value in equal.items():
            term = pc.field(column) == value
            condition = term if condition is None else condition & term
        return pq.read_table(path, filters=condition)

    @property
    def strings(self) -> list[str | None]:
        """The string of every token id; None where the tokenizer has no entry."""
        if "strings" not in self._cache:
            self._cache["strings"] = self.table("tokens").column("string").to_pylist()
        cached: list[str | None] = self._cache["strings"]
        return cached

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Copy the run to another directory."""
        directory = Path(directory)
        check_out(directory, overwrite=overwrite)
        if directory.exists():
            shutil.rmtree(directory)
        shutil.copytree(self.directory, directory)
        if not (directory / SUMS).exists():  # a temporary run, which nothing was to survive
            names = [path.name for path in directory.iterdir() if path.is_file()]
            sums = {name: durable.sha256_of(directory / name) for name in names}
            (directory / SUMS).write_bytes(sums_text(sums))
        return directory


def token_strings(strings: Sequence[str | None], ids: Sequence[int]) -> list[str | None]:
    """Return the strings of ``ids``."""
    return [strings[token] if token < len(strings) else None for token in ids]
