"""`README.md` from `results/*.json`: goals, peers, ops, ceilings, curves.

python bench/report.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import plots
from device import summary
from device.__main__ import STEPS
from goals import GOALS
from results import Results
from roofline import on
from side_by_side import OWN_FORWARD
from tables import number, spread, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from results import Record

README: Final = Path(__file__).resolve().parent / "README.md"

HEAD: Final = """\
# Benchmarks

This page is made by `report.py` from `results/`; what it says was measured, on the machines named.

    make bench                     every part, then this page (about 25 minutes on 2 cores)
    make bench PART="ffn scan"     some parts: their records replace the older ones
    make bench-peers               TransformerLens and nnsight, in an environment of their own
    pytest bench                   the answers alone, on small inputs: nothing is timed

Every benchmark asserts its answer, then times it. What is compared runs in turns in one process
(A B A B; other tools in a process of their own, idle between turns), and a ratio is taken inside
each round: figures are medians, in parentheses the quartiles. Compare ratios, never numbers of two
machines. Ceilings (AMX from L1 on random data, reading memory) are measured in every round as well.
Models have random weights, fc1 biases lowered so that 5 % of cells fire; tokens follow Zipf's law.

Parts: {parts}.
"""

DEVICE: Final = """\
## On a GPU

    make device                         every part, in under 8 minutes
    make device PART="products forward" some parts: their records replace the older ones
    make device OUT=folder COMMIT=hash  results elsewhere; the commit of a tree without git

One script, `bench/device/`, that needs no network: it builds the package with the `python3` at hand (its
torch, Triton, transformers, accelerate, pip, scikit-build-core, pybind11, ninja, pytest,
pytest-benchmark, and nvcc) into `build/device`, and writes `results/CARD.json`. Parts: {parts};
the last, which times every candidate of Triton's tiles, runs only when it is asked for. Each runs in a process of its own with a time limit; one that fails costs the others nothing, and is named in
the results and by the exit code. Models have random weights that are made once and served from memory,
so that 66b's shape needs no files of 132 GB; few of its layers run. Without a GPU the same parts run on
toy shapes, by Triton's interpreter, to show that the script works, and nothing is written; with the
developers' environment, which has the package already:
`PYTHONPATH=bench .venv/bin/python -m device --installed`.

