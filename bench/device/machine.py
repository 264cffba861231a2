"""The card, the software, and what they do at most: products, copies on the device, copies to it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from device.clock import in_turns, rates
from device.part import Part, run

PACKAGES = ("torch", "triton", "transformers", "accelerate", "numpy")


def measure(part: Part) -> None:
    """Name the card first: without one all other parts run on toy shapes."""
    there = torch.cuda.is_available()
    facts = {
        "card": torch.cuda.get_device_name() if there else None,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "host_memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "cuda": torch.version.cuda,
        **{name: _version(name) for name in PACKAGES},
    }
    if there:
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "capability": list(torch.cuda.get_device_capability()),
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "l2_mb": round(getattr(properties, "L2_cache_size", 0) / 1e6, 1),
        }
    part.record("machine", **facts)
    device = torch.device("cuda" if there else "cpu")
    size, amount = (8192, 1 << 30) if there else (128, 1 << 16)
    for name in ("float16", "bfloat16", "float32"):
        dtype = getattr(torch, name)
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = in_turns({"mm": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}, device)
        part.record(
            "gemm", dtype=name, size=size, tflop_per_s=rates(2 * size**3 / 1e12, seconds["mm"])
        )
    source, target = (torch.randint(0, 99, (amount,), device=device).byte() for _ in range(2))
    seconds = in_turns({"copy": lambda: target.copy_(source)}, device)
    part.record("copy", bytes=amount, gb_per_s=rates(2 * amount / 1e9, seconds["copy"]))
    if not there:
        part.absent("host copy", "there is no device beside the host")
        return
    host = torch.empty(amount, dtype=torch.uint8, pin_memory=True)
    plain = torch.zeros(amount, dtype=torch.uint8)
    seconds = in_turns(
        {
            "host to device": lambda: target.copy_(host, non_blocking=True),
            "device to host": lambda: host.copy_(target, non_blocking=True),
            "host to device, not pinned": lambda: target.copy_(plain),
        },
        device,
    )
    for name, values in seconds.items():
        part.record("host copy", direction=name, bytes=amount, gb_per_s=rates(amount / 1e9, values))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    run(measure)
