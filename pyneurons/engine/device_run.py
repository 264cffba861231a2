"""The loop on a device: weights, residual stream and bits are streamed as the device's plan says.

What differs from the CPU (`pyneurons.engine.run`): a layer's weights come through a ring, two layers
ahead; micro-batches follow each other in one stream and are large enough to hide what moves behind
them; observers are given strips of bits that lie on the device. The rest is the same code.
"""

from __future__ import annotations

import shutil
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from pyneurons import _env, ops
from pyneurons.backends import DEFAULT, triton_measure
from pyneurons.backends.float32_sums import float32_sums
from pyneurons.engine.device_mask import DeviceMask, HostStrips
from pyneurons.engine.device_plan import (
    Budgets,
    DevicePlan,
    Numbers,
    Reserves,
    make_device_plan,
    micro_batch,
    sample_batch,
)
from pyneurons.engine.device_residual import DeviceResidual, RowPlaces
from pyneurons.engine.mask import StripShape
from pyneurons.engine.neuron_order import neuron_order, ordered_weights
from pyneurons.engine.not_finite import not_finite
from pyneurons.engine.plan import SLACK_BYTES, micro_batches
from pyneurons.engine.run import Engine, Passed
from pyneurons.engine.weight_ring import checkpoint_ring
from pyneurons.model import device_layer, opt
from pyneurons.observers.weights import bounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pyneurons.corpus import Corpus
    from pyneurons.engine.device import Device, Event
    from pyneurons.engine.run import Strips
    from pyneurons.model.checkpoint import Embeddings
    from pyneurons.model.config import OptConfig
    from pyneurons.observers.ngram import NgramObserver

FINITE: Final = 2**63 - 1
"""What `ops.ffn` leaves in ``wrong`` where every pre-activation is finite."""

SILENT_SHARE: Final = 1 / 16
"""Share of neurons silent in the first micro-batch from which on all are put in an order."""

AHEAD: Final = 4
"""Micro-batches that are queued on the device before the host waits for the first of them."""


def fc1_route(
    asked: str, config: OptConfig, context: int, mode: str, device: Device[Any]
) -> dict[str, Any]:
    """Return how fc1 is multiplied, and why; where nothing is asked for, the faster way for this shape.

    A run that goes on must find what it began with: it is part of what the run is of.
    """
    where = device.allocate(0).device
    if asked != "auto" or where.type == "cpu":
        why = "asked for" if asked != "auto" else "not timed: the device is the CPU"
        return {"route": "fused" if asked == "auto" else asked, "why": why}
    shape = (micro_batch(config, context), config.hidden_size, config.ffn_dim)
    chosen = triton_measure.measured_route(*shape, getattr(torch, mode), where)
    device.give_back()
    return chosen.as_dict()