Cards measured so far: {cards}.
"""

OP_PARTS: Final = (
    "ffn",
    "attention",
    "linear",
    "layer_norm",
    "segment_counts",
    "firing_rows",
    "first_segments",
    "ngram_keys",
    "ngram_coverage",
    "ngram_triggers",
    "layers",
)


def goals(results: Results) -> str:
    """Write the table of goals."""
    rows = []
    for goal in GOALS:
        found = goal.find(results)
        unit = {"x": "x", "%": " %", "GB/s": " GB/s", "MB": " MB", "": ""}[goal.unit]
        sign = "≤ " if goal.less else ""
        rows.append(
            (
                goal.what,
                f"{sign}{number(goal.floor)}{unit}",
                f"{sign}{number(goal.goal)}{unit}",
                "not measured" if found is None else spread(found, unit),
                "" if found is None else goal.verdict(found),
            )
        )
    return table(("goal", "floor", "goal", "measured", "reached"), rows)


def beside(record: Record) -> str:
    """Write one whole scan beside the programs that ran in turns with it."""
    growing = record["growing"]
    rows = [
        (
            "**pyneurons**, the whole call",
            f"{record['tokens']:,}",
            spread(record["tokens_per_s"]),
            "",
            "1",
        ),
        (
            "**pyneurons**, what grows with tokens",
            f"{record['tokens']:,}",
            spread(growing["tokens_per_s"]),
            "1",
            "",
        ),
    ]
    for name, rival in record["rivals"].items():
        rows.append(
            (
                name,
                f"{rival['tokens']:,}",
                spread(rival["tokens_per_s"]),
                spread(growing["ratio"][name], "x"),
                "" if name == OWN_FORWARD else spread(rival["ratio"], "x"),
            )
        )
    head = ("program", "tokens a round", "tokens/s", "ours, growing part", "ours, whole call")
    stages = record["stages_s"]
    total = record["total_s"]
    parts = sorted(stages.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {100 * s / total:.2g} %" for name, s in parts if s > 0.001 * total)
    return (
        f"### {record['case']}\n\n"
        + table(head, rows)
        + f"\nRounds: {record['rounds']}; {on(record['threads'])}, "
        f"{100 * record['firing_share']:.2g} % of cells fire, peak of the process "
        f"{record['peak_resident_mb']:,} MB. In float32 the counts of scan and hooks differ in "
        f"{record['cells_that_differ_in_float32']} cells. Of the {total:.3g} s of a scan: {shares}.\n"
    )


def scans(results: Results) -> str:
    """Write all whole scans, and the program for n-grams."""
    records = [r for part in ("scan", "scan_float32", "scan_demo") for r in results.records(part)]
    text = "\n".join(beside(record) for record in records)
    program = results.record("ngram_program")
    if program is not None:
        (name, rival), *_ = program["rivals"].items()
        whole = program["whole_program_tokens_per_s"]
        text += f"\n### {program['case']}\n\n" + table(
            ("program", "tokens a round", "tokens/s", "ours"),
            [
                (
                    "**pyneurons**, index and observers",
                    f"{program['tokens']:,}",
                    spread(program["tokens_per_s"]),
                    "1",
                ),
                (
                    name,
                    f"{rival['tokens']:,}",
                    spread(rival["tokens_per_s"]),
                    spread(rival["ratio"], "x"),
                ),
                ("the same with its forward pass", f"{rival['tokens']:,}", spread(whole), ""),
            ],
        )
    return text


def cost_of_commits(results: Results) -> str:
    """Write what a run that survives costs."""
    record = results.record("commits")
    if record is None:
        return ""
    more = [100 * (ratio - 1) for ratio in record["ratio"]]
    return (
        f"\n### What `out=` costs\n\n{record['case']}, {record['tokens']:,} tokens, "
        f"{record['rounds']} pairs: {spread(record['lasting_s'], ' s')} beside "
        f"{spread(record['temporary_s'], ' s')}, in the same round {spread(more, ' %')} more. Inside "
        f"commits {spread(record['commit_s'], ' s')}, "
        f"{spread([100 * share for share in record['commit_share']], ' %')} of the call. The rest "
        "is rows of tables that are written by layer and again when they are joined, SHA-256 of the "
        "weights for the run's identity, and noise. Goal: less than 3 %.\n"
    )


def ops(results: Results) -> str:
    """Write every op and instruction set."""
    text = []
    for part in OP_PARTS:
        rows = []
        for record in results.records(part):
            rate = " TFLOP/s" if "tflop_per_s" in record else " GB/s"
            values = record.get("tflop_per_s") or record.get("gb_per_s")
            shares = [f"{spread([100 * v for v in c['share']])} %" for c in ceilings_of(record)]
            ratios = [f"{spread(r['ratio'], 'x')}" for r in record["rivals"].values()]
            rows.append(
                (
                    record["case"],
                    record["backend"],
                    str(record["threads"]),
                    spread(record["tokens_per_s"]),
                    spread(values, rate) if values else "",
                    "; ".join(shares),
                    "; ".join(ratios),
                )
            )
        if not rows:
            continue
        records = results.records(part)
        rivals = sorted({name for r in records for name in r["rivals"]})
        roofs = sorted({name for r in records for name in r["ceilings"]})
        notes = [f"Beside: {', '.join(rivals)}."] if rivals else []
        notes += [f"Ceiling: {', '.join(roofs)}."] if roofs else []
        counted = {r["flops_counted"] for r in records if "flops_counted" in r}
        notes += [f"Operations: {words}." for words in sorted(counted)]
        head = ("case", "backend", "threads", "tokens/s", "rate", "of the ceiling", "vs beside")
        text.append(f"### {part}\n\n{table(head, rows)}\n{' '.join(notes)}\n")
    return "\n".join(text)


def ceilings_of(record: Record) -> list[dict[str, Any]]:
    """Return the ceilings that stood beside a record."""
    return list(record["ceilings"].values())


def roofline(results: Results) -> str:
    """Write the machine's own ceilings."""
    rows = [(r["case"], spread(r["rate"], f" {r['unit']}")) for r in results.records("roofline")]
    return table(("ceiling", "measured"), rows)


