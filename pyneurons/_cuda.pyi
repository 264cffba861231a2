# There only in builds with PYNEURONS_CUDA=ON. Arguments as in pyneurons.ops, which checks them first.

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

# Address, rows, columns, elements from row to row; a vector has one row.
Device: TypeAlias = tuple[int, int, int, int]
Ints: TypeAlias = npt.NDArray[np.int64]

def devices() -> tuple[int, str]: ...
def segment_counts(
    mask: Device,
    order: Device | None,
    segments: Device,
    segments_on_host: Ints,
    counts: Device,
    stream: int,
) -> None: ...
def segment_counts_u32(
    mask: Device,
    order: Device | None,
    segments: Device,
    segments_on_host: Ints,
    counts: Device,
    stream: int,
) -> None: ...
def ngram_coverage(
    mask: Device,
    order: Device | None,
    segments: Device,
    segments_on_host: Ints,
    fires: Device,
    histogram: Device,
    large: Device,
    stream: int,
) -> tuple[int, int] | None: ...
def ngram_triggers(
    mask: Device,
    order: Device | None,
    segments: Device,
    segments_on_host: Ints,
    threshold: Device,
    offsets: Device,
    segment_of: Device,
    fires: Device,
    stream: int,
) -> tuple[int, int] | None: ...

class TableFull(Exception): ...
class LostCounts(Exception): ...

class PairCounts:
    def __init__(self, capacity: int, most_slots: int, most_probes: int, stream: int) -> None: ...
    @property
    def capacity(self) -> int: ...
    def add(self, keys: Device, counts: Device) -> None: ...
    def add_lists(
        self, offsets: Device, segment_of: Device, fires: Device, ngram_of: Device
    ) -> None: ...
    def sort(self) -> int: ...
    def sorted(self, keys: Device, counts: Device) -> None: ...