class DeviceEngine(Engine):
    """One run over one corpus on one device, which it closes; `run` is called once."""

    plan: DevicePlan  # type: ignore[assignment]
    residual: DeviceResidual[Any]  # type: ignore[assignment]
    mask: DeviceMask[Any]  # type: ignore[assignment]

    def __init__(self, device: Device[Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.device = device
        self.host_backend = DEFAULT
        # Bits that are kept are those of the neurons in their own order.
        self.orders_neurons = self.settings.neuron_order == "auto" and not self.settings.keep_bits

    # -- before the first layer ----------------------------------------------------------------

    def _index_memory(self, resident: int) -> tuple[int, str | None]:  # noqa: ARG002
        """Leave indices in memory: the device's plan counts them."""
        return 0, None

    def _plan(self, resident: int, index_peak: int, index: str | None) -> DevicePlan:  # type: ignore[override]  # noqa: ARG002
        config, corpus, settings = self.config, self.corpus, self.settings
        budget = settings.gpu_memory
        stored = self.checkpoint.dtype
        return make_device_plan(
            config,
            corpus.tokens,
            context=corpus.context,
            ngrams=settings.ngrams,
            budgets=Budgets(
                gpu_memory=self.device.free_bytes() if budget is None else budget,
                host_memory=settings.memory_bytes,
                disk_space=shutil.disk_usage(self.writer.staging).free,
            ),
            numbers=Numbers(
                weight_item=stored.itemsize,
                item=self.mode.itemsize,
                converted=stored != self.mode,
                sample=settings.flip_sample if self.sample is not None else 0,
                ordered=self.orders_neurons,
            ),
            reserves=Reserves(device=self.device.reserve, host=resident + SLACK_BYTES),
        )

    def _open(self, stack: ExitStack, depth: int) -> None:
        plan, corpus, config = self.plan, self.corpus, self.config
        device, directory = self.device, self.writer.staging
        stack.callback(device.close)
        stack.enter_context(float32_sums())
        self.at_once = 1
        self.rows = micro_batch(config, corpus.context)
        self.batches = list(micro_batches(corpus.lengths.tolist(), self.rows))
        self.groups: dict[int, device_layer.Groups] = {}
        places = [
            (int(corpus.starts[first]), int(corpus.starts[stop])) for first, stop in self.batches
        ]
        self.compute = device.stream("compute")
        self.embeddings = self._embeddings_on_device()
        room = device.allocate(device_layer.room_bytes(self.rows, config.hidden_size, self.mode))

        def clear() -> None:
            room.zero_()

        self.compute.run(clear)
        self.room = device_layer.Room.of(room, self.rows, config.hidden_size, self.mode)
        self.residual = DeviceResidual(
            device,
            self.compute,
            places,
            self.rows,
            config.hidden_size,
            RowPlaces.of(places, plan.residual),
            directory,
        )
        stack.callback(self.residual.close)
        shape = StripShape.of(config.ffn_dim)
        self.mask = DeviceMask(
            device, self.compute, corpus.tokens, shape, plan.mask, self.rows, directory
        )
        stack.callback(self.mask.close)
        if self.sample is not None:
            memory = device.allocate(4 * self.sample.corpus.tokens * config.hidden_size)
            self.sample_hidden = memory.view(torch.float32).view(-1, config.hidden_size)
        orders = [self.firing.special_order, self.firing.partial_order, self.firing.sample_order]
        stack.enter_context(self._held([*orders, self.position.order]))
        if plan.index == "device":
            stack.enter_context(self._held(_arrays_of(self.ngrams)))
        ring, self.layouts = checkpoint_ring(
            self.checkpoint,
            device,
            self.compute,
            first=self.checkpoints.first,
            layers=depth,
            slots=plan.ring_slots,
            poison=_env.poison(),
        )
        # Entered last, so left first: nothing is given to streams any more when stores go.
        self.ring = stack.enter_context(ring)
        if self.checkpoints.first:
            self._load_residual()

    def _load_residual(self) -> None:
        """Bring the boundary that the run starts with to where the residual stream is kept."""
        self.residual.begin(reading=False)
        for i, (first, stop) in enumerate(self.batches):
            begin, end = int(self.corpus.starts[first]), int(self.corpus.starts[stop])
            self._load_rows(begin, self.residual.take(i)[: end - begin])
            self.residual.give_back(i, keep=True)
        self.residual.finish()
        if self.sample is not None:
            self._load_rows(self.corpus.tokens, self.sample_hidden)

    def _load_rows(self, row: int, into: Tensor) -> None:
        values = torch.empty(into.shape)
        self.checkpoints.read(row, values.numpy())

        def copy() -> None:
            into.copy_(values)

        self.compute.run(copy)
        self.compute.record().wait_on_host()

    def _embeddings_on_device(self) -> Embeddings:
        """Move the embeddings, and with them the map to the vocabulary's scores."""

        def there(values: Tensor) -> Tensor:
            size = values.numel() * values.element_size()
            memory = self.device.allocate(size).view(values.dtype).view(values.shape)
            memory.copy_(values)
            return memory

        host = self.embeddings
        tied = host.head is host.tokens
        moved: dict[str, Any] = {
            name: there(values)
            for name, values in vars(host).items()
            if values is not None and not (tied and name == "head")
        }
        if tied:
            moved["head"] = moved["tokens"]
        found = replace(host, **moved)
        whole = self.unembedding.rows is host.head
        self.unembedding = replace(
            self.unembedding,
            rows=found.head if whole else there(self.unembedding.rows),
            project_out=found.project_out,
            final_norm_gain=found.final_norm_weight,
        )
        self.recorder = replace(self.recorder, unembedding=self.unembedding)
        return found

    def _held(self, arrays: list[np.ndarray]) -> Any:
        return ops.hold(*arrays, backend=self.settings.backend)

    # -- one layer -----------------------------------------------------------------------------

    def _boundary(self, layer: int, depth: int) -> None:
        if layer < depth and self.checkpoints.due():
            with self.clock.time("keeping the residual"):
                self.checkpoints.keep(layer, self._residual_parts())

    def _residual_parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows, copied through the host: on the device they lie in three places."""
        self.residual.begin(reading=True)
        for i, (first, stop) in enumerate(self.batches):
            begin, end = int(self.corpus.starts[first]), int(self.corpus.starts[stop])
            yield begin, self._rows_on_host(self.residual.take(i)[: end - begin])
            self.residual.give_back(i, keep=False)
        if self.sample is not None:
            yield self.corpus.tokens, self._rows_on_host(self.sample_hidden)

    def _rows_on_host(self, rows: Tensor) -> np.ndarray:
        values = torch.empty(rows.shape)

        def copy() -> None:
            values.copy_(rows)

        self.compute.run(copy)
        self.compute.record().wait_on_host()
        found: np.ndarray = values.numpy()
        return found

    @contextmanager
    def _passed(self, layer: int, *, wanted: bool, last: bool) -> Iterator[Passed]:
        place = layer - self.checkpoints.first
        slot = self.ring.take(place)
        raw = self.layouts[place].views(slot)
        with self.clock.time("forward"):
            z_max, order = self._pass(layer, raw, last)
            sample_bits = self._pass_sample(layer, raw, last) if self.sample is not None else None
        found: dict[str, np.ndarray] = {}
        if wanted:
            found = bounds(*opt.fc1_and_its_norm(raw, self.config), self.settings.mode)
        try:
            yield Passed(found, z_max, sample_bits, raw["fc2.weight"], order)
        finally:
            self.ring.give_back(place)

    def _pass(
        self, layer: int, raw: Mapping[str, Tensor], last: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Run one layer over the corpus; return the largest z of each neuron, and their order."""
        corpus, residual, mask = self.corpus, self.residual, self.mask
        tensors = device_layer.LayerTensors(raw, self.mode)
        z_max, wrong = self._answers(len(self.batches))
        residual.begin(reading=layer > 0)
        queued: deque[tuple[Event, int]] = deque()
        order: Tensor | None = None
        for i, (first, stop) in enumerate(self.batches):
            begin, end = int(corpus.starts[first]), int(corpus.starts[stop])
            hidden = residual.take(i)
            bits = mask.rows(begin, end)
            if layer == 0:
                self.compute.run(partial(self._embed_rows, corpus, first, stop, hidden))
            groups = self._groups(first, stop)
            if i == 0 and self.orders_neurons and not last:
                order = self._pilot(layer, hidden, groups, tensors, bits)
                if order is not None:
                    tensors = self._in_order(tensors, order)
            self.compute.run(
                partial(
                    device_layer.decoder_layer,
                    hidden,
                    groups,
                    tensors,
                    self.config,
                    self.room,
                    bits,
                    z_max,
                    wrong[i : i + 1],
                    backend=self.settings.backend,
                    fc1_route=self.settings.fc1_route,
                    last=last,
                )
            )
            mask.commit(begin, end)
            residual.give_back(i, keep=not last)
            queued.append((self.compute.record(), end - begin))
            if len(queued) > AHEAD:
                self._advance(*queued.popleft())
        for event, tokens in queued:
            self._advance(event, tokens)
        residual.finish()
        mask.finish()
        self._check(layer, wrong, corpus, self.batches, self.settings.mode, order)
        return z_max.cpu().numpy(), None if order is None else order.cpu().numpy()

    def _pilot(
        self,
        layer: int,
        hidden: Tensor,
        groups: device_layer.Groups,
        tensors: device_layer.LayerTensors,
        bits: Tensor,
    ) -> Tensor | None:
        """Count the fires of the first micro-batch; return the order in which fc2 skips most of it.

        None where few neurons were silent. Costs fc1 and attention of that micro-batch.
        """
        config, shape = self.config, self.mask.shape
        fires = self.device.allocate(8 * config.ffn_dim).view(torch.int64).view(1, -1)

        def work() -> None:
            rows, where = len(hidden), hidden.device
            device_layer.decoder_layer(
                hidden.clone(),
                groups,
                tensors,
                config,
                self.room,
                bits,
                torch.full((config.ffn_dim,), -torch.inf, device=where),
                torch.full((1,), FINITE, device=where),
                backend=self.settings.backend,
                fc1_route=self.settings.fc1_route,
                last=True,
            )
            fires.zero_()
            for strip in range(shape.strips):
                ops.segment_counts(
                    bits[strip],
                    None,
                    np.array([0, rows]),
                    fires[:, slice(*shape.range(strip))],
                    backend=self.settings.backend,
                )

        self.compute.run(work)
        self.compute.record().wait_on_host()
        silent = int((fires == 0).sum())
        if silent < SILENT_SHARE * config.ffn_dim:
            return None
        self.orders[str(layer)] = {"silent_in_pilot": silent}
        return neuron_order(fires[0])

    def _in_order(
        self, tensors: device_layer.LayerTensors, order: Tensor
    ) -> device_layer.LayerTensors:
        """Return the layer with its neurons in an order; in copies, for the slot is read again."""
        names = ("fc1.weight", "fc1.bias", "fc2.weight")
        found: list[device_layer.LayerTensors] = []

        def work() -> None:
            ordered = ordered_weights(
                order, tensors.matrix(names[0]), tensors(names[1]), tensors.matrix(names[2])
            )
            found.append(tensors.replaced(dict(zip(names, ordered, strict=True))))

        self.compute.run(work)
        self.compute.record().wait_on_host()
        return found[0]

    def _answers(self, batches: int) -> tuple[Tensor, Tensor]:
        """Return where a pass leaves the largest z, and what is not finite in each micro-batch."""
        z_max = self.device.allocate(4 * self.config.ffn_dim).view(torch.float32)
        wrong = self.device.allocate(8 * batches).view(torch.int64)

        def begin() -> None:
            z_max.fill_(-torch.inf)
            wrong.fill_(FINITE)

        self.compute.run(begin)
        return z_max, wrong

    def _advance(self, event: Event, tokens: int) -> None:
        event.wait_on_host()
        self.progress.advance(tokens)

    def _check(
        self,
        layer: int,
        wrong: Tensor,
        corpus: Corpus,
        batches: list[tuple[int, int]],
        mode: str,
        order: Tensor | None = None,
    ) -> None:
        for (first, _), place in zip(batches, wrong.cpu().tolist(), strict=True):
            if place != FINITE:
                row, neuron = divmod(place, self.config.ffn_dim)
                neuron = neuron if order is None else int(order[neuron])
                raise not_finite(layer, corpus, int(corpus.starts[first]) + row, neuron, mode)

    def _groups(self, first: int, stop: int) -> device_layer.Groups:
        found = self.groups.get(first)
        if found is None:
            lengths = self.corpus.lengths[first:stop].tolist()
            found = self.groups[first] = device_layer.Groups.of(lengths, self.rows)
        return found

    def _embed_rows(self, corpus: Any, first: int, stop: int, hidden: Tensor) -> None:
        begin, end = int(corpus.starts[first]), int(corpus.starts[stop])
        ids = torch.from_numpy(np.asarray(corpus.ids[begin:end]).astype(np.int64))
        positions = torch.cat([torch.arange(n) for n in corpus.lengths[first:stop].tolist()])
        where = hidden.device
        device_layer.embed(ids.to(where), positions.to(where), self.embeddings, self.config, hidden)

    def _pass_sample(self, layer: int, raw: Mapping[str, Tensor], last: bool) -> np.ndarray:
        """Run one layer over the sample in float32; return its bits, uint32 [strips, rows, words]."""
        corpus = self.corpus if self.sample is None else self.sample.corpus
        config, rows = self.config, sample_batch(self.corpus.context)
        shape = StripShape.of(config.ffn_dim)
        tensors = device_layer.LayerTensors(raw, torch.float32, keep=False)
        batches = list(micro_batches(corpus.lengths.tolist(), rows))
        z_max, wrong = self._answers(len(batches))
        memory = self.device.allocate(shape.bytes(corpus.tokens)).view(torch.int32)
        bits = memory.view(shape.strips, corpus.tokens, shape.strip_words)

        def work() -> None:
            size = device_layer.room_bytes(rows, config.hidden_size, torch.float32)
            memory = torch.zeros(size, dtype=torch.uint8, device=bits.device)
            room = device_layer.Room.of(memory, rows, config.hidden_size, torch.float32)
            for i, (first, stop) in enumerate(batches):
                begin, end = int(corpus.starts[first]), int(corpus.starts[stop])
                hidden = self.sample_hidden[begin:end]
                if layer == 0:
                    self._embed_rows(corpus, first, stop, hidden)
                lengths = corpus.lengths[first:stop].tolist()
                device_layer.decoder_layer(
                    hidden,
                    device_layer.Groups.of(lengths, rows),
                    tensors,
                    config,
                    room,
                    bits[:, begin:end],
                    z_max,
                    wrong[i : i + 1],
                    backend=self.settings.backend,
                    last=last,
                )

        self.compute.run(work)
        self.compute.record().wait_on_host()
        self._check(layer, wrong, corpus, batches, "float32")
        words: np.ndarray = bits.cpu().numpy().view(np.uint32)
        return words

    # -- counting ------------------------------------------------------------------------------

    def _strips_on_host(self) -> Strips:
        return HostStrips(self.mask)

    def _counted_together(self) -> list[list[NgramObserver]]:
        if self.plan.index == "device":
            return super()._counted_together()
        return [[observer] for observer in self.ngrams]

    def _at_hand(self, observers: list[NgramObserver]) -> Any:
        if self.plan.index == "device":
            return super()._at_hand(observers)
        return self._held(_arrays_of(observers))


def _arrays_of(observers: list[NgramObserver]) -> list[np.ndarray]:
    """Return what the ops read of n-gram indices, strip by strip."""
    found: list[np.ndarray] = []
    for observer in observers:
        index = observer.index.load()
        # The second time as `ngram_triggers` is given them: without the most frequent ones.
        few = len(index.segments) - observer.n_large
        found += [index.order, index.segments, index.segments[:few], index.uncountable]
        found += [observer.first.order, observer.first.bounds]
    return found
