"""The layer-by-layer engine: plan, weights, residual, mask, loop."""

from __future__ import annotations
