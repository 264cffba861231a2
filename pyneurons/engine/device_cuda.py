"""A GPU as `pyneurons.engine.device` has it: torch's CUDA streams and events, pinned host memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pyneurons.errors import BackendUnavailable, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class CudaEvent:
    """A point of a CUDA stream."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        # Without timing; blocking: the host sleeps until the point is passed, instead of asking.
        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    def wait_on_host(self) -> None:
        """Return when the stream has passed this point."""
        self.event.synchronize()


class CudaStream:
    """A CUDA stream beside the default one."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, source: Tensor, into: Tensor) -> None:
        """Copy; asynchronous where the host's side is pinned."""
        with torch.cuda.stream(self._stream):
            into.copy_(source, non_blocking=True)

    def run(self, work: Callable[[], None]) -> None:
        """Call ``work`` with this stream as torch's current one: kernels are queued on it."""
        with torch.cuda.stream(self._stream):
            work()

    def record(self) -> CudaEvent:
        """Mark the point after all that was given so far."""
        return CudaEvent(self._stream)

    def wait(self, event: CudaEvent) -> None:
        """Let the GPU, not the host, wait for a point of another stream."""
        self._stream.wait_event(event.event)

    def finish(self) -> None:
        """Return when this stream has done what it was given."""
        self._stream.synchronize()


class CudaDevice:
    """One GPU.

    Raises
    ------
    BackendUnavailable
        If torch sees none.

    Notes
    -----
    Memory from `allocate` must outlive the streams that use it: torch's allocator hands freed memory
    on in the order of the stream that it was allocated on, which is none of ours.
    """

    reserve = (
        1 << 29
    )  # cuBLAS workspaces, and what torch's allocator leaves between buffers; a guess

    def __init__(self, index: int = 0) -> None:
        if not torch.cuda.is_available():
            message = "cuda: torch sees no GPU"
            raise BackendUnavailable(message)
        self._device = torch.device("cuda", index)
        self._streams: list[CudaStream] = []
        self._registered: list[Tensor] = []
        self.give_back()

    def free_bytes(self) -> int:
        """Return what the driver calls free; this process has its context by then."""
        free: int = torch.cuda.mem_get_info(self._device)[0]
        return free

    def allocate(self, size: int) -> Tensor:
        """Return device memory, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def give_back(self) -> None:
        """Give what torch's allocator keeps of freed memory back to the driver."""
        torch.cuda.empty_cache()

    def allocate_host(self, size: int) -> Tensor:
        """Return pinned host memory, uint8 [size]; it stays until the device is closed.

        Registered, not from torch's allocator of pinned memory: that rounds sizes up to a power of
        two, so that 40 GB take 64 GiB.
        """
        memory = torch.empty(size, dtype=torch.uint8)
        if size:
            code = int(_runtime().cudaHostRegister(memory.data_ptr(), size, 0))
            if code:
                message = (
                    f"{size / 1e9:,.1f} GB of host memory cannot be pinned (CUDA error {code}); "
                )
                message += "pass less memory=, or raise the limit of locked memory (ulimit -l)"
                raise ResourceError(message)
            self._registered.append(memory)
        return memory

    def stream(self, name: str) -> CudaStream:  # noqa: ARG002  (CUDA streams bear no names)
        """Return a new stream."""
        self._streams.append(CudaStream(self._device))
        return self._streams[-1]

    def close(self) -> None:
        """Wait for each stream."""
        for stream in self._streams:
            stream.finish()
        self._streams.clear()
        for memory in self._registered:
            _runtime().cudaHostUnregister(memory.data_ptr())
        self._registered.clear()


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
