"""Writes a run beside its place, layer by layer, so that it survives, and moves it there at the end.

What stands at the place already is touched only when the new run is complete.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np

from pyneurons import durable
from pyneurons.errors import InputError, IntegrityError
from pyneurons.ledger import PLAN, Entry, Ledger, Plan, differences
from pyneurons.result import (
    LAYER_TABLES,
    SUMS,
    TABLES,
    Run,
    Table,
    TableWriter,
    bits_file,
    check_out,
    counts_file,
    final_files,
    read_part,
    read_sums,
    sums_text,
    table,
    table_part,
    unfinished,
    write_arrays,
    write_counts,
    write_part,
    write_table,
    wrong_sums,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

_MOST_FIELDS: Final = 12
_FILES: Final = ("model.fingerprint", "model.weights", "model.tokenizer", "corpus.files")
REPLACES: Final = "replaces"
"""A file that says that the run takes the place of a finished one."""
LAYER: Final = "layer-{:03d}"
"""Name of a layer's entry in the ledger."""


class _StripShape(Protocol):
    @property
    def strips(self) -> int: ...

    @property
    def strip_words(self) -> int: ...


class _Strips(Protocol):
    """What `RunWriter.write_bits` asks of a mask (`pyneurons.engine.mask`)."""

    @property
    def shape(self) -> _StripShape: ...

    def strip(self, strip: int) -> np.ndarray: ...


