"""A disk that loses what was not synced: what a run did to its folder, and what a power loss leaves of it.

`Recorder` looks at a folder of real files before every operation that Python announces (audit
events), at every failpoint and at every fsync; what libraries write by themselves shows as the difference
of two looks. `Disk` plays the looks back. What it holds of a file is its content at its last fsync, of a
folder its names at its last fsync; what happened since may have reached the disk or not, each change by
itself, in any order. Renames are one change, as POSIX has it.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyneurons import failpoints

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ANNOUNCED = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}


@dataclass(frozen=True)
class Look:
    """All there is: the names in every folder, and the content of files that changed."""

    folders: dict[int, dict[str, int]]  # inode of a folder: name: inode
    changed: dict[int, bytes]


@dataclass(frozen=True)
class Sync:
    """An fsync that returned."""

    inode: int


@dataclass(frozen=True)
class Said:
    """The run was told that this is on the disk: an entry of its ledger."""

    name: str


class Recorder:
    """Records what happens in a folder; for a process of its own, which it changes for good."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Look | Sync | Said] = []
        self._known: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, int]] = {}
        self._held: dict[int, int] = {}  # an open file keeps its inode's number from another use
        self._busy = threading.RLock()
        self._looking = False
        self._sync, self._at = os.fsync, failpoints.at
        self.look()
        os.fsync, failpoints.at = self._fsync, self._point
        sys.addaudithook(self._announced)

    def _announced(self, event: str, arguments: tuple[Any, ...]) -> None:
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if event in ANNOUNCED or written:
            self.look()

    def _point(self, point: str) -> None:
        self.look()
        self._at(point)

    def _fsync(self, descriptor: int) -> None:
        self.look()
        self._sync(descriptor)
        self.steps.append(Sync(os.fstat(descriptor).st_ino))

    def said(self, name: str) -> None:
        """Note that an entry was put."""
        self.look()
        self.steps.append(Said(name))

    def look(self) -> None:
        """Note what differs from the last look."""
        with self._busy:
            if self._looking:
                return
            self._looking = True
            try:
                folders: dict[int, dict[str, int]] = {}
                changed: dict[int, bytes] = {}
                self._walk(self.folder, folders, changed)
            finally:
                self._looking = False
            if changed or folders != self._folders:
                self._known |= changed
                self._folders = folders
                self.steps.append(Look(folders, changed))

    def _walk(
        self, folder: Path, folders: dict[int, dict[str, int]], changed: dict[int, bytes]
    ) -> None:
        names = folders.setdefault(folder.stat().st_ino, {})
        for path in folder.iterdir():
            names[path.name] = inode = path.stat().st_ino
            if inode not in self._held:
                self._held[inode] = os.open(path, os.O_RDONLY)
            if stat.S_ISDIR(os.fstat(self._held[inode]).st_mode):
                self._walk(path, folders, changed)
                continue
            content = os.pread(self._held[inode], 1 << 30, 0)
            if self._known.get(inode) != content:
                changed[inode] = content


@dataclass
class _Folder:
    synced: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    since: list[tuple[str, str, int]] = field(default_factory=list)  # from, to, inode; "": none

    def change(self, names: dict[str, int]) -> None:
        """Note the changes that lead to ``names``: moves, names that went, names that came."""
        gone = {name: i for name, i in self.names.items() if names.get(name) != i}
        came = {name: i for name, i in names.items() if self.names.get(name) != i}
        for name, inode in came.items():
            before = next((old for old, i in gone.items() if i == inode), "")
            gone.pop(before, None)
            gone.pop(name, None)  # replaced
            self.since.append((before, name, inode))
        self.since += [(name, "", inode) for name, inode in gone.items()]
        self.names = names

    def after(self, reached: Callable[[], bool]) -> dict[str, int]:
        """Return the names on the disk, where ``reached`` says of each change whether it got there."""
        names = dict(self.synced)
        for before, name, inode in self.since:
            if reached():
                if names.get(before) == inode:
                    del names[before]
                if name:
                    names[name] = inode
        return names


Tree = dict[str, Any]
"""Names of a folder; a file is its content, bytes, a folder a `Tree`."""


class Disk:
    """What a disk holds after the steps that were played, but for what it lost."""

    def __init__(self) -> None:
        self._folders: dict[int, _Folder] = {}
        self._contents: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}
        self._root = 0

    def play(self, step: Look | Sync) -> None:
        """Do what was recorded."""
        if isinstance(step, Look):
            self._contents |= step.changed
            self._root = self._root or next(iter(step.folders))
            for inode, names in step.folders.items():
                self._folders.setdefault(inode, _Folder()).change(names)
        elif step.inode in self._folders:
            folder = self._folders[step.inode]
            folder.synced, folder.since = dict(folder.names), []
        elif step.inode in self._contents:
            self._synced[step.inode] = self._contents[step.inode]

    def settle(self) -> None:
        """Sync everything: what stood there long before."""
        for folder in self._folders.values():
            folder.synced, folder.since = dict(folder.names), []
        self._synced = dict(self._contents)

    def left(self, names: str, contents: str, chance: random.Random) -> Tree:
        """Return what a power loss leaves.

        ``names`` and ``contents`` say what became of changes that were not synced: ``lost``, ``kept``,
        ``half`` (of contents: the first half was written) or ``some`` (at random, each by itself).
        """

        def reached() -> bool:
            return names == "kept" or (names == "some" and chance.random() < 0.5)

        def content(inode: int) -> bytes:
            now, before = self._contents[inode], self._synced.get(inode, b"")
            what = chance.choice(("lost", "kept", "half")) if contents == "some" else contents
            half = len(now) // 2
            return {"lost": before, "kept": now, "half": now[:half] + before[half:]}[what]

        def tree(inode: int) -> Tree:
            found = sorted(self._folders[inode].after(reached).items())
            return {name: tree(i) if i in self._folders else content(i) for name, i in found}

        return tree(self._root)


def write(tree: Tree, folder: Path) -> None:
    """Make real files of a tree."""
    folder.mkdir()
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            write(content, folder / name)
