# Arguments as in pyneurons.ops, which checks them first.

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint32]
Ids: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Ints: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.uint16]  # of bfloat16
Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Places: TypeAlias = npt.NDArray[np.int32]
# low, column, upper, number
Candidates: TypeAlias = tuple[Floats, Places, Floats, Places]
Order: TypeAlias = npt.NDArray[np.int32] | None

def isas() -> list[str]: ...
def compiled_isas() -> list[str]: ...
def detect() -> str: ...
def executed() -> dict[str, dict[str, int]]: ...
def segment_counts(
    mask: Words,
    order: Order,
    segments: Ints,
    counts: npt.NDArray[np.int64 | np.uint8 | np.uint16 | np.uint32],
    isa: str,
    threads: int,
) -> None: ...
def firing_rows(
    mask: Words, order: Order, rows: Ints, found: Ints, isa: str, threads: int
) -> None: ...
def first_segments(
    mask: Words,
    order: Order,
    segments: Ints,
    count: Ints,
    found_segments: npt.NDArray[np.int32],
    found: Ints,
    isa: str,
    threads: int,
) -> None: ...
def ngram_keys(
    ids: Ids,
    starts: Ints,
    n: int,
    bits: int,
    boundary_id: int,
    keys: npt.NDArray[np.uint64],
    isa: str,
    threads: int,
) -> None: ...
def ngram_coverage(
    mask: Words,
    order: Order,
    segments: Ints,
    fires: Ints,
    histogram: Ints,
    large: Ints,
    isa: str,
    threads: int,
) -> tuple[int, int] | None: ...
def histogram_entries(histogram: Ints, large: Ints, threads: int) -> tuple[Ints, Ints, Ints]: ...
def ngram_triggers(
    mask: Words,
    order: Order,
    segments: Ints,
    threshold: Ints,
    offsets: Ints,
    segment_of: npt.NDArray[np.int32],
    fires: Ints,
    isa: str,
    threads: int,
) -> tuple[int, int] | None: ...
def ffn_epilogue(
    z: npt.NDArray[np.float32],
    mask: Words,
    z_max: npt.NDArray[np.float32],
    isa: str,
    threads: int,
) -> int: ...
def ffn(
    x: Bits,
    fc1: Bits,
    fc1_bias: Bits | None,
    fc2: Bits | None,
    fc2_bias: Bits | None,
    residual: npt.NDArray[np.float32],
    mask: Words,
    z_max: npt.NDArray[np.float32],
    isa: str,
    threads: int,
) -> int: ...
def layer_norm(
    x: Floats,
    weight: Floats | None,
    bias: Floats | None,
    epsilon: float,
    out: Bits,
    isa: str,
    threads: int,
) -> None: ...
def attention(
    qkv: Bits,
    starts: Ints,
    heads: int,
    out: Bits,
    isa: str,
    threads: int,
) -> None: ...
def linear(
    x: Bits,
    weight: Bits,
    bias: Bits | None,
    out: Bits | Floats,
    isa: str,
    threads: int,
) -> None: ...
def linear_split(
    x: npt.NDArray[np.float32],
    weight: list[Bits],
    bias: npt.NDArray[np.float32] | None,
    out: npt.NDArray[np.float32],
    isa: str,
    threads: int,
) -> None: ...
def score_candidates(
    scores: Bits | Floats,
    length: Floats,
    bound: Floats,
    unit: float,
    first: int,
    largest: Candidates,
    smallest: Candidates,
) -> None: ...
def exact_scores(rows: Floats, directions: Doubles, owner: Ints, out: Floats) -> None: ...
def trigger_baselines(
    scores: Floats,
    mean: Doubles,
    groups: tuple[Ints, Ints, Places],
    baselines: tuple[Places, Places, Places, Ints],
    most_random: int,
    most_matched: int,
    rank: Places,
    random: tuple[Doubles, Places],
    matched: tuple[Doubles, Places],
) -> None: ...