def scales(results: Results) -> str:
    """Write whole scans and the counting engine by number of tokens."""
    text = ""
    rows = [
        (
            f"{r['tokens']:,}",
            number(r["tokens_per_s"]),
            f"{r['wall_s']:.0f} s",
            f"{r['forward_s']:.3g} s",
            f"{100 * r['overhead_of_counting']:.2g} %",
            f"{100 * r['overhead_with_ngrams']:.2g} %",
            f"{r['peak_resident_mb']:,} MB",
            "held" if r["held"] else "not held",
        )
        for r in results.records("scan_scale")
    ]
    if rows:
        head = ("tokens", "tokens/s", "whole call", "forward", "counting", "with n = 1..3", "peak")
        text += f"Whole scans, {results.records('scan_scale')[0]['case']}:\n\n"
        text += table((*head, "2 GB"), rows) + "\n"
    rows = []
    for record in results.records("counting_scale"):
        for threads, stages in record["ns_per_token"].items():
            cells = [spread(stages[s]) for s in ("index", "counting", "n = 1", "n = 2", "n = 3")]
            rows.append(
                (
                    f"{record['tokens']:,}",
                    threads,
                    *cells,
                    f"{record['peak_resident_mb']:,} MB",
                    "held" if record["held"] else "not held",
                )
            )
    if rows:
        head = ("tokens", "threads", "index", "counting", "n = 1", "n = 2", "n = 3", "peak", "2 GB")
        text += "The counting and n-gram engine on the bits of one OPT-125m layer, nanoseconds a "
        text += "token (the index: once for all layers):\n\n" + table(head, rows)
    return text


def page(results: Results) -> str:
    """Write everything about one machine."""
    facts = results.facts
    commits = sorted({part["commit"] for part in results.parts.values()})
    seconds = sum(part["seconds"] for part in results.parts.values())
    figures = "".join(
        f"![{caption}](plots/{path.name})\n\n{caption}\n\n" for path, caption in plots.draw(results)
    )
    return (
        f"## {results.machine}\n\n"
        f"{facts['processor']} (family {facts['family']}, model {facts['model']}), "
        f"{facts['cores']} cores, {facts['memory_gb']} GB; {', '.join(facts['instruction_sets'])}. "
        f"Python {facts['python']}, torch {facts['torch']}, transformers {facts['transformers']}, "
        f"NumPy {facts['numpy']}. Commit {', '.join(commits)} (+: with changes); all parts together "
        f"{seconds / 60:.0f} minutes.\n\n"
        f"### Goals\n\n{goals(results)}\n"
        f"### Ceilings\n\n{roofline(results)}\n"
        f"{scans(results)}{cost_of_commits(results)}\n"
        f"### By size\n\n{scales(results)}\n{figures}"
        f"{ops(results)}"
    )


def write(parts: Sequence[str]) -> None:
    """Write the README and draw the plots, of all machines that have results."""
    machines = Results.all()
    pages = [summary.page(results) for results in machines if results.card]
    device = DEVICE.format(parts=", ".join(step.name for step in STEPS), cards=number(len(pages)))
    pages += [page(results) for results in machines if not results.card]
    text = "\n".join([HEAD.format(parts=", ".join(parts)), device, *pages])
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    from run import PARTS

    write(PARTS)
