"""Whole forward passes of random models: the engine itself, on tokens of Zipf's frequencies.

On toy shapes the device is one of threads (`pyneurons.engine.device_threads`), the ops are C++.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from opt_shapes import corpus_of, zipf_rows
from pyneurons import _env, _scan, backends
from pyneurons._progress import Progress
from pyneurons.engine import device_plan, device_run
from pyneurons.engine.device_cuda import CudaStream
from pyneurons.engine.device_run import DeviceEngine
from pyneurons.engine.device_threads import ThreadDevice
from pyneurons.engine.run import Settings
from pyneurons.model.config import PUBLISHED
from pyneurons.run_writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    import numpy as np

    from device.random_checkpoint import RandomCheckpoint
    from pyneurons.corpus import Corpus
    from pyneurons.engine.device import Stream
    from pyneurons.model.config import OptConfig

MODE: Final = "float16"
"""As the published checkpoints are."""

TOY_MODE: Final = "float32"
TOY_BATCH: Final = 64
"""Rows of a micro-batch, so that toy shapes have several."""


@dataclass(frozen=True)
class Case:
    """One shape: how many of its layers run, and on how many tokens."""

    model: str
    layers: int
    tokens: int
    context: int = 2048

    def config(self, *, toy: bool) -> OptConfig:
        """Return the published configuration with fewer layers, or a toy."""
        config = replace(PUBLISHED[self.model], num_hidden_layers=self.layers)
        if not toy:
            return config
        return replace(
            config,
            hidden_size=64,
            word_embed_proj_dim=64,
            ffn_dim=96,
            num_attention_heads=2,
            num_hidden_layers=2,
            vocab_size=512,
            max_position_embeddings=32,
        )

    def rows(self, *, toy: bool) -> np.ndarray:
        """Return token ids [sequences, context]."""
        if toy:
            return zipf_rows(4, 32, 512)
        return zipf_rows(self.tokens // self.context, self.context)

    def layer_flops(self, config: OptConfig, context: int) -> float:
        """Return the operations of one layer on a token: products, causal attention, none skipped."""
        width, neurons = config.hidden_size, config.ffn_dim
        return 8 * width**2 + 4 * width * neurons + 2 * context * width

    def layers_run(self, config: OptConfig, context: int) -> float:
        """Return how many layers' operations a pass does: behind the last layer's bits there is no fc2."""
        left_out = 2 * config.hidden_size * config.ffn_dim / self.layer_flops(config, context)
        return config.num_hidden_layers - left_out


class Mark:
    """A point in the work of a stream, and when it was passed."""

    def __init__(self, stream: Stream[Any]) -> None:
        self._event: torch.cuda.Event | None = None
        self._passed = 0.0
        if isinstance(stream, CudaStream):
            self._event = torch.cuda.Event(enable_timing=True)
            stream.run(self._event.record)  # with this stream as torch's current one
        else:
            stream.run(self._note)

    def _note(self) -> None:
        self._passed = time.perf_counter()

    def until(self, later: Mark) -> float:
        """Return the seconds between two points, when the device is done with both."""
        if self._event is not None and later._event is not None:
            return self._event.elapsed_time(later._event) / 1e3
        return later._passed - self._passed


@dataclass(frozen=True)
class Wait:
    """The time around one `take`: the compute stream does nothing between the two points but wait."""

    before: Mark
    after: Mark
    host_s: float  # how long the call took

    @property
    def seconds(self) -> float:
        """How long the stream stood still."""
        return self.before.until(self.after)


class TimedEngine(DeviceEngine):
    """Tells for how long the compute stream stood still because something had to be brought."""

    def _open(self, stack: ExitStack, depth: int) -> None:
        super()._open(stack, depth)
        self.weights: list[Wait] = []
        self.rows_of_residual: list[Wait] = []
        self.ring.take = self._timed(self.ring.take, self.weights)  # type: ignore[method-assign]
        self.residual.take = self._timed(  # type: ignore[method-assign]
            self.residual.take, self.rows_of_residual
        )

    def _timed(
        self, take: Callable[[int], torch.Tensor], waits: list[Wait]
    ) -> Callable[[int], torch.Tensor]:
        def timed(which: int) -> torch.Tensor:
            before, began = Mark(self.compute), time.perf_counter()
            taken = take(which)
            waits.append(Wait(before, Mark(self.compute), time.perf_counter() - began))
            return taken

        return timed

    def waits(self) -> dict[str, float]:
        """Return seconds: for the first layer's weights, for all others, for the residual stream.

        Of those for weights also what passed before the host went on to give work to the device.
        """
        first, *others = self.weights
        return {
            "first_weights_s": first.seconds,
            "first_host_s": first.host_s,
            "weights_s": sum(wait.seconds for wait in others),
            "weights_host_s": sum(wait.host_s for wait in others),
            "residual_s": sum(wait.seconds for wait in self.rows_of_residual),
        }


@contextmanager
def hardware(*, toy: bool) -> Iterator[None]:
    """Let ``device="cuda"`` mean threads and small micro-batches on toy shapes."""
    if not toy:
        torch.cuda.empty_cache()  # what torch holds back would not count as free
        yield
        return
    before = _scan.open_device, device_plan.BATCH, device_plan.WIDE_BATCH
    _scan.open_device = lambda: ThreadDevice(0, 0.0)
    device_plan.BATCH = device_plan.WIDE_BATCH = TOY_BATCH  # type: ignore[misc]
    try:
        yield
    finally:
        _scan.open_device, device_plan.BATCH, device_plan.WIDE_BATCH = before  # type: ignore[misc]


def backend(*, toy: bool) -> str:
    """Return whose ops a scan on a GPU takes; C++ for toy shapes."""
    return "cpp" if toy else str(_scan._backend("auto", "cuda"))


def run_engine(
    checkpoint: RandomCheckpoint, corpus: Corpus, *, statistics: bool, toy: bool
) -> dict[str, Any]:
    """Run the engine over a corpus on the device; return what it says of its time.

    Without statistics the bits are made all the same, and only those of the last layer counted.
    """
    depth = checkpoint.config.num_hidden_layers
    chosen = backends.resolve(backend(toy=toy))
    mode = TOY_MODE if toy else MODE
    with hardware(toy=toy):
        route = device_run.fc1_route(
            "auto", checkpoint.config, corpus.context, mode, _scan.open_device()
        )
    settings = Settings(
        layers=tuple(range(depth)) if statistics else (depth - 1,),
        ngrams=(1, 2, 3) if statistics else (),
        mode=mode,
        fc1_route=route["route"],
        backend=chosen.name,
        float32_products=chosen.float32_products,
        threads=_env.cpu_count(),
        memory_bytes=int(0.8 * (_env.available_bytes() or 8 << 30)),
        list_limit=200,
        flip_sample=0,
        keep_bits=False,
        projection="dot",
    )
    with (
        hardware(toy=toy),
        tempfile.TemporaryDirectory() as folder,
        Progress(enabled=False) as shown,
        RunWriter(Path(folder) / "run", overwrite=False) as writer,
    ):
        engine = TimedEngine(_scan.open_device(), checkpoint, corpus, settings, writer, shown)
        outcome = engine.run()
        numeric = {"fc1_route": route, "neuron_order": outcome["neuron_order"]}
        return outcome | {"waits": engine.waits(), "numeric": numeric}


def corpus(rows: np.ndarray, vocab_size: int) -> Corpus:
    """Return rows of ids as the engine sees a corpus."""
    return replace(corpus_of(rows), vocab_size=vocab_size)