class RunWriter:
    """Writes one run; a context that leaves behind what a later one can go on from, and else nothing.

    Parameters
    ----------
    directory : Path
        The run's place.
    overwrite : bool
        Begin anew, and replace a finished run.
    resume : bool
        Go on with a run that was begun here.
    lasting : bool
        Whether the run is to survive the process. One that is not is written without syncs,
        checksums and locks.

    Attributes
    ----------
    staging : Path
        Where files are written.
    ledger : Ledger or None
        None where nothing is to last. Set by `begin`.
    committed : dict
        Of each layer that is finished, what `commit_layer` was told.
    set_aside : dict
        What was found damaged, and how, and is computed again.
    commit_s : float
        Seconds that commits took so far, without what is written in a temporary run as well.

    Raises
    ------
    InputError
        If the place holds something else, or another process writes there.
    """

    def __init__(
        self, directory: Path, *, overwrite: bool = False, resume: bool = True, lasting: bool = True
    ) -> None:
        self.directory = directory
        self.staging = unfinished(directory)
        self.ledger: Ledger | None = None
        self.entries: dict[str, Entry] = {}
        self.committed: dict[int, dict[str, Any]] = {}
        self.set_aside: dict[str, str] = {}
        self.commit_s = 0.0
        self._overwrite, self._lasting = overwrite, lasting
        self._replaced = directory.with_name(f".{directory.name}.replaced")
        self._tables: dict[str, TableWriter] = {}
        self._put: dict[str, durable.Written] = {}  # since the last `commit_layer`
        self._written: dict[str, str] = {}  # checksums of final files
        self._lock: durable.FolderLock | None = None
        if not lasting:
            check_out(directory, overwrite=overwrite)
            self.staging.mkdir(parents=True)
            return
        try:
            finished = (directory / PLAN).exists() and (directory / SUMS).exists()
        except OSError as error:
            message = f"out: {directory}: {error.strerror}; name another place"
            raise InputError(message) from error
        check_out(directory, overwrite=overwrite or (resume and finished))
        if self.staging.is_dir() and not _is_ours(self.staging):
            message = f"out: {self.staging} holds files that are not a run; move them away"
            raise InputError(message)
        self._lock = durable.FolderLock(self.staging)
        try:
            self._mend_swap()
            if overwrite:
                _wipe(self.staging)
                # The command that goes on with this run need not say it again.
                durable.commit_bytes(self.staging / REPLACES, b"")
            elif not resume and (self.staging / PLAN).exists():
                message = f"out: {self.staging} holds an unfinished run; resume=True continues it, "
                message += "overwrite=True (--overwrite) begins anew"
                raise InputError(message)
        except BaseException:
            self._lock.release()
            raise

    # -- begin and end -------------------------------------------------------------------------

    def begin(self, plan: Plan) -> bool:
        """Find what there is of this run already; return whether all of it.

        Raises
        ------
        InputError
            If another run was begun here, or finished; the message names each field that differs.
        IntegrityError
            If files that both name have changed.
        """
        if not self._lasting:
            return False
        self.ledger = Ledger(self.staging, plan.fingerprint)
        if self._is_finished(plan):
            self._tidy()
            return True
        stands = self._plan_there()
        entries, wrong = self.ledger.read()
        if stands is not None and stands.fingerprint != plan.fingerprint:
            if self.kept:
                raise _another(self.directory, "an unfinished run", stands, plan)
            _wipe(self.staging)
            stands, entries, wrong = None, {}, {}
        if self._complete(plan):
            self._publish()
            return True
        for name, how in wrong.items():
            self.ledger.set_aside(name)
            self.set_aside[name] = how
        if stands is None:
            if self.directory.exists() and not self._overwrite:
                check_out(self.directory, overwrite=False)
            plan.write(self.staging)
        self.ledger.sweep(entries, keep=frozenset({PLAN, REPLACES, durable.LOCK}))
        self.entries = entries
        self.committed = {
            int(entry.facts["layer"]): entry.facts
            for name, entry in entries.items()
            if name.startswith("layer-")
        }
        return False

    def _plan_there(self) -> Plan | None:
        """Return the plan of the unfinished run; one that is damaged is set aside."""
        if not (self.staging / PLAN).exists():
            return None
        try:
            return Plan.read(self.staging)
        except IntegrityError:
            # Entries carry the plan's fingerprint: those of this run are known by it.
            Ledger(self.staging, "").set_aside(PLAN)
            self.set_aside[PLAN] = "its checksum does not match"
            return None

    def _is_finished(self, plan: Plan) -> bool:
        """Whether this very run stands at its place; refuse another one that may not be replaced."""
        if self._overwrite or not (self.directory / SUMS).exists():
            return False
        stands = Plan.read(self.directory)
        begun = self.kept and (self.staging / REPLACES).exists()
        if stands.fingerprint == plan.fingerprint:
            # Asked for once more, with `overwrite`, and stopped: that one goes on.
            begun_plan = self._plan_there() if begun else None
            return begun_plan is None or begun_plan.fingerprint != plan.fingerprint
        if begun:
            return False
        raise _another(self.directory, "a finished run", stands, plan)

    def _complete(self, plan: Plan) -> bool:
        """Whether nothing is missing but the move to the run's place."""
        if not (self.staging / SUMS).exists():
            return False
        try:
            stands = Plan.read(self.staging)
            wrong = wrong_sums(self.staging, read_sums(self.staging))
        except IntegrityError:
            wrong = [SUMS]
        else:
            if not wrong and stands.fingerprint == plan.fingerprint:
                return True
        self.set_aside |= dict.fromkeys(wrong, "missing, or its checksum does not match")
        durable.remove(self.staging / SUMS)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_tables()
        try:
            if self.staging.exists() and not self.kept:
                shutil.rmtree(self.staging)
        finally:
            if self._lock is not None:
                self._lock.release()

    @property
    def kept(self) -> bool:
        """Whether the unfinished run holds anything that a later one goes on from."""
        return self._lasting and bool(
            (self.staging / SUMS).exists() or Ledger(self.staging, "").entry_files()
        )

    # -- one layer -----------------------------------------------------------------------------

    def write_layer(self, layer: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the counters of one layer."""
        self._write(counts_file(layer), partial(write_counts, arrays=arrays))

    def write_corpus(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write token ids, sequences and n-gram spectra."""
        self._write("corpus.safetensors", partial(write_arrays, arrays=arrays))
        self._put.clear()

    def write_bits(self, layer: int, rows: int, mask: _Strips) -> None:
        """Write the bits of one layer as ``bits-LLL.npy``, uint32 [strips, N, strip_words]."""
        shape = (mask.shape.strips, rows, mask.shape.strip_words)

        def fill(path: Path) -> None:
            with path.open("wb") as file:
                header = {"descr": "<u4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for strip in range(mask.shape.strips):
                    file.write(np.ascontiguousarray(mask.strip(strip)).data)

        self._write(bits_file(layer), fill)

    def append(
        self, name: str, columns: Mapping[str, Any] | Table, layer: int | None = None
    ) -> None:
        """Append rows (one row group) to the table ``name``; rows of a layer, if it has such."""
        if name not in TABLES:
            message = f"no table is called {name!r}; tables: {', '.join(TABLES)}"
            raise InputError(message)
        rows = table(columns)
        if self._lasting and layer is not None:
            start = table_part(name, layer, "")
            number = sum(file.startswith(start) for file in self._put)
            file = table_part(name, layer, f"{number}.arrow")
            self._write(file, partial(write_part, rows=rows))
            return
        if self._lasting:
            self._write(f"{name}.parquet", partial(write_table, parts=[rows]))
            return
        if name not in self._tables:
            self._tables[name] = TableWriter(self.staging / f"{name}.parquet", rows.schema)
        self._tables[name].append(rows)

    def commit_layer(self, layer: int, **facts: Any) -> None:
        """Say that all of a layer is written; from here on it survives."""
        facts = {"layer": layer} | facts
        if self.ledger is not None:
            began = time.perf_counter()
            durable.sync_folder(self.staging)
            name = LAYER.format(layer)
            files = {file: asdict(written) for file, written in self._put.items()}
            self.ledger.put(name, files, facts)
            self.entries[name] = Entry(name, files, facts)
            self.commit_s += time.perf_counter() - began
        self._put.clear()
        self.committed[layer] = facts

    def _write(self, file: str, fill: Callable[[Path], None]) -> None:
        target = self.staging / file
        if not self._lasting:
            fill(target)
            return

        def filled(path: Path) -> None:
            began = time.perf_counter()
            fill(path)
            self.commit_s -= time.perf_counter() - began

        began = time.perf_counter()
        self._put[file] = written = durable.commit(target, filled, sync=False)
        self.commit_s += time.perf_counter() - began
        self._written[file] = written.sha256

    def _parts_of(self, name: str) -> list[str]:
        """Return the files with the rows of a table, in order."""
        return [
            file
            for layer in sorted(self.committed)
            for file in sorted(self.entries[LAYER.format(layer)].files)
            if file.startswith(table_part(name, layer, ""))
        ]

    def _close_tables(self) -> None:
        for writer in self._tables.values():
            writer.close()
        self._tables.clear()

    # -- the end -------------------------------------------------------------------------------

    def view(self, manifest: Mapping[str, Any]) -> Run:
        """Join the tables and read what was written so far, before the run is finished."""
        self._close_tables()
        if self._lasting:
            for name in LAYER_TABLES:
                parts = [self.staging / file for file in self._parts_of(name)]
                if parts:
                    self._write(f"{name}.parquet", partial(_join, parts=parts))
        return Run(self.staging, dict(manifest))

    def finish(self, manifest: Mapping[str, Any]) -> Run:
        """Write the manifest and the checksums, and move the run to its place."""
        self._close_tables()
        text = (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode()
        if not self._lasting:
            (self.staging / "manifest.json").write_bytes(text)
            self.staging.rename(self.directory)
            return Run.open(self.directory)
        self._write("manifest.json", lambda path: _write_bytes(path, text))
        durable.sync_folder(self.staging)
        durable.commit_bytes(self.staging / SUMS, sums_text(self._sums(manifest)))
        self._publish()
        return Run.open(self.directory)

    def _sums(self, manifest: Mapping[str, Any]) -> dict[str, str]:
        known = {PLAN: durable.sha256_of(self.staging / PLAN)} | self._written
        for entry in self.entries.values():
            known |= {
                file: said["sha256"] for file, said in entry.files.items() if "sha256" in said
            }
        return {name: known[name] for name in final_files(manifest)}

    def _publish(self) -> None:
        """Move a complete run to its place; may be called again after it was stopped anywhere."""
        sums = read_sums(self.staging)
        Ledger(self.staging, "").clear()
        for path in self.staging.iterdir():
            if path.name not in {*sums, SUMS, REPLACES, durable.LOCK} and not path.is_dir():
                durable.remove(path)
        durable.sync_folder(self.staging)  # or entries and parts are back after a power loss
        check_out(self.directory, overwrite=(self.staging / REPLACES).exists())
        if self.directory.exists():
            if any(self.directory.iterdir()):
                durable.rename(self.directory, self._replaced)
            else:
                self.directory.rmdir()
        durable.rename(self.staging, self.directory)
        self._tidy()

    def _tidy(self) -> None:
        """Remove what the move leaves at the run's place, and the run that was replaced."""
        for name in (REPLACES, durable.LOCK):
            durable.remove(self.directory / name)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _mend_swap(self) -> None:
        """Finish, or take back, a replacement that was stopped half-way."""
        if not self._replaced.exists():
            return
        if self.directory.exists():
            shutil.rmtree(self._replaced, ignore_errors=True)
        else:
            durable.rename(self._replaced, self.directory)


def _join(path: Path, parts: list[Path]) -> None:
    # Read one by one: the rows of one part are in memory.
    write_table(path, (read_part(part) for part in parts))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _is_ours(staging: Path) -> bool:
    names = {path.name for path in staging.iterdir()}
    return not names or bool(names & {durable.LOCK, PLAN, SUMS})


def _wipe(staging: Path) -> None:
    """Remove all but the lock."""
    Ledger(staging, "").clear()
    for path in staging.iterdir():
        if path.name != durable.LOCK and not path.is_dir():
            durable.remove(path)


def _another(directory: Path, what: str, stands: Plan, plan: Plan) -> InputError | IntegrityError:
    """Return what to raise where another run stands: each field that differs, by name.

    Where the same files were named, and hold something else now, that is no other run but damage.
    """
    fields = differences(stands.identity, plan.identity)
    fields |= differences({"asked": stands.given}, {"asked": plan.given})
    listed = "; ".join(f"{name}: {values}" for name, values in [*fields.items()][:_MOST_FIELDS])
    if len(fields) > _MOST_FIELDS:
        listed += f"; and {len(fields) - _MOST_FIELDS} more"
    message = f"out: {directory} holds {what} that differs from this one: {listed}. Name another "
    message += "directory, or pass overwrite=True (--overwrite) to begin anew"
    changed = stands.given == plan.given and any(name.startswith(_FILES) for name in fields)
    changed = changed and all(name.startswith(("model.", "corpus.")) for name in fields)
    return IntegrityError(message) if changed else InputError(message)
