"""What a scan on one GPU needs and takes, from a model's configuration alone.

Layer by layer over the whole corpus, as on the CPU (`pyneurons.engine.plan`): the residual stream lies
by rows in device memory, pinned host memory and a file, in that order as far as each reaches; weights
pass through a ring of slots; the bits of one layer and the n-gram indices lie where they fit. The engine
on a device (`pyneurons.engine.device_run`) follows it; the times rest on rates that were not measured.

Notes
-----
Every kernel takes the longer of its arithmetic and its bytes, ``kernel_share`` of that rate is reached,
and copies hide behind kernels, both directions of PCIe at once: a layer takes the longest of kernels,
PCIe and disk. What is not hidden: the first layer's weights.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pyneurons.corpus.ngram_index import index_bytes
from pyneurons.engine.device_mask import HELD_STRIPS
from pyneurons.engine.device_residual import STAGED
from pyneurons.engine.mask import STRIP_WORDS, StripShape
from pyneurons.errors import InputError, ResourceError
from pyneurons.model.device_layer import ATTENTION_ROWS, BLOCK_ROWS
from pyneurons.model.opt import bucket
from pyneurons.observers.vocabulary_device import projection_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyneurons.model.config import OptConfig

ITEM: Final = 2
"""Bytes of a weight and of an activation: float16 or bfloat16."""

WIDE_BATCH, BATCH = 65_536, 16_384
"""Rows of a micro-batch up to `WIDE_HIDDEN`, and above it. 15.5k rows hide PCIe at any size."""
WIDE_HIDDEN = 2048

DEVICE_RESERVE = 3 << 29
"""CUDA context, libraries and what an allocator leaves between buffers; not measured here."""
HOST_RESERVE = 2 << 30
"""A Python process with torch and CUDA; not measured here."""


@dataclass(frozen=True)
class Budgets:
    """What may be used, bytes."""

    gpu_memory: int = 80 << 30
    host_memory: int = 64 << 30
    disk_space: int = 10**12


@dataclass(frozen=True)
class Numbers:
    """In what the weights are stored and multiplied."""

    weight_item: int = ITEM  # bytes of a weight in the checkpoint
    item: int = ITEM  # bytes of a weight and an activation when they are multiplied
    converted: bool = False  # whether these two are of different types
    sample: int = 0  # tokens repeated in float32
    ordered: bool = True  # whether a layer may be run with its neurons in another order


@dataclass(frozen=True)
class Reserves:
    """What is taken before anything is placed, bytes."""

    device: int = DEVICE_RESERVE
    host: int = HOST_RESERVE


@dataclass(frozen=True)
class Assumptions:
    """Rates that the times rest on; none was measured by this program."""

    gemm_tflops: float = 790.0
    attention_tflops: float = 400.0
    kernel_share: float = 0.85
    gpu_bandwidth: float = 3.0e12
    pcie_bandwidth: float = 50e9
    disk_bandwidth: float = 3e9

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 1.0 if name == "kernel_share" else math.inf
            if not 0 < value <= most or math.isinf(value):
                message = f"{name}: {value} is not above 0"
                message += " and at most 1" if name == "kernel_share" else ""
                raise InputError(message)


BASIS: Final = {
    "gemm_tflops": "dense 16-bit products of 8192 x 8192, as published for H100 and H200",
    "attention_tflops": "causal FlashAttention, 2,048 positions, heads of 128: 430 to 570 published",
    "kernel_share": "of these rates, what kernels with their epilogues reach: a goal",
    "gpu_bandwidth": "device memory of an H100, in bytes a second",
    "pcie_bandwidth": "PCIe 5 x16, pinned memory, each direction at once",
    "disk_bandwidth": "one NVMe drive, reading and writing together",
}
"""Where the default of each assumption comes from."""


def micro_batch(config: OptConfig, context: int) -> int:
    """Return the rows of a micro-batch: whole sequences, a constant of model shape and context."""
    least = WIDE_BATCH if config.hidden_size <= WIDE_HIDDEN else BATCH
    return -(-least // context) * context


def sample_batch(context: int) -> int:
    """Return the rows of a micro-batch of the tokens that are repeated in float32."""
    return -(-BATCH // context) * context


@dataclass(frozen=True)
class Workload:
    """What is scanned."""

    config: OptConfig
    tokens: int
    context: int
    ngrams: tuple[int, ...]
    numbers: Numbers = field(default_factory=Numbers)
    reserves: Reserves = field(default_factory=Reserves)

    @property
    def padded_tokens(self) -> int:
        """Rows that are computed: the last micro-batch is padded."""
        rows = micro_batch(self.config, self.context)
        return -(-self.tokens // rows) * rows

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's weights."""
        return self.numbers.weight_item * self._layer_parameters

    @property
    def _layer_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.config.layer_shapes().values())

    @property
    def converted_bytes(self) -> int:
        """Bytes of one layer's weights as they are multiplied, where that is another type."""
        return self.numbers.item * self._layer_parameters if self.numbers.converted else 0

    @property
    def embedding_bytes(self) -> int:
        """Bytes of what stands before the first layer and behind the last."""
        shapes = self.config.embedding_shapes() | self.config.head_shapes()
        return self.numbers.weight_item * sum(math.prod(shape) for shape in shapes.values())

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of all weights."""
        return self.embedding_bytes + self.config.num_hidden_layers * self.layer_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the residual stream, float32."""
        return 4 * self.config.hidden_size

    @property
    def mask_bytes(self) -> int:
        """Bytes of the bits of one layer, in whole strips."""
        return StripShape.of(self.config.ffn_dim).bytes(self.tokens)

    @property
    def index_sizes(self) -> list[int]:
        """Bytes of the n-gram index of each order, at most."""
        return [index_bytes(self.tokens, n, self.config.vocab_size)[0] for n in self.ngrams]

    def kernel_seconds(self, rates: Assumptions) -> dict[str, float]:
        """Return the seconds of each kernel for one layer over the whole corpus.

        In operations a row: 2 for each weight of a linear map, ``2 T D`` for causal attention.
        In bytes a row: inputs and outputs in the compute dtype, the residual of 4 read and written; counting
        reads the bits three times for each n, once for firing and once for positions.
        """
        width, neurons = self.config.hidden_size, self.config.ffn_dim
        gemm, attention = 1e12 * rates.gemm_tflops, 1e12 * rates.attention_tflops
        bits = self.mask_bytes / self.tokens
        rows, item = self.padded_tokens, self.numbers.item
        kernels = {  # (operations, rate, bytes) a row
            "norms": (0, gemm, 2 * (4 + item) * width),
            "q, k, v": (6 * width**2, gemm, item * 4 * width),
            "attention": (2 * self.context * width, attention, item * 4 * width),
            "out_proj": (2 * width**2, gemm, (item + 8) * width),
            "fc1": (2 * width * neurons, gemm, item * (width + neurons) + bits),
            "fc2": (2 * width * neurons, gemm, item * neurons + 8 * width),
            "counting": (0, gemm, (3 * len(self.ngrams) + 2) * bits),
        }
        seconds = {
            name: rows * max(operations / rate, moved / rates.gpu_bandwidth)
            for name, (operations, rate, moved) in kernels.items()
        }
        # Each neuron's update on each token of the vocabulary, whatever the corpus.
        seconds["vocabulary"] = (
            2 * self.config.vocab_size * self.config.word_embed_proj_dim * neurons / gemm
        )
        return {name: value / rates.kernel_share for name, value in seconds.items()}


