"""What was found on a card, as a page: goals, then a table for each part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from device.goals import GOALS, there
from tables import number, spread, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from results import Results

TOY: Final = "toy shapes on the CPU: not a measurement"


def page(results: Results) -> str:
    """Write everything about one card."""
    facts = results.facts
    card = facts.get("card") or TOY
    software = ", ".join(
        f"{name} {facts[name]}"
        for name in ("python", "cuda", "torch", "triton", "transformers", "accelerate")
        if facts.get(name)
    )
    commits = sorted({part["commit"] for part in results.parts.values()})
    seconds = sum(part["seconds"] for part in results.parts.values())
    text = [
        f"## {card}\n",
        f"{software}. Commit {', '.join(commits)} (+: with changes); all parts together {seconds:.0f} s.\n",
        goals(results, toy=not facts.get("card")),
        parts(results),
    ]
    for name, write in SECTIONS.items():
        written = write(results)
        if written:
            text.append(f"### {name}\n\n{written}")
    return "\n".join(text)


def goals(results: Results, *, toy: bool) -> str:
    """Write the table of goals; toy shapes have figures and no verdicts."""
    rows = []
    for goal in GOALS:
        found = goal.find(results)
        unit = {"x": "x", "%": " %", "": ""}[goal.unit]
        sign = "≤ " if goal.less else ""
        rows.append(
            (
                goal.what,
                f"{sign}{number(goal.floor)}{unit}",
                f"{sign}{number(goal.goal)}{unit}",
                "not measured" if found is None else spread(found, unit),
                "" if found is None else "toy" if toy else goal.verdict(found),
            )
        )
    return table(("goal", "floor", "goal", "measured", "reached"), rows)


def parts(results: Results) -> str:
    """Write how each part ended, and what it did not measure."""
    rows = []
    for name, part in results.parts.items():
        absent = sorted({r["absent"] for r in part["records"] if "absent" in r})
        ended = part.get("error", "done")
        rows.append((name, f"{part['seconds']:.0f} s", ended, "; ".join(absent)))
    return table(("part", "took", "ended", "not measured"), rows)


def _machine(results: Results) -> str:
    rows = [
        (f"torch.mm, {r['dtype']}, {r['size']:,}³", spread(r["tflop_per_s"], " TFLOP/s"))
        for r in there(results, "machine", what="gemm")
    ]
    rows += [
        ("copy on the device, read and written", spread(r["gb_per_s"], " GB/s"))
        for r in there(results, "machine", what="copy")
    ]
    rows += [
        (r["direction"], spread(r["gb_per_s"], " GB/s"))
        for r in there(results, "machine", what="host copy")
    ]
    return table(("ceiling", "measured"), rows) if rows else ""


def _products(results: Results) -> str:
    rows = [
        (
            f"{r['model']}: {r['rows']:,} x {r['hidden']:,} x {r['neurons']:,}",
            r["program"],
            spread(r["tflop_per_s"]),
            spread(r["of_mm"]),
        )
        for r in there(results, "products", what="fc1")
    ]
    return table(("fc1, float16", "program", "TFLOP/s", "of torch.mm"), rows) if rows else ""


def _counting(results: Results) -> str:
    rows = [
        (
            r["ordered"],
            r["backend"],
            spread(r["gb_per_s"]),
            spread(r["of_copy"]) if r["of_copy"] else "",
        )
        for r in there(results, "counting", what="segment_counts")
    ]
    return table(("rows", "backend", "GB/s", "of copying"), rows) if rows else ""


def _counters(results: Results) -> str:
    rows = [
        (
            r["model"],
            r["mode"],
            f"{r['tokens']:,}",
            f"{r['cells_that_differ']:,} of {r['cells']:,}",
            f"{100 * r['most_flipped']:.2g} %",
            "held" if r["held"] else "NOT held",
        )
        for r in there(results, "counters", what="counters")
    ]
    head = ("model", "mode, against float32 on the CPU", "tokens", "counters that differ")
    return table((*head, "most flipped, a layer", "band"), rows) if rows else ""


def _forward(results: Results) -> str:
    rows = [
        (
            f"{r['model']}, {r['layers']} layers",
            "all statistics" if r["statistics"] else "bare",
            f"{r['tokens']:,}",
            number(r["tokens_per_s"]),
            number(r["layer_tokens_per_s"]),
            number(r["of_gemm"]),
            f"{100 * r['stall']:.2g} %" if "stall" in r else "",
        )
        for r in there(results, "forward", what="forward")
    ]
    head = ("shape", "run", "tokens", "tokens/s", "layers x tokens/s", "of the GEMM rate", "stall")
    return table(head, rows) if rows else ""


def _beside(results: Results) -> str:
    rows = [
        (
            f"{r['model']}, {r['layers']} layers",
            f"{r['program']}, batches of {r['sequences_together']}",
            f"{r['tokens']:,}",
            spread(r["tokens_per_s"]),
            spread(r["layer_tokens_per_s"]),
        )
        for r in there(results, "beside", what="beside")
    ]
    return (
        table(("shape", "program", "tokens", "tokens/s", "layers x tokens/s"), rows) if rows else ""
    )


def _suite(results: Results) -> str:
    rows = [
        (", ".join(r["required"]), str(r["tests"]), str(r["failed"]), str(r["skipped"]))
        for r in there(results, "suite", what="suite")
    ]
    return table(("tests on backends", "run", "failed", "skipped"), rows) if rows else ""


def _sanitizer(results: Results) -> str:
    rows = [
        (r["backend"], r["tool"], str(r["status"]), str(r["summary"]))
        for r in there(results, "sanitizer", what="sanitizer")
    ]
    return table(("backend", "tool", "status", "summary"), rows) if rows else ""


def _tiles(results: Results) -> str:
    rows = []
    for r in there(results, "tiles", what="tiles"):
        timed = {str(cut): value for cut, value in r["seconds"] if value is not None}
        best = r["entry"]["tiles"]
        rows.append((r["model"], str(best), number(1e3 * timed[str(best)]), str(len(timed))))
    return table(("shape", "fastest tiles", "ms of both products", "of"), rows) if rows else ""


SECTIONS: Final[dict[str, Callable[[Results], str]]] = {
    "Ceilings": _machine,
    "fc1": _products,
    "segment_counts": _counting,
    "CPU and GPU": _counters,
    "Whole forward passes": _forward,
    "Beside": _beside,
    "Tests": _suite,
    "compute-sanitizer": _sanitizer,
    "Tiles": _tiles,
}
