"""What every way to the extremes of scores shares: an order with ties, and a bound on rounding."""

from __future__ import annotations

import torch

TOP_TOKENS = 10
"""Tokens that are kept of each end of a neuron's scores."""

CARE = 1.01
"""What rounding in the computation of a bound may take from it."""

LOWEST = -(2**63)
"""Below every key."""

_LOW = 0xFFFFFFFF


def keys(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return int64 numbers in the order of the scores, of equal ones the lower column first."""
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_LOW - columns)


def from_keys(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (scores, columns) of `keys`."""
    ordered = (found >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32), _LOW - (found & _LOW)


def error_bound(
    length: torch.Tensor,
    lost: torch.Tensor,
    share: float,
    terms: int,
    roundoff: float = 2.0**-24,
) -> torch.Tensor:
    """Bound the error of products with rounded operands, for each length of the other operand.

    |<d, r> - <d', r'>| <= |d - d'| |r| + |d'| |r - r'|, and a float32 sum of n terms is off by at
    most (n + 2) u |d'| |r'|. What rounding takes is measured: a third of what it might take.

    Parameters
    ----------
    length, lost : [B]
        |d| and |d - d'|.
    share : float
        The largest |r - r'| / |r|.
    terms : int
    roundoff : float
        u, of one addition.
    """
    sums = (terms + 2) * roundoff
    return lost + (length + lost) * (share + sums * (1 + share))