@dataclass(frozen=True)
class DevicePlan:
    """Places, bytes and seconds of one scan on one GPU; bytes unless named otherwise."""

    tokens: int
    context: int
    ngrams: tuple[int, ...]
    layers: int
    micro_batch: int  # rows
    ring_slots: int  # layers of weights in device memory
    residual: dict[str, int]  # rows by place: "device", "host", "file"
    mask: str  # "device", "host" or "file"
    index: str  # "device" or "host"
    moved: dict[str, int]  # one layer
    device: dict[str, int]  # at the peak
    host: dict[str, int]
    disk: dict[str, int]  # without the checkpoint, which is there
    checkpoint: int
    kernel_s: dict[str, float]  # one layer
    layer_s: dict[str, float]  # "compute", "PCIe", "disk": the longest is the layer's time
    first_weights_s: float
    budgets: Budgets = field(default_factory=Budgets)
    assumptions: Assumptions = field(default_factory=Assumptions)
    numbers: Numbers = field(default_factory=Numbers)
    reserves: Reserves = field(default_factory=Reserves)

    @property
    def predicted_peak(self) -> dict[str, int]:
        """Bytes at the peak by place."""
        return {
            "device": sum(self.device.values()),
            "host": sum(self.host.values()),
            "disk": sum(self.disk.values()),
        }

    @property
    def bound(self) -> str:
        """What a layer waits for: "compute", "PCIe" or "disk"."""
        return max(self.layer_s, key=lambda name: self.layer_s[name])

    @property
    def total_s(self) -> float:
        """Seconds of the scan."""
        return self.first_weights_s + self.layers * self.layer_s[self.bound]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the corpus a second, through all layers."""
        return self.tokens / self.total_s

    @property
    def tokens_that_hide_weights(self) -> int:
        """Tokens whose kernels take as long as one layer's weights take over PCIe and from disk."""
        weights = self.moved["weights, disk to host"]
        slowest = min(self.assumptions.pcie_bandwidth, self.assumptions.disk_bandwidth)
        return math.ceil(weights / slowest / (self.layer_s["compute"] / self.tokens))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {
            "ngrams": list(self.ngrams),
            "predicted_peak": self.predicted_peak,
            "bound": self.bound,
            "total_s": self.total_s,
            "tokens_per_s": self.tokens_per_s,
            "tokens_that_hide_weights": self.tokens_that_hide_weights,
        }


