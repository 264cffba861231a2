"""A run, or several, as one page that opens from disk in a browser, without a network or a server."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyneurons import durable
from pyneurons.errors import InputError
from pyneurons.report.page.columns import pack
from pyneurons.report.page.document import compose, deferred_block
from pyneurons.report.page.figures import figures
from pyneurons.report.page.layers import detector_columns
from pyneurons.report.page.neurons import DETAILS, Details, detecting, layer_table
from pyneurons.report.page.overview import run_facts
from pyneurons.report.words import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["write_page"]

ONE_FILE_BYTES: Final = 20_000_000
"""Blocks of more bytes than this lie in files beside the page."""

_GENERATION = re.compile(r"[0-9a-f]{16}")


def write_page(
    scans: Sequence[Any],
    path: str | Path,
    *,
    text: bool = True,
    one_file_bytes: int = ONE_FILE_BYTES,
) -> list[Path]:
    """Write the page of one run or several.

    Parameters
    ----------
    scans : sequence of `pyneurons.Scan`
    path : path
        Its name ends in ``.html``. An older page there is replaced when the new one is complete.
    text : bool
        Show example contexts: text of the corpus. Tokens by themselves are shown in any case.
    one_file_bytes : int
        A page whose data would be larger is a small one with data in a folder beside it,
        ``NAME.data``, which is to be kept with the page.

    Returns
    -------
    list of Path
        The page, and the folder of its data where there is one.

    Raises
    ------
    InputError
        No run; another name; a place that cannot be written.
    DiskError
        A failed write.

    Notes
    -----
    Cost: one pass over the run's tables, a layer at a time in memory. A layer of OPT-66b takes
    seconds.
    """
    path = Path(path)
    if not scans:
        message = "write_page: scans is empty, expected at least one run"
        raise InputError(message)
    if path.suffix.lower() != ".html" or path.is_dir():
        message = f"report: {path} is not the name of a page; write NAME.html"
        raise InputError(message)
    durable.make_folder(path.parent)
    folder = path.with_name(f"{path.stem}.data")
    if folder.exists() and not folder.is_dir():
        message = f"report: {folder} is a file; data of a page may have to go there"
        raise InputError(message)
    facts = [run_facts(scan, place, text=text) for place, scan in enumerate(scans)]
    drawn = figures(scans)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as temporary:
        blocks = _Blocks(Path(temporary), one_file_bytes)
        try:
            for place, scan in enumerate(scans):
                for name, block in _blocks(scan, facts[place], text=text):
                    blocks.add(f"r{place}/{name}", block)
        except OSError as error:
            raise durable.disk_error(error, folder) from error
        data = "" if blocks.held is not None else f"{folder.name}/{blocks.digest()}/"
        page = compose(facts, drawn, blocks.held or {}, data=data)
        if data:
            _put(Path(temporary), folder / blocks.digest())
        durable.commit_bytes(path, page.encode("utf-8"))
    _sweep(folder, keep=blocks.digest() if data else "")
    return [path, folder] if data else [path]


def _blocks(scan: Any, facts: dict[str, Any], *, text: bool) -> Iterator[tuple[str, str]]:
    """Yield all blocks of a run by name."""
    strings = [
        f"#{token}" if string is None else visible(string)
        for token, string in enumerate(scan.strings)
    ]
    yield "tokens", pack({}, strings=strings)
    detected, _ = detector_columns(scan)
    yield "detectors", pack(detected)
    detectors = detecting(scan)
    for layer in facts["layers"]:
        table, phrases = layer_table(scan, layer)
        yield f"L{layer}/table", pack(table, phrases=phrases)
        details = Details(scan, layer, detectors, text=text)
        for first in range(0, facts["neurons"], DETAILS):
            last = min(first + DETAILS, facts["neurons"])
            yield f"L{layer}/{first // DETAILS}", pack(details.block(first, last))


class _Blocks:
    """Blocks in memory; in files from the moment that they are too many."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._bytes = 0
        self._hash = hashlib.sha256()
        self.held: dict[str, str] | None = {}

    def add(self, name: str, block: str) -> None:
        self._bytes += len(block)
        self._hash.update(f"{name} {len(block)}\n{block}".encode())
        if self.held is not None:
            self.held[name] = block
            if self._bytes <= self._most:
                return
            held, self.held = self.held, None
            for each, content in held.items():
                self._write(each, content)
        else:
            self._write(name, block)

    def _write(self, name: str, block: str) -> None:
        path = self._folder / f"{name}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(deferred_block(name, block), encoding="ascii")

    def digest(self) -> str:
        return self._hash.hexdigest()[:16]


def _put(temporary: Path, target: Path) -> None:
    """Give complete data their name, which nothing shows before the page that names it is there."""
    durable.make_folder(target.parent)
    if target.exists():
        shutil.rmtree(target)
    data = temporary / "data"
    data.mkdir()
    for run in [entry for entry in temporary.iterdir() if entry != data]:
        run.rename(data / run.name)
    durable.rename(data, target)


def _sweep(folder: Path, keep: str) -> None:
    """Remove the data of older pages of this name; nothing else that lies there."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and _GENERATION.fullmatch(entry.name) and entry.name != keep:
            shutil.rmtree(entry)
    if not any(folder.iterdir()):
        folder.rmdir()
