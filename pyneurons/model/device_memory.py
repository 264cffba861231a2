"""How much memory a GPU and its host have free, as accelerate tells."""

from __future__ import annotations

import torch

from pyneurons import _env


def device_memory() -> dict[str, int]:
    """Return the free bytes of the first GPU (``gpu``) and of the host (``host``).

    Empty where torch sees no GPU; without ``host`` where both are the same memory. A context is made
    on each GPU, which takes some hundred MB of it.
    """
    if not torch.cuda.is_available():
        return {}
    from accelerate.utils import get_max_memory

    found = get_max_memory()
    memory = {}
    if 0 in found:
        memory["gpu"] = int(found[0])
    if "cpu" in found:
        memory["host"] = min(int(found["cpu"]), _env.available_bytes() or int(found["cpu"]))
    return memory
