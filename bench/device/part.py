"""What each part is given: the device, how much time is left, where its records go."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class PartFailed(Exception):
    """What was measured is kept, and the part has failed all the same."""


@dataclass(frozen=True)
class Part:
    """One part while it runs.

    Parameters
    ----------
    file : Path
        Gets one line of JSON for each record, at once: what a part found before it was stopped is
        not lost.
    toy : bool
        There is no GPU: small shapes, nothing is a measurement.
    end : float
        When the part is stopped, as `time.monotonic` counts.
    """

    file: Path
    toy: bool
    end: float

    @property
    def device(self) -> Any:
        """The GPU, or the CPU for toy shapes."""
        import torch

        return torch.device("cpu" if self.toy else "cuda")

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def record(self, what: str, **fields: Any) -> None:
        """Keep one record."""
        line = json.dumps({"what": what} | fields)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def absent(self, what: str, why: str, **fields: Any) -> None:
        """Say what is not measured here, and why."""
        self.record(what, absent=why, **fields)

    def in_time(self, what: str, seconds: float, **fields: Any) -> bool:
        """Whether so many seconds are left; a record says so where they are not."""
        if self.left() >= seconds:
            return True
        self.absent(
            what, f"{self.left():.0f} s were left, about {seconds:.0f} are needed", **fields
        )
        return False


def run(measure: Callable[[Part], None]) -> None:
    """Run a part from its command line: ``FILE SECONDS [--toy]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    part = Part(options.file, options.toy, time.monotonic() + options.seconds)
    try:
        measure(part)
    except PartFailed as failed:
        sys.exit(f"{failed}")
