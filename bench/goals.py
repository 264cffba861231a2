"""The goals: what each is, its floor, and where its figure stands among the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from goal import Goal
from side_by_side import OWN_FORWARD

if TYPE_CHECKING:
    from collections.abc import Callable

    from goal import Spread
    from results import Results


def _ratio(part: str, rival: str, **equal: object) -> Callable[[Results], Spread | None]:
    """Time per token of a rival over ours."""

    def find(results: Results) -> Spread | None:
        record = results.record(part, **equal)
        ratios = {} if record is None else {k: v["ratio"] for k, v in record["rivals"].items()}
        return next((v for k, v in ratios.items() if k.startswith(rival)), None)

    return find


def _growing(part: str, rival: str, **equal: object) -> Callable[[Results], Spread | None]:
    """Time per token of a rival over the part of ours that grows with tokens."""

    def find(results: Results) -> Spread | None:
        record = results.record(part, **equal)
        ratios = {} if record is None else record["growing"]["ratio"]
        return next((v for k, v in ratios.items() if k == rival), None)

    return find


def _share(part: str, **equal: object) -> Callable[[Results], Spread | None]:
    """Share of the one ceiling that was measured beside, in percent."""

    def find(results: Results) -> Spread | None:
        record = results.record(part, **equal)
        shares = [] if record is None else [c["share"] for c in record["ceilings"].values()]
        return [100 * value for value in shares[0]] if shares else None

    return find


def _clock(field: str, part: str, **equal: object) -> Callable[[Results], Spread | None]:
    """A share that the engine's own clock tells, in percent; medians have no spread."""

    def find(results: Results) -> Spread | None:
        record = results.record(part, **equal)
        return None if record is None else [100 * record[field]] * 3

    return find


def _paired(results: Results) -> Spread | None:
    """Overhead of all statistics over own forward, from runs in turns, in percent."""
    found = _growing("scan", OWN_FORWARD, context=2048, tokens=FEW)(results)
    return None if found is None else [100 * (1 / ratio - 1) for ratio in reversed(found)]


def _ngrams(part: str, **equal: object) -> Callable[[Results], Spread | None]:
    """Time per token of the program's statistics over that of a scan's, by the stage clock."""

    def find(results: Results) -> Spread | None:
        record, program = results.record(part, **equal), results.record("ngram_program")
        if record is None or program is None:
            return None
        (rival,) = program["rivals"].values()
        seconds = record["stages_s"]["n-grams"] + record["stages_s"]["n-gram index"]
        return [s / rival["tokens"] / (seconds / record["tokens"]) for s in rival["seconds"]]

    return find


def _field(field: str, part: str, **equal: object) -> Callable[[Results], Spread | None]:
    def find(results: Results) -> Spread | None:
        record = results.record(part, **equal)
        if record is None:
            return None
        value = record[field]
        return value if isinstance(value, list) else [value] * 3

    return find


MANY, FEW = 1_048_576, 131_072
"""Tokens of the scans."""

HOOKS: Final = "transformers bfloat16, counting hooks"
PLAIN: Final = "transformers bfloat16, forward alone"
PLAIN32: Final = "transformers float32, forward alone"
CACHE: Final = {"place": "cache", "ordered": "in order", "threads": 1}
MEMORY: Final = {"place": "memory", "threads": 1}
AMX: Final = "cpp:amx"


def _scan_goals(words: str, rival: str, floor: float, goal: float) -> list[Goal]:
    """Return the whole call on many tokens and on few, and the part of the latter that grows."""
    many, few = ({"context": 2048, "tokens": tokens} for tokens in (MANY, FEW))
    return [
        Goal(
            f"scan, all statistics, bf16, T = 2048 vs {words}: the whole call, {MANY:,} tokens",
            floor,
            goal,
            "x",
            _ratio("scan", rival, **many),
        ),
        Goal(f"the same, {FEW:,} tokens", floor, goal, "x", _ratio("scan", rival, **few)),
        Goal(
            "the same without what costs a constant in each layer",
            floor,
            goal,
            "x",
            _growing("scan", rival, **few),
        ),
    ]