@dataclass(frozen=True)
class _Places:
    mask: str
    index: str
    ring_slots: int


def _candidates(layers: int) -> Iterator[_Places]:
    for mask in ("device", "host", "file"):
        for index in ("device", "host"):
            # One layer computes, two come; where memory is short, one.
            for slots in dict.fromkeys((min(3, layers), min(2, layers))):
                yield _Places(mask, index, slots)


def _largest_phase(kept: dict[str, int], *phases: dict[str, int]) -> dict[str, int]:
    phase = max(phases, key=lambda parts: sum(parts.values()))
    return {name: size for name, size in (kept | phase).items() if size}


def _products(rows: int, work: Workload, item: int) -> int:
    """Return what a layer needs for a while: h, or what attends at a time; and a block of norms."""
    width, neurons = work.config.hidden_size, work.config.ffn_dim
    attending = max(ATTENTION_ROWS, bucket(work.context))
    return item * max(rows * neurons, 4 * attending * width) + 2 * 4 * BLOCK_ROWS * width


class _Arrangement:
    """A workload with all but the residual placed; the residual fills what is left."""

    def __init__(self, work: Workload, places: _Places, budgets: Budgets) -> None:
        self.work, self.places, self.budgets = work, places, budgets
        self.rows = micro_batch(work.config, work.context)
        self.batch = self.rows * work.row_bytes
        self.in_device = self._fill(budgets.gpu_memory, work.tokens, self.device_parts)
        left = work.tokens - self.in_device
        self.in_host = self._fill(budgets.host_memory, left, self.host_parts)
        self.in_file = left - self.in_host

    def _fill(self, budget: int, rows: int, parts: Callable[[int, int], dict[str, int]]) -> int:
        """Return how many of ``rows`` fit: all of them, or whole micro-batches beside buffers."""
        if sum(parts(rows, 0).values()) <= budget:
            return rows
        free = budget - sum(parts(0, rows).values())
        return max(0, min(rows, free // self.batch * self.rows))

    def device_parts(self, here: int, elsewhere: int) -> dict[str, int]:
        """Return device memory with so many rows of the residual here and elsewhere."""
        work, places = self.work, self.places
        config, indices = work.config, work.index_sizes
        width, neurons = config.hidden_size, config.ffn_dim
        shape = StripShape.of(neurons)
        numbers, item = work.numbers, work.numbers.item
        orders = 8 * work.tokens  # rows by position, and in the order they are sampled
        sample = min(numbers.sample + work.context, work.tokens) if numbers.sample else 0
        kept = {
            "context": work.reserves.device,
            "weight ring": places.ring_slots * work.layer_bytes,
            "embeddings": work.embedding_bytes,
            "residual": here * work.row_bytes,
            "bits": work.mask_bytes if places.mask == "device" else 0,
            "n-gram indices": sum(indices) if places.index == "device" else max(indices, default=0),
            "row orders": orders,
            # x, q, k, v and what they mix to
            "workspace": item * (5 * self.rows + 4) * width,
            "residual ring": STAGED * self.batch if elsewhere else 0,
            "bits ring": STAGED * shape.bytes(self.rows) if places.mask != "device" else 0,
            "strips": HELD_STRIPS * 4 * STRIP_WORDS * work.tokens if places.mask != "device" else 0,
            "float32 sample": sample * (4 * width + shape.bytes(1)),
        }
        forward = {
            "converted weights": work.converted_bytes,
            "products": _products(self.rows, work, item),
            # fc1 and fc2 once more; the pilot's rows, and what orders its columns.
            "neuron order": 2 * item * width * neurons + self.batch if numbers.ordered else 0,
        }
        rows = sample_batch(work.context)
        again = {
            # fc1 and fc2; x, q, k, v and what they mix to.
            "products": 4 * (2 * width * neurons + (5 * rows + 4) * width)
            + _products(rows, work, 4)
            if sample
            else 0,
        }
        # At most N / b n-grams occur more than b times: b bins and N / b rows, at best 2 sqrt(N).
        histogram = 4 * 2 * math.isqrt(work.tokens - 1) + 8 if work.ngrams else 0
        count = {
            "counters": 4 * work.context * neurons,
            "histogram": histogram * neurons,
            "scores": projection_bytes(
                config.vocab_size, config.word_embed_proj_dim, width, item=numbers.weight_item
            ),
        }
        return _largest_phase(kept, forward, again, count)

    def host_parts(self, here: int, elsewhere: int) -> dict[str, int]:
        """Return host memory with so many rows of the residual here and in a file."""
        work, places = self.work, self.places
        tokens, neurons = work.tokens, work.config.ffn_dim
        indices = work.index_sizes
        kept = {
            "process": work.reserves.host,
            # The ids, and rows by position, in the order they are sampled, and of frequent n-grams.
            "corpus": 4 * tokens * (3 + len(work.ngrams)),
            "embeddings": work.embedding_bytes,
        }
        building = max(
            (
                sum(indices[: i + 1]) + index_bytes(tokens, n, work.config.vocab_size)[1]
                for i, n in enumerate(work.ngrams)
            ),
            default=0,
        )
        run = {
            "weight ring": places.ring_slots * work.layer_bytes,
            "residual": here * work.row_bytes,
            "residual ring": 2 * self.batch if elsewhere else 0,
            "bits": work.mask_bytes if places.mask == "host" else 0,
            "bits ring": StripShape.of(neurons).bytes(self.rows) + 4 * STRIP_WORDS * tokens
            if places.mask == "file"
            else 0,
            "n-gram indices": sum(indices),
            # A layer's results while they are written, and those of the layer being counted.
            "counters": 2 * 4 * work.context * neurons,
        }
        return _largest_phase(kept, {"n-gram indices, built": building}, run)

    def disk_parts(self) -> dict[str, int]:
        """Return scratch files and the run's counts by position."""
        work = self.work
        full = work.tokens // work.context
        width = next(size for size in (1, 2, 4) if full < 256**size)
        counts = width * work.context * work.config.ffn_dim * work.config.num_hidden_layers
        return {
            name: size
            for name, size in {
                "residual": self.in_file * work.row_bytes,
                "bits": work.mask_bytes if self.places.mask == "file" else 0,
                "position counts": counts,
            }.items()
            if size
        }

    def peaks(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Return the parts of device memory, host memory and disk."""
        return (
            self.device_parts(self.in_device, self.in_host + self.in_file),
            self.host_parts(self.in_host, self.in_file),
            self.disk_parts(),
        )

    def short(self) -> dict[str, tuple[int, dict[str, int]]]:
        """Return what does not fit: bytes over the budget, and the parts."""
        budgets = (self.budgets.gpu_memory, self.budgets.host_memory, self.budgets.disk_space)
        names = ("gpu_memory", "host_memory", "disk_space")
        return {
            name: (over, parts)
            for name, budget, parts in zip(names, budgets, self.peaks(), strict=True)
            if (over := sum(parts.values()) - budget) > 0
        }

    def moved(self) -> dict[str, int]:
        """Return the bytes that one layer moves, by what and whence."""
        work, places = self.work, self.places
        outside = (self.in_host + self.in_file) * work.row_bytes
        filed = self.in_file * work.row_bytes
        bits = work.mask_bytes if places.mask != "device" else 0
        filed_bits = bits if places.mask == "file" else 0
        # With an index that lies on the host all strips are counted, where all of them are there.
        strips = 1 if places.mask == "device" else StripShape.of(work.config.ffn_dim).strips
        return {
            "weights, disk to host": work.layer_bytes,
            "weights, host to device": work.layer_bytes,
            "residual, host to device": outside,
            "residual, device to host": outside,
            "residual, disk to host": filed,
            "residual, host to disk": filed,
            "bits, device to host": bits,
            "bits, host to device": bits,
            "bits, host to disk": filed_bits,
            "bits, disk to host": filed_bits,
            "n-gram indices, host to device": strips * sum(work.index_sizes)
            if places.index == "host"
            else 0,
        }

    def plan(self, rates: Assumptions) -> DevicePlan:
        """Return places, bytes and seconds."""
        work, moved = self.work, self.moved()
        device, host, disk = self.peaks()
        kernels = work.kernel_seconds(rates)

        def total(way: str) -> int:
            return sum(size for name, size in moved.items() if name.endswith(way))

        weights = work.layer_bytes
        return DevicePlan(
            tokens=work.tokens,
            context=work.context,
            ngrams=work.ngrams,
            layers=work.config.num_hidden_layers,
            micro_batch=self.rows,
            ring_slots=self.places.ring_slots,
            residual={"device": self.in_device, "host": self.in_host, "file": self.in_file},
            mask=self.places.mask,
            index=self.places.index,
            moved={name: size for name, size in moved.items() if size},
            device=device,
            host=host,
            disk=disk,
            checkpoint=work.checkpoint_bytes,
            kernel_s=kernels,
            layer_s={
                "compute": sum(kernels.values()),
                "PCIe": max(total("host to device"), total("device to host"))
                / rates.pcie_bandwidth,
                "disk": (total("disk to host") + total("host to disk")) / rates.disk_bandwidth,
            },
            first_weights_s=weights / rates.disk_bandwidth + weights / rates.pcie_bandwidth,
            budgets=self.budgets,
            assumptions=rates,
            numbers=work.numbers,
            reserves=work.reserves,
        )


def make_device_plan(
    config: OptConfig,
    tokens: int,
    *,
    context: int | None = None,
    ngrams: Sequence[int] = (1, 2, 3),
    budgets: Budgets | None = None,
    assumptions: Assumptions | None = None,
    numbers: Numbers | None = None,
    reserves: Reserves | None = None,
) -> DevicePlan:
    """Choose the fastest arrangement that fits the budgets.

    Parameters
    ----------
    config : OptConfig
    tokens : int
        Positions to run, at least 2.
    context : int, optional
        Positions of a sequence. Default: the model's maximum.
    ngrams : sequence of int
    budgets, assumptions, numbers, reserves : optional
        Defaults: `Budgets`, `Assumptions`, `Numbers`, `Reserves`.

    Raises
    ------
    InputError
        If tokens, context or an order is out of range.
    ResourceError
        If no arrangement fits; the message says what is short, by how much, and for what.

    Notes
    -----
    More of any budget never gives a slower plan: each arrangement keeps at least as many rows as near
    as before. Cost: 12 arrangements, well below a millisecond each.
    """
    budgets, rates = budgets or Budgets(), assumptions or Assumptions()
    context = config.max_position_embeddings if context is None else context
    if not 2 <= context <= config.max_position_embeddings:
        message = f"context: {context} is not between 2 and {config.max_position_embeddings}, "
        message += "the model's maximum"
        raise InputError(message)
    # Rows are numbered by int32.
    if not 2 <= tokens < 1 << 31:
        message = f"tokens: {tokens:,} is not between 2 and {(1 << 31) - 1:,}"
        raise InputError(message)
    orders = tuple(sorted(set(ngrams)))
    if any(not 1 <= n <= 8 for n in orders):
        message = f"ngrams: {list(ngrams)} has an order outside 1 to 8"
        raise InputError(message)
    work = Workload(config, tokens, context, orders, numbers or Numbers(), reserves or Reserves())
    arrangements = [
        _Arrangement(work, places, budgets) for places in _candidates(config.num_hidden_layers)
    ]
    fitting = [arranged.plan(rates) for arranged in arrangements if not arranged.short()]
    if fitting:
        return min(fitting, key=_seconds_and_distance)
    raise ResourceError(_shortage(arrangements))


def _seconds_and_distance(plan: DevicePlan) -> tuple[float, int, bool, int, int]:
    """Return what is least in the best plan: its time; of equal ones, what lies far away."""
    rows = plan.residual
    return plan.total_s, rows["file"], plan.mask == "file", -plan.ring_slots, rows["host"]


def _shortage(arrangements: list[_Arrangement]) -> str:
    """Say what is short in the arrangement that misses its budgets by the smallest share."""

    def miss(arranged: _Arrangement) -> float:
        given: dict[str, int] = asdict(arranged.budgets)
        return max(over / given[name] for name, (over, _) in arranged.short().items())

    lines = []
    nearest = min(arrangements, key=miss)
    for name, (over, parts) in nearest.short().items():
        given = getattr(nearest.budgets, name)
        needs = ", ".join(f"{part} {size / 1e9:,.1f}" for part, size in parts.items())
        lines.append(
            f"{name}: {given / 1e9:,.1f} GB are given, {over / 1e9:,.1f} GB more are needed "
            f"(GB: {needs})"
        )
    return "; ".join(lines)


def most_tokens_without_file(plan: DevicePlan, config: OptConfig) -> int:
    """Return the most tokens, in whole micro-batches, whose residual and bits need no file.

    0 where not even one micro-batch does.
    """

    def stays(batches: int) -> bool:
        other = _other(plan, config, batches * plan.micro_batch, plan.budgets)
        return other is not None and not other.residual["file"] and other.mask != "file"

    most = ((1 << 31) - 1) // plan.micro_batch
    return plan.micro_batch * (_least(lambda batches: not stays(batches), 1, most + 1) - 1)


def host_memory_to_compute(plan: DevicePlan, config: OptConfig) -> int | None:
    """Return the least host memory, in whole GiB, with which the kernels bound this scan.

    None where 64 TiB would not do: PCIe, or reading the weights, bounds it.
    """

    def computes(gibibytes: int) -> bool:
        budgets = replace(plan.budgets, host_memory=gibibytes << 30)
        other = _other(plan, config, plan.tokens, budgets)
        return other is not None and other.bound == "compute"

    most = 1 << 16
    least = _least(computes, 1, most + 1)
    return least << 30 if least <= most else None


def _other(plan: DevicePlan, config: OptConfig, tokens: int, budgets: Budgets) -> DevicePlan | None:
    """Return the plan for other tokens or budgets, or None where there is none."""
    try:
        return make_device_plan(
            config,
            tokens,
            context=plan.context,
            ngrams=plan.ngrams,
            budgets=budgets,
            assumptions=plan.assumptions,
            numbers=plan.numbers,
            reserves=plan.reserves,
        )
    except ResourceError:
        return None


def _least(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the least integer in [low, high) from which on a condition holds, or ``high``."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
