"""What a goal is: a floor, a goal, and where its figure stands among the records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from results import Results

Spread = list[float]
"""Lower quartile, median, upper quartile."""


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    ``unit`` is "x" (a ratio of time per token), "%", "GB/s" or "" (a plain ratio); where ``less``,
    smaller is better.
    """

    what: str
    floor: float
    goal: float
    unit: str
    find: Callable[[Results], Spread | None]
    less: bool = False

    def verdict(self, spread: Spread) -> str:
        """Tell where the median stands."""
        value = -spread[1] if self.less else spread[1]
        floor, goal = (-self.floor, -self.goal) if self.less else (self.floor, self.goal)
        return "goal" if value >= goal else "floor" if value >= floor else "no"
