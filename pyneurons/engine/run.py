"""The loop: each layer over the whole corpus, then its observers, then its counters on disk."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from pyneurons import _env, failpoints
from pyneurons._memory import return_freed
from pyneurons.corpus import ngram_index
from pyneurons.engine.checkpoints import Checkpoints
from pyneurons.engine.counting import answers_of, join
from pyneurons.engine.flips import FlipSample, sample_of
from pyneurons.engine.index_file import IndexFiles
from pyneurons.engine.mask import FileMask, Mask, MemoryMask, StripShape
from pyneurons.engine.neuron_order import bits_by_neuron, counters_by_neuron, ngrams_by_neuron
from pyneurons.engine.not_finite import not_finite
from pyneurons.engine.plan import (
    SLACK_BYTES,
    Plan,
    Sizes,
    make_plan,
    micro_batches,
)
from pyneurons.engine.record import Recorder, check, corpus_arrays
from pyneurons.engine.residual import (
    AlternatingResidual,
    FileResidual,
    MemoryResidual,
    Residual,
)
from pyneurons.engine.scratch import ScratchFile
from pyneurons.engine.weights import WeightStream
from pyneurons.errors import NonFiniteError, ResourceError
from pyneurons.model import opt
from pyneurons.observers import vocabulary
from pyneurons.observers.firing import ROWS_BYTES, FiringObserver
from pyneurons.observers.ngram import NgramObserver
from pyneurons.observers.position import PositionObserver
from pyneurons.observers.suppression import Baselines
from pyneurons.observers.unembedding import Unembedding
from pyneurons.observers.weights import bounds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pyneurons._progress import Progress
    from pyneurons.corpus import Corpus
    from pyneurons.model.source import WeightSource
    from pyneurons.observers.ngram import NgramCounts
    from pyneurons.run_writer import RunWriter


LARGE_LAYER_BYTES = 1 << 28
"""Of layers from this size on, freed memory is given back: what counting leaves grows with them, and
to touch the pages again is nothing beside their products."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked for, checked by the caller."""

    layers: tuple[int, ...]
    ngrams: tuple[int, ...]
    mode: str  # "float32", "bfloat16" or, on a device, "float16"
    backend: str | None
    float32_products: str  # "torch" | "split": see `pyneurons.backends.Backend`
    threads: int
    memory_bytes: int
    list_limit: int
    flip_sample: int
    keep_bits: bool
    projection: str
    residual: str | None = None  # None: as planned
    # Of a scan on a device:
    gpu_memory: int | None = None  # None: what is free
    fc1_route: str = "fused"  # or "torch"
    neuron_order: str = "auto"  # or "off"
    checkpoint_minutes: float = float("inf")


