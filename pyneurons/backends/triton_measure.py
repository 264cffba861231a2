"""Which route of `ffn` and which tiles are fastest on a device: measured on random data of a shape."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, get_args

from pyneurons.backends import triton_ffn
from pyneurons.backends.triton_ffn import FINITE, Route
from pyneurons.backends.triton_tiles import Tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

REPETITIONS: Final = 5

CANDIDATES: Final = (
    Tiles(128, 128, 64, warps=8, stages=3),
    Tiles(128, 128, 64, warps=8, stages=4),
    Tiles(128, 128, 64, warps=8, stages=4, band=16),
    Tiles(128, 64, 64, warps=4, stages=4),
    Tiles(128, 128, 64, warps=8, stages=3, variant="tma"),
    Tiles(128, 128, 64, warps=8, stages=4, variant="tma"),
    Tiles(128, 128, 64, warps=8, stages=4, band=16, variant="tma"),
)
"""16-bit tiles that are worth a measurement; compiled for sm_80 and sm_90 none of them spills."""


@dataclass(frozen=True)
class FasterRoute:
    """A route of fc1, the median seconds of each that was timed, and why this one."""

    route: Route
    seconds: dict[str, float]
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as what a manifest holds."""
        return asdict(self)


def measured_route(
    rows: int, inner: int, neurons: int, dtype: torch.dtype, device: torch.device | str
) -> FasterRoute:
    """Return the faster route of fc1 for a shape on a device; measured once in a process.

    Parameters
    ----------
    rows, inner, neurons : int
        M of a micro-batch, D and F.
    dtype : torch.dtype
        The compute dtype.
    device : torch.device or str
        On the CPU nothing is timed, for that is the interpreter: the answer is "fused" and says so.

    Returns
    -------
    FasterRoute
        With the seconds of fc1 with all that is kept of it, by route.

    Notes
    -----
    Cost: 16 calls of each route, one of them to compile; memory for a whole block of that shape.
    """
    import torch

    return _measured_route(rows, inner, neurons, dtype, str(torch.device(device)))


@lru_cache(maxsize=256)
def _measured_route(
    rows: int, inner: int, neurons: int, dtype: torch.dtype, device: str
) -> FasterRoute:
    if device == "cpu":
        return FasterRoute("fused", {}, "not timed: the CPU runs Triton's interpreter")
    import torch
    import triton

    capability = triton_ffn.capability(torch.device(device))
    if not fused_compiles(capability, triton.__version__):
        why = f"not timed: Triton {triton.__version__} does not compile the fused kernel for "
        return FasterRoute("torch", {}, f"{why}sm_{capability}; 3.8 does")
    return faster(route_seconds(rows, inner, neurons, dtype, device))


