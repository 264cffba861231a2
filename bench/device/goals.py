"""The goals on a GPU: floor, goal, and where each figure stands among the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from goal import Goal

if TYPE_CHECKING:
    from collections.abc import Callable

    from goal import Spread
    from results import Record, Results


def spread_of(values: list[float]) -> Spread | None:
    """Return least, median and greatest of a few runs, or None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def there(results: Results, part: str, **equal: object) -> list[Record]:
    """Return the records that were measured: some only say why they are absent."""
    return [record for record in results.records(part, **equal) if "absent" not in record]


def _fc1(model: str) -> Callable[[Results], Spread | None]:
    """Time of plain `torch.mm` over that of the faster of our routes."""

    def find(results: Results) -> Spread | None:
        found = there(results, "products", what="fc1", model=model, ours=True)
        return max((record["of_mm"] for record in found), key=lambda s: s[1], default=None)

    return find


def _forward(field: str, model: str) -> Callable[[Results], Spread | None]:
    """Something that each bare forward pass tells of itself."""

    def find(results: Results) -> Spread | None:
        found = there(results, "forward", what="forward", model=model, statistics=False)
        return spread_of([record[field] for record in found if field in record])

    return find


def _stall(model: str) -> Callable[[Results], Spread | None]:
    def find(results: Results) -> Spread | None:
        found = _forward("stall", model)(results)
        return None if found is None else [100 * value for value in found]

    return find


def overheads(results: Results, model: str) -> list[float]:
    """Return what all statistics cost over the bare pass before them, in percent."""
    found = there(results, "forward", what="forward", model=model)
    bare = [record["seconds"] for record in found if not record["statistics"]]
    full = [record["seconds"] for record in found if record["statistics"]]
    return [100 * (b / a - 1) for a, b in zip(bare, full, strict=False)]


def _overhead(model: str) -> Callable[[Results], Spread | None]:
    return lambda results: spread_of(overheads(results, model))


def _beside(program: str, model: str) -> Callable[[Results], Spread | None]:
    """Tokens and layers a second of a scan with all statistics over those of another program."""

    def find(results: Results) -> Spread | None:
        ours = there(results, "forward", what="forward", model=model, statistics=True)
        found = there(results, "beside", what="beside", model=model)
        theirs = [r["layer_tokens_per_s"][1] for r in found if r["program"].startswith(program)]
        if not theirs:
            return None
        return spread_of([record["layer_tokens_per_s"] / max(theirs) for record in ours])

    return find


GOALS: Final = (
    *(
        Goal(
            f"fc1 with bits by the faster route vs torch.mm, float16, {model}",
            0.90,
            0.95,
            "x",
            _fc1(model),
        )
        for model in ("6.7b", "30b", "66b")
    ),
    *(
        Goal(
            f"bare forward pass: share of the GEMM rate measured beside, {model}",
            floor,
            goal,
            "",
            _forward("of_gemm", model),
        )
        for model, floor, goal in (("66b", 0.75, 0.85), ("6.7b", 0.70, 0.80), ("125m", 0.30, 0.45))
    ),
    *(
        Goal(
            f"all statistics over the bare forward pass, {model}",
            floor,
            goal,
            "%",
            _overhead(model),
            less=True,
        )
        for model, floor, goal in (("66b", 8, 2), ("6.7b", 8, 2), ("125m", 12, 8))
    ),
    Goal("kernels waiting for streamed weights, 66b", 5, 1, "%", _stall("66b"), less=True),
    *(
        Goal(
            f"scan with all statistics vs transformers + counting hooks, {model}",
            2,
            3,
            "x",
            _beside("transformers", model),
        )
        for model in ("125m", "6.7b")
    ),
    Goal(
        "scan with all statistics vs accelerate's offload + counting hooks, 66b",
        3,
        5,
        "x",
        _beside("accelerate", "66b"),
    ),
)