class Clock:
    """Seconds of work by stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - began
            with self._lock:
                self.seconds[stage] += elapsed


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run torch's operators on the calling thread.

    The engine runs micro-batches side by side on its own threads instead: torch splits ragged
    matrices by the number of its threads, and with that the order of sums (design 6).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Passed:
    """What a layer tells beside its bits."""

    bounds: dict[
        str, np.ndarray
    ]  # of z, by the weights alone; none where the layer is not observed
    z_max: np.ndarray
    sample_bits: np.ndarray | None  # of the sample in float32, uint32 [strips, rows, words]
    fc2: torch.Tensor | None = None  # its weight, where it is at hand
    order: np.ndarray | None = None  # of the neurons in the bits and z_max, where it is not theirs


def _by_layer(facts: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(facts.items(), key=lambda fact: int(fact[0])))


class Strips(Protocol):
    """Bits of one layer, strip by strip."""

    shape: StripShape

    def strip(self, strip: int) -> np.ndarray:
        """Return one strip, uint32 [N, strip_words]."""
        ...


class Engine:
    """One run over one corpus; `run` is called once."""

    def __init__(
        self,
        checkpoint: WeightSource,
        corpus: Corpus,
        settings: Settings,
        writer: RunWriter,
        progress: Progress,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.corpus = corpus
        self.settings = settings
        self.writer = writer
        self.progress = progress
        self.clock = Clock()
        self.mode = getattr(torch, settings.mode)
        self.split = settings.float32_products == "split"
        self.host_backend = settings.backend  # of what stays on the host on any device
        self.flips: dict[str, Any] = {}
        self.orders: dict[str, Any] = {}  # layers whose neurons were put in another order
        self.index_files = IndexFiles(writer.staging)

    def run(self) -> dict[str, Any]:
        """Scan every layer up to the last one asked for; return what the manifest records."""
        began = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(one_torch_thread())
            self._prepare()
            pool = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="pyneurons")
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            self.pool = pool
            stack.callback(self.index_files.close)
            depth = max(self.missing) + 1 if self.missing else 0
            stack.callback(self.checkpoints.close)
            first = self.checkpoints.first
            if depth:
                self._open(stack, depth)
            prepared = time.perf_counter()
            tokens, scale = self.corpus.tokens * (depth - first), 1 / max(1, depth - first)
            self.progress.begin("scan", tokens, unit="tokens", scale=scale)
            for layer in range(first, depth):
                self._layer(layer, depth)
                self._boundary(layer + 1, depth)
                if self.checkpoint.layer_bytes(layer) >= LARGE_LAYER_BYTES:
                    return_freed()
        self.checkpoints.drop()
        ended = time.perf_counter()
        return {
            "plan": self.plan.as_dict(),
            "flips": _by_layer(self.flips),
            "neuron_order": _by_layer(self.orders),
            "timing": {
                "prepare_s": prepared - began,
                "layers_s": ended - prepared,
                "wall_s": ended - began,
                "tokens_per_s": self._through(first, depth) / (ended - prepared),
                "first_layer": first,
                "layers_kept": len(self.settings.layers) - len(self.missing),
                "thread_s": dict(self.clock.seconds),
                "peak_resident_bytes": _env.peak_resident_bytes(),
            },
        }

    def _through(self, first: int, depth: int) -> float:
        """Return the tokens of a whole scan that the layers run here come to."""
        return self.corpus.tokens * (depth - first) / (max(self.settings.layers) + 1)

    # -- before the first layer ----------------------------------------------------------------

    def _prepare(self) -> None:
        settings, corpus = self.settings, self.corpus
        resident = _env.resident_bytes() or 0
        index_peak, place = self._index_memory(resident)
        self.progress.begin("n-gram index", len(settings.ngrams), unit="orders")
        self.ngrams: list[NgramObserver] = []
        with self.clock.time("n-gram index"):
            for n in settings.ngrams:
                index: ngram_index.KeptIndex = ngram_index.build(
                    corpus, n, backend=self.host_backend, threads=settings.threads
                )
                if place == "file":
                    index = self.index_files.keep(index)
                self.ngrams.append(
                    NgramObserver.build(
                        corpus,
                        index,
                        list_limit=settings.list_limit,
                    )
                )
                self.progress.advance(1)
        self.firing = FiringObserver.build(corpus)
        self.position = PositionObserver.build(corpus)
        sample = sample_of(corpus, settings.flip_sample) if settings.mode != "float32" else None
        self.sample = (
            FlipSample.build(sample, settings.ngrams, self.host_backend) if sample else None
        )
        self.batches = list(micro_batches(corpus.lengths.tolist()))
        self.embeddings = self.checkpoint.read_embeddings()
        self.unembedding = self._unembedding()
        baselines = Baselines.of(corpus, self.unembedding.ids)
        done = self.writer.committed
        self.missing = [layer for layer in settings.layers if layer not in done]
        self.flips |= {
            str(layer): facts["flips"] for layer, facts in done.items() if facts.get("flips")
        }
        self.orders |= {
            str(layer): facts["neuron_order"]
            for layer, facts in done.items()
            if facts.get("neuron_order")
        }
        self.checkpoints = Checkpoints(
            self.writer,
            corpus.tokens + (self.sample.corpus.tokens if self.sample else 0),
            self.config.hidden_size,
            settings.checkpoint_minutes,
            self.missing,
        )
        if said := self.checkpoints.short_of_room():
            self.progress.warn(said)
        self.recorder = Recorder(
            self.checkpoint, corpus, self.writer, settings.ngrams, self.unembedding, baselines
        )
        self.plan = self._plan(resident, index_peak, place)
        if self.plan.index == "file" and place is None:
            for i, observer in enumerate(self.ngrams):
                self.ngrams[i] = replace(observer, index=self.index_files.keep(observer.index))
        self.writer.write_corpus(corpus_arrays(corpus, [o.index for o in self.ngrams]))

    def _index_memory(self, resident: int) -> tuple[int, str | None]:
        """Return the predicted peak of building the indices, and where they have to be kept.

        None: where the plan says. In files, where together they are too much; refused, where the
        largest alone is.
        """
        tokens, vocab_size = self.corpus.tokens, self.corpus.vocab_size
        kept = together = alone = 0
        for n in self.settings.ngrams:
            index_kept, transient = ngram_index.index_bytes(tokens, n, vocab_size)
            together = max(together, kept + index_kept + transient)
            alone = max(alone, index_kept + transient)
            kept += index_kept
        free = self.settings.memory_bytes - resident - SLACK_BYTES
        if together <= free:
            return together, None
        if alone <= free:
            return alone, "file"
        given, process, building = (
            f"{size / 1e6:,.0f} MB"
            for size in (self.settings.memory_bytes, resident + SLACK_BYTES, alone)
        )
        message = (
            f"memory: {given} are given, but the process with its libraries takes {process} "
            f"and the largest n-gram index of {tokens:,} tokens {building} while it is built; "
            "raise memory=, or lower max_tokens= or ngrams="
        )
        raise ResourceError(message)

    def _unembedding(self) -> Unembedding:
        return Unembedding.of(self.embeddings, self.corpus.strings, self.settings.projection)

    def _plan(self, resident: int, index_peak: int, index: str | None) -> Plan:
        config, corpus, settings = self.config, self.corpus, self.settings
        rows, orders = corpus.tokens, self.firing.sample_order.nbytes + self.position.order.nbytes
        orders += sum(observer.first.nbytes for observer in self.ngrams)
        head = self.unembedding.rows
        embeddings = self.embeddings.nbytes
        embeddings += 0 if head is self.embeddings.head else head.nbytes
        counter = 4 * corpus.context * len(corpus.domains) * config.ffn_dim
        # Histogram and dense rows, and their cells above 0 in sorted int64 columns, with copies;
        # before them the rows of neurons that fire seldom.
        per_neuron = max([96 * (o.bins + o.n_large) for o in self.ngrams] + [ROWS_BYTES])
        sizes = Sizes(
            rows=rows,
            hidden=config.hidden_size,
            neurons=config.ffn_dim,
            threads=settings.threads,
            resident=resident,
            embeddings=embeddings,
            layer=max(self.checkpoint.layer_bytes(i) for i in range(config.num_hidden_layers)),
            updates=max(self.checkpoint.fc2_bytes(i) for i in range(config.num_hidden_layers)),
            layer_converted=self._converted_bytes(self.mode),
            workspace=opt.workspace_bytes(config, corpus.context, self.mode),
            sample_rows=self.sample.corpus.tokens if self.sample else 0,
            layer_float32=self._converted_bytes(torch.float32),
            index_peak=index_peak,
            index_kept=sum(o.index.nbytes for o in self.ngrams),
            index_largest=max((o.index.nbytes for o in self.ngrams), default=0),
            orders=orders,
            counters=counter,
            strip_counters=1024 * per_neuron,
            projection=vocabulary.projection_bytes(
                head.shape[0],
                head.shape[1],
                config.hidden_size,
                config.ffn_dim,
                settings.threads,
            ),
        )
        return make_plan(sizes, settings.memory_bytes, residual=settings.residual, index=index)

    def _converted_bytes(self, mode: torch.dtype) -> int:
        split = mode == torch.float32 and self.split
        return opt.converted_layer_bytes(
            self.config, mode, split=self.checkpoint.dtype if split else None
        )

    def _open(self, stack: ExitStack, depth: int) -> None:
        """Make what the layers pass through; ``stack`` closes it."""
        self.at_once = self.plan.ngrams_at_once
        self.residual, self.mask = self._stores(self.writer.staging)
        stack.callback(self.residual.close)
        stack.callback(self.mask.close)
        self.stream = stack.enter_context(WeightStream(self.checkpoint, depth))
        if self.checkpoints.first:
            self.residual.load(self.checkpoints)
            if self.sample is not None:
                values = self.sample_residual.read(0, self.sample.corpus.tokens)
                self.checkpoints.read(self.corpus.tokens, values.numpy())

    def _stores(self, directory: Path) -> tuple[Residual, Mask]:
        rows, hidden = self.corpus.tokens, self.config.hidden_size
        shape = StripShape.of(self.config.ffn_dim, self.plan.strip_words)
        failpoints.at("stores")
        residual: Residual
        if self.plan.residual == "memory":
            residual = MemoryResidual(rows, hidden)
        elif self.checkpoints.enabled:
            residual = AlternatingResidual(rows, hidden, self.checkpoints)
        else:
            file = ScratchFile(directory, 4 * rows * hidden, "residual stream")
            residual = FileResidual(rows, hidden, file)
        mask: Mask
        if self.plan.mask == "memory":
            mask = MemoryMask(rows, shape)
        else:
            mask = FileMask(rows, shape, directory)
        if self.sample is not None:
            self.sample_residual = MemoryResidual(self.sample.corpus.tokens, hidden)
        return residual, mask

    # -- one layer -----------------------------------------------------------------------------

    def _layer(self, layer: int, depth: int) -> None:
        failpoints.at("layer")
        wanted = layer in self.missing
        self.progress.say(f"layer {layer + 1} of {depth}")
        with self._passed(layer, wanted=wanted, last=layer + 1 == depth) as passed:
            if not wanted:
                return
            self.progress.say(f"layer {layer + 1} of {depth}: counting")
            counted, ngrams = self._observe()
            counted["z_max"] = passed.z_max
            if passed.order is not None:
                order = passed.order
                counted = counters_by_neuron(counted, order)
                ngrams = {n: ngrams_by_neuron(counts, order) for n, counts in ngrams.items()}
            arrays = passed.bounds | counted
            if passed.sample_bits is not None:
                self._compare(layer, passed.sample_bits, arrays, passed.order)
            check(layer, arrays, ngrams, self.corpus.tokens)
            with self.clock.time("vocabulary"):
                updates = self.recorder.updates(layer, ngrams, self.pool, passed.fc2)
        with self.clock.time("writing"):
            self.recorder.write(layer, arrays, ngrams, updates)
            if self.settings.keep_bits:
                self.writer.write_bits(layer, self.corpus.tokens, self._strips_on_host())
            self.writer.commit_layer(
                layer,
                flips=self.flips.get(str(layer)),
                neuron_order=self.orders.get(str(layer)),
            )

    def _boundary(self, layer: int, depth: int) -> None:
        """Pass from one layer to the next; keep the residual stream, if it is time."""
        if layer == depth:
            return
        self.residual.turn()
        if self.checkpoints.due():
            with self.clock.time("keeping the residual"):
                self.checkpoints.keep(layer, self._residual_parts())
                self.residual.kept()

    def _residual_parts(self) -> Iterator[tuple[int, np.ndarray]]:
        yield from self.residual.parts()
        if self.sample is not None:
            rows = self.sample.corpus.tokens
            yield self.corpus.tokens, self.sample_residual.read(0, rows).numpy()

    @contextmanager
    def _passed(self, layer: int, *, wanted: bool, last: bool) -> Iterator[Passed]:
        """Bring the residual stream through a layer; its weights stay at hand within the context."""
        raw = self.stream.take(layer)
        found: dict[str, np.ndarray] = {}
        if wanted:
            found = bounds(*opt.fc1_and_its_norm(raw, self.config), self.settings.mode)
        float32 = None
        if self.sample is not None:
            float32 = opt.convert_layer(dict(raw), self.config, torch.float32, split=self.split)
        weights = opt.convert_layer(raw, self.config, self.mode, split=self.split)
        del raw
        self.stream.prefetch(layer + 1)
        z_max = self._forward(
            layer, self.corpus, self.batches, weights, self.residual, self.mask, last
        )
        del weights
        sample_bits = None
        if float32 is not None and self.sample is not None:
            sample_bits = self._sample_forward(layer, float32, last)
        del float32
        yield Passed(found, z_max, sample_bits)

    def _strips_on_host(self) -> Strips:
        return self.mask

    def _forward(
        self,
        layer: int,
        corpus: Corpus,
        batches: list[tuple[int, int]],
        weights: opt.LayerWeights,
        residual: Residual,
        mask: Mask,
        last: bool,
    ) -> np.ndarray:
        """Run one layer over a corpus; return the largest z of every neuron."""
        lock = threading.Lock()
        z_max = torch.full((self.config.ffn_dim,), -torch.inf)

        def run(batch: tuple[int, int]) -> None:
            failpoints.at("batch")
            first, stop = batch
            begin, end = int(corpus.starts[first]), int(corpus.starts[stop])
            lengths = corpus.lengths[first:stop].tolist()
            if layer == 0:
                with self.clock.time("embedding"):
                    hidden = self._embed(corpus, first, stop)
            else:
                with self.clock.time("residual"):
                    hidden = residual.read(begin, end)
            bits = mask.buffer(begin, end)
            local = torch.full((self.config.ffn_dim,), -torch.inf)
            try:
                opt.decoder_layer(
                    hidden,
                    lengths,
                    weights,
                    bits,
                    local,
                    backend=self.settings.backend,
                    last=last,
                    clock=self.clock.time,
                )
            except NonFiniteError as error:
                if error.place is None:
                    raise
                row, neuron = error.place
                mode = str(weights.fc1_weight.dtype).removeprefix("torch.")
                raise not_finite(layer, corpus, begin + row, neuron, mode, hidden) from error
            mask.commit(begin, bits)
            if not last:
                with self.clock.time("residual"):
                    residual.write(begin, hidden)
            with lock:
                torch.maximum(z_max, local, out=z_max)
                if corpus is self.corpus:
                    self.progress.advance(end - begin)

        for _ in self.pool.map(run, batches):
            pass
        values: np.ndarray = z_max.numpy()
        return values

    def _embed(self, corpus: Corpus, first: int, stop: int) -> torch.Tensor:
        begin, end = int(corpus.starts[first]), int(corpus.starts[stop])
        ids = torch.from_numpy(np.asarray(corpus.ids[begin:end]).astype(np.int64))
        positions = torch.cat([torch.arange(n) for n in corpus.lengths[first:stop].tolist()])
        return opt.embed(ids, positions, self.embeddings, self.config)

    def _sample_forward(self, layer: int, weights: opt.LayerWeights, last: bool) -> np.ndarray:
        sample = self.sample.corpus if self.sample is not None else self.corpus
        bits = MemoryMask(sample.tokens, StripShape.of(self.config.ffn_dim, self.plan.strip_words))
        batches = list(micro_batches(sample.lengths.tolist()))
        with self.clock.time("float32 sample"):
            seconds = dict(self.clock.seconds)
            self._forward(layer, sample, batches, weights, self.sample_residual, bits, last)
            # The sample's operators are not part of the scan's own shares.
            self.clock.seconds.update(seconds)
        return bits.buffer(0, sample.tokens)

    # -- counting ------------------------------------------------------------------------------

    def _observe(self) -> tuple[dict[str, np.ndarray], dict[int, NgramCounts]]:
        backend, threads = self.settings.backend, self.settings.threads
        mask = self.mask
        shape = mask.shape
        parts: list[dict[str, np.ndarray]] = []
        ngrams: dict[int, list[tuple[int, NgramCounts]]] = {o.index.n: [] for o in self.ngrams}
        position_fires = self.position.counters(shape.neurons)
        # Of a mask in a file one strip is there at a time.
        together = shape.strips if mask.lasting else 1
        for first in range(0, shape.strips, together):
            strips = range(first, min(first + together, shape.strips))
            words = {strip: mask.strip(strip) for strip in strips}
            at_once = self.at_once if mask.lasting else 1
            # Two threads on one strip read half of each row apiece: 1.10 microseconds a token of
            # 12 layers; on two strips .83 (Sapphire Rapids class, 524,288 tokens).
            share = max(1, threads // at_once)
            firing, position = [], []
            for strip in strips:
                start, stop = shape.range(strip)
                given = (words[strip], stop - start)
                into = position_fires[:, start:stop]
                firing.append(partial(self.firing.observe, *given, backend=backend, threads=share))
                position.append(
                    partial(
                        self.position.observe, *given, backend=backend, threads=share, into=into
                    )
                )
            with self.clock.time("counting"):
                counted = answers_of(self.pool, firing + position, at_once=at_once)
                parts += counted[: len(strips)]
            with self.clock.time("n-grams"):
                for observers in self._counted_together():
                    with self._at_hand(observers):
                        tasks = [(strip, observer) for strip in strips for observer in observers]
                        work = [
                            partial(
                                observer.observe,
                                words[strip],
                                parts[strip]["fires"],
                                backend=backend,
                                threads=threads,
                            )
                            for strip, observer in tasks
                        ]
                        found = answers_of(self.pool, work, at_once=at_once)
                    for (strip, observer), counts in zip(tasks, found, strict=True):
                        ngrams[observer.index.n].append((shape.range(strip)[0], counts))
        joined = {
            name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]
        }
        joined["position_fires"] = position_fires.reshape(
            self.position.domains, self.position.context, shape.neurons
        )
        return joined, {n: join(found) for n, found in ngrams.items()}

    def _counted_together(self) -> list[list[NgramObserver]]:
        """Return the observers whose strips are counted side by side."""
        return [self.ngrams] if self.ngrams else []

    def _at_hand(self, observers: list[NgramObserver]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Keep what these observers read where the ops run."""
        return nullcontext()

    def _compare(
        self,
        layer: int,
        float32: np.ndarray,
        arrays: dict[str, np.ndarray],
        order: np.ndarray | None,
    ) -> None:
        rows, mask = float32.shape[1], self._strips_on_host()
        mode = np.stack([mask.strip(i)[:rows].copy() for i in range(mask.shape.strips)])
        if order is not None:
            mode = bits_by_neuron(mode, order, mask.shape)
        if self.sample is None:
            return
        compared, summary = self.sample.compare(
            mode,
            float32,
            mask.shape,
            backend=self.host_backend,
            threads=self.settings.threads,
        )
        arrays |= compared
        self.flips[str(layer)] = summary