def fused_compiles(capability: int, version: str) -> bool:
    """Return whether a version of Triton compiles fc1's fused kernel for a compute capability.

    3.6 and 3.7 fail in a pass over the tensor memory of sm_100 (tried with 3.6.0, 3.7.1, 3.8.0, 3.9.0).
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    return not (100 <= capability < 120 and (major, minor) < (3, 8))


def faster(seconds: dict[str, float]) -> FasterRoute:
    """Return the route with the fewest seconds."""
    routes: tuple[Route, ...] = get_args(Route)
    best = min(routes, key=lambda route: seconds[route])
    return FasterRoute(best, seconds, f"the faster of {REPETITIONS} repetitions in turns, median")


def route_seconds(
    rows: int, inner: int, neurons: int, dtype: torch.dtype, device: str
) -> dict[str, float]:
    """Time fc1 by each route on random data; return median seconds by route."""
    import torch

    block = _Block(rows, inner, neurons, dtype, torch.device(device))
    cut = triton_ffn.stored_tiles(block.x, neurons)
    return medians(
        {route: partial(block.up, route, cut) for route in get_args(Route)}, block.device
    )


def measure_tiles(
    rows: int,
    inner: int,
    neurons: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    source: str,
    candidates: Sequence[Tiles] = CANDIDATES,
) -> dict[str, Any]:
    """Time fc1 and fc2 with each of some tiles; return the fastest as an entry to be stored.

    Parameters
    ----------
    rows, inner, neurons, dtype, device
        As of `measured_route`; D_out is D. On the CPU the interpreter is timed.
    source : str
        Where the entry comes from: "measured on CARD, DATE, COMMIT".
    candidates : sequence of Tiles
        Those that the shape does not allow are left out.

    Returns
    -------
    dict
        ``entry``, as `pyneurons.backends.triton_tiles` stores it, for this shape alone, and
        ``seconds``, a list of pairs of candidates and their median seconds, None where the device
        has too little shared memory or too few registers for one.

    Raises
    ------
    ValueError
        If no candidate runs.

    Notes
    -----
    Half of the cells fire, in no pattern: no tile is silent, so that fc2 leaves nothing out.
    """
    import torch
    from triton.runtime.errors import OutOfResources

    block = _Block(rows, inner, neurons, dtype, torch.device(device))
    size = block.x.element_size()
    runs: dict[Tiles, Callable[[], None]] = {}
    seconds: dict[Tiles, float | None] = {}
    for cut in candidates:
        if not cut.fits(size, inner, neurons):
            continue
        run = partial(block.both, cut)
        try:
            run()
        except OutOfResources:
            seconds[cut] = None
            continue
        runs[cut] = run
    if not runs:
        message = f"no candidate runs {neurons} x {inner} in {dtype} on {device}"
        raise ValueError(message)
    timed = medians(runs, block.device)
    best = min(timed, key=lambda cut: timed[cut])
    return {
        "entry": {
            "architecture": triton_ffn.capability(block.device),
            "itemsize": size,
            "inner": [inner, inner],
            "neurons": [neurons, neurons],
            "tiles": asdict(best),
            "source": source,
        },
        "seconds": [[asdict(cut), value] for cut, value in (seconds | timed).items()],
    }


def medians(runs: dict[Any, Callable[[], None]], device: torch.device) -> dict[Any, float]:
    """Time calls in turns, after one of each that is not timed; return median seconds."""
    for run in runs.values():
        run()
    taken: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(REPETITIONS):
        for name, run in runs.items():
            taken[name].append(_seconds(run, device))
    return {name: statistics.median(values) for name, values in taken.items()}


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """Time one call: by events of a CUDA device, by the clock on the CPU."""
    import torch

    if device.type == "cpu":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    with torch.cuda.device(device):
        start, end = _event(), _event()
        run()  # so that the device is busy while the host launches what is timed
        start.record()
        run()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 2000


def _event() -> Any:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class _Block:
    """A block of random data, with room for what comes of it."""

    def __init__(
        self, rows: int, inner: int, neurons: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        import torch

        self.device = device
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            values = torch.randn(shape, generator=generator, dtype=dtype, device=device)
            return values.mul_(scale)

        self.x = normal(rows, inner)
        self.fc1, self.bias1 = normal(neurons, inner, scale=inner**-0.5), normal(neurons)
        self.fc2, self.bias2 = normal(inner, neurons, scale=neurons**-0.5), normal(inner)
        self.residual = torch.zeros(rows, inner, device=device)
        words = -(-neurons // 32)
        strip_words = min(32, words)
        strips = -(-words // strip_words)
        self.mask = torch.zeros(strips, rows, strip_words, dtype=torch.int32, device=device)
        self.z_max = torch.full((neurons,), -torch.inf, device=device)
        self.h = torch.empty(rows, neurons, dtype=dtype, device=device)
        self.wrong = torch.full((), FINITE, dtype=torch.int64, device=device)

    def up(self, route: Route, cut: Tiles) -> None:
        """Multiply by fc1, with all that is kept of it."""
        import torch

        blocks, words = -(-len(self.x) // cut.block_m), -(-self.fc1.shape[0] // 32)
        self.alive = torch.empty(blocks, words, dtype=torch.int32, device=self.device)
        triton_ffn.up(
            self.x,
            self.fc1,
            self.bias1,
            self.h,
            self.mask,
            self.z_max,
            self.alive,
            self.wrong,
            route=route,
            cut=cut,
        )

    def both(self, cut: Tiles) -> None:
        """Multiply by fc1 and fc2."""
        self.up("fused", cut)
        triton_ffn.down(self.h, self.fc2, self.bias2, self.residual, self.alive, skip=True, cut=cut)
