"""Where everything goes: a memory budget in, places and a predicted peak out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pyneurons import _env
from pyneurons.engine.mask import STRIP_WORDS, StripShape
from pyneurons.engine.quantity import size_of
from pyneurons.errors import InputError, ResourceError
from pyneurons.model.opt import MICRO_BATCH_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_SHARE_OF_FREE = 0.6
# Python objects, allocator arenas of the worker threads and the libraries' own buffers: 50 to
# 65 MB over the sum of the arrays in scans of 0.5 to 2 GB (2 threads, Linux, torch 2.13).
SLACK_BYTES = 128 << 20


def parse_memory(memory: float | str | None) -> int:
    """Return a budget in bytes from a number of bytes or a text such as ``1.5GB`` or ``800MiB``."""
    if memory is None:
        free = _env.available_bytes()
        if free is None:
            message = "memory: this system does not tell how much is free; pass memory="
            raise InputError(message)
        return int(DEFAULT_SHARE_OF_FREE * free) + (_env.resident_bytes() or 0)
    return size_of(memory, "memory")


def micro_batches(
    lengths: Sequence[int], most: int = MICRO_BATCH_TOKENS
) -> Iterator[tuple[int, int]]:
    """Split the sequences into runs [first, last) of at most ``most`` positions, or one longer one.

    A function of the corpus alone: neither the budget nor the number of threads moves a border.
    """
    first, tokens = 0, 0
    for i, length in enumerate(lengths):
        if i > first and tokens + length > most:
            yield first, i
            first, tokens = i, 0
        tokens += length
    if first < len(lengths):
        yield first, len(lengths)


@dataclass(frozen=True)
class Sizes:
    """What a plan is made from, bytes unless named otherwise."""

    rows: int
    hidden: int
    neurons: int
    threads: int
    resident: int  # of the process when the plan is made
    embeddings: int
    layer: int  # one layer in the checkpoint's dtype
    updates: int  # fc2 of one layer in the checkpoint's dtype
    layer_converted: int  # one layer in the dtype of the numeric mode
    workspace: int  # of one thread
    sample_rows: int  # repeated in float32
    layer_float32: int
    index_peak: int  # while the n-gram indices are built, above `resident`
    index_kept: int
    index_largest: int  # of one n
    orders: int  # observers' row orders
    counters: int  # of one layer
    strip_counters: int  # for 1,024 neurons, while a strip is counted
    projection: int  # while updates are projected onto the vocabulary


@dataclass(frozen=True)
class Plan:
    """Places and the predicted peak; recorded in the manifest."""

    memory_bytes: int
    residual: str  # "memory" or "file"
    mask: str
    index: str
    strip_words: int
    threads: int
    ngrams_at_once: int  # strips, or orders n, counted at the same time
    predicted_peak_bytes: int
    parts: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class _Places:
    residual: str
    mask: str
    words: int
    index: str
    at_once: int = 1


def _candidates(residual: str | None, index: str | None, threads: int) -> Iterator[_Places]:
    places = ("memory", "file") if residual is None else (residual,)
    # Reading an index again for every strip costs less than any other move to a file.
    indices = ("memory", "file") if index is None else (index,)
    for place in places:
        for kept in indices:
            # Of indices in files, and of masks, one is there at a time.
            if kept == "memory" and threads > 1:
                yield _Places(place, "memory", STRIP_WORDS, kept, 2)
            yield _Places(place, "memory", STRIP_WORDS, kept)
    words = STRIP_WORDS
    while words >= 1:
        for kept in indices:
            yield _Places(places[-1], "file", words, kept)
        words //= 2


def _peak(sizes: Sizes, places: _Places) -> tuple[int, dict[str, int]]:
    residual, mask, words, index = places.residual, places.mask, places.words, places.index
    shape = StripShape.of(sizes.neurons, words)
    one_strip = 4 * sizes.rows * shape.strip_words
    width = 32 * shape.strip_words
    kept = {
        "process": sizes.resident,
        "slack": SLACK_BYTES,
        "n-gram indices": sizes.index_kept if index == "memory" else sizes.index_largest,
        "row orders": sizes.orders,
        "embeddings": sizes.embeddings,
        "residual": 4 * sizes.rows * sizes.hidden if residual == "memory" else 0,
        "bits": shape.bytes(sizes.rows) if mask == "memory" else 0,
        # The worker threads keep their buffers while a layer is counted.
        "workspaces": sizes.threads
        * (sizes.workspace + (shape.bytes(MICRO_BATCH_TOKENS) if mask == "file" else 0)),
        "float32 sample": sizes.sample_rows * (4 * sizes.hidden + shape.bytes(1)),
    }
    forward = {
        "weights": sizes.layer
        + sizes.layer_converted
        + (sizes.layer_float32 if sizes.sample_rows else 0),
    }
    count = {
        # The next layer, which is being read, and fc2 of the one that is counted, read again.
        "weights": sizes.layer + sizes.updates,
        "strip": one_strip if mask == "file" else 0,
        "counters": sizes.counters + -(-sizes.strip_counters * width // 1024) * places.at_once,
        "projection": sizes.projection,
    }
    building = sizes.resident + SLACK_BYTES + sizes.index_peak
    phase = max((forward, count), key=lambda parts: sum(parts.values()))
    parts = kept | phase
    return max(sum(parts.values()), building), parts


def make_plan(
    sizes: Sizes, memory_bytes: int, *, residual: str | None = None, index: str | None = None
) -> Plan:
    """Choose the places that fit the budget, the fastest first.

    Order: everything in memory, with the n-grams of two strips counted at the same time, or of one:
    while one is with NumPy, on its own thread, the threads of the other's ops count; the residual in a file; the bits in a file as well, with strips of
    1,024 neurons and then narrower ones. At each step the n-gram indices in memory, or one of them.

    Raises
    ------
    ResourceError
        If the smallest arrangement is predicted to need more than the budget; the message says
        how much and for what.
    """
    peak, parts = 0, dict[str, int]()
    for places in _candidates(residual, index, sizes.threads):
        peak, parts = _peak(sizes, places)
        if peak <= memory_bytes:
            return Plan(
                memory_bytes=memory_bytes,
                residual=places.residual,
                mask=places.mask,
                index=places.index,
                strip_words=places.words,
                threads=sizes.threads,
                ngrams_at_once=places.at_once,
                predicted_peak_bytes=peak,
                parts=parts,
            )
    needs = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in parts.items() if size)
    message = (
        f"memory: {memory_bytes / 1e6:,.0f} MB are given, at least {peak / 1e6:,.0f} MB are needed"
    )
    message += f" (MB: {needs}); raise memory=, or lower max_tokens=, threads= or flip_sample="
    raise ResourceError(message)
