"""Layer weights in the checkpoint's dtype, the next layer read by a thread while one computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    import torch

    from pyneurons.model.source import WeightSource


class WeightStream:
    """Hands out the layers 0, 1, 2, ... of a checkpoint, each read once.

    At most one layer is read ahead. The reader starts when `prefetch` is called, which the engine
    does after it has converted the layer at hand: so no more than two layers are in memory.
    """

    def __init__(self, checkpoint: WeightSource, layers: int) -> None:
        self._checkpoint = checkpoint
        self._layers = layers
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="pyneurons-weights")
        self._ahead: tuple[int, Future[dict[str, torch.Tensor]]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ahead = None
        self._reader.shutdown(wait=True, cancel_futures=True)

    def prefetch(self, layer: int) -> None:
        """Begin to read a layer, unless it is past the last one."""
        if layer < self._layers and (self._ahead is None or self._ahead[0] != layer):
            self._ahead = (layer, self._reader.submit(self._checkpoint.read_layer, layer))

    def take(self, layer: int) -> dict[str, torch.Tensor]:
        """Return the tensors of a layer, waiting for the reader when it is not done."""
        self.prefetch(layer)
        ahead = self._ahead
        if ahead is None:
            message = f"layer {layer} is past the last of {self._layers} layers"
            raise IndexError(message)
        self._ahead = None
        return ahead[1].result()