def _ffn_goals() -> list[Goal]:
    made = []
    numbers = {"opt-125m": (2, 2.7, 40, 55), "opt-1.3b": (1.3, 1.8, 35, 50)}
    for share, words in ((0.05, "5 % firing"), (0.5, "50 % firing, nothing skipped")):
        for shape, (floor, goal, floor_share, goal_share) in numbers.items():
            case = {"shape": shape, "share": share, "backend": AMX}
            made += [
                Goal(
                    f"`ffn` with bits vs torch's plain bf16 FFN, {shape}, {words}",
                    floor,
                    goal,
                    "x",
                    _ratio("ffn", "torch", **case),
                ),
                Goal(
                    f"`ffn`: share of the AMX peak, {shape}, {words}",
                    floor_share,
                    goal_share,
                    "%",
                    _share("ffn", **case),
                ),
            ]
    return made


GOALS: Final = (
    *_ffn_goals(),
    Goal(
        "attention vs torch's bf16 SDPA, T = 2048, head 64",
        1,
        2.5,
        "x",
        _ratio("attention", "torch", context=2048, backend=AMX),
    ),
    *_scan_goals("transformers bf16 + counting hooks", HOOKS, 2, 3.3),
    *_scan_goals("transformers' plain bf16 forward", PLAIN, 1.3, 2),
    *(
        Goal(
            f"firing and position counting over own forward, by the stage clock, {tokens:,} tokens",
            1,
            0.5,
            "%",
            _clock("overhead_of_counting", "scan", context=2048, tokens=tokens),
            less=True,
        )
        for tokens in (MANY, FEW)
    ),
    *(
        Goal(
            f"with n = 1..3, by the stage clock, {tokens:,} tokens",
            5,
            2,
            "%",
            _clock("overhead_with_ngrams", "scan", context=2048, tokens=tokens),
            less=True,
        )
        for tokens in (MANY, FEW)
    ),
    Goal(f"with n = 1..3, runs in turns, {FEW:,} tokens", 5, 2, "%", _paired, less=True),
    Goal(
        "`segment_counts`, one core, in cache",
        45,
        65,
        "GB/s",
        _field("gb_per_s", "segment_counts", **CACHE),
    ),
    Goal(
        "`segment_counts`, one core, rows in order: share of reading from memory",
        70,
        95,
        "%",
        _share("segment_counts", ordered="in order", **MEMORY),
    ),
    Goal(
        "`segment_counts`, one core, rows by position: share of reading from memory",
        25,
        50,
        "%",
        _share("segment_counts", ordered="by position", **MEMORY),
    ),
    Goal(
        "`segment_counts`, one core, rows shuffled: share of reading from memory",
        25,
        50,
        "%",
        _share("segment_counts", ordered="shuffled", **MEMORY),
    ),
    Goal(
        "n-gram statistics vs the program a user would write, in turns, 16,384 tokens both",
        30,
        100,
        "x",
        _ratio("ngram_program", "hooks"),
    ),
    *(
        Goal(
            f"the same, time per token, ours in a scan of {tokens:,} tokens",
            30,
            100,
            "x",
            _ngrams("scan", context=2048, tokens=tokens),
        )
        for tokens in (FEW, MANY)
    ),
    Goal(
        "scan, all statistics, float32, T = 2048 vs transformers' plain float32 forward: the whole "
        "call, 131,072 tokens",
        1.2,
        1.6,
        "x",
        _ratio("scan_float32", PLAIN32),
    ),
    Goal(
        "the same without what costs a constant in each layer",
        1.2,
        1.6,
        "x",
        _growing("scan_float32", PLAIN32),
    ),
    Goal(
        "error of z in float32 against float64, over that of transformers float32",
        1,
        0.7,
        "",
        _field("error_ratio", "scan_float32"),
        less=True,
    ),
    Goal(
        "the same of one product, opt-125m fc1, weight float16",
        1,
        0.7,
        "",
        _field("error_ratio", "linear", shape="opt-125m", weight="float16", backend=AMX),
        less=True,
    ),
    Goal(
        "peak memory, 125m shape, 1,048,576 tokens, budget 2 GB",
        2000,
        2000,
        "MB",
        _field("peak_resident_mb", "scan_scale", tokens=1_048_576),
        less=True,
    ),
)
