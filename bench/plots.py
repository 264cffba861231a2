"""Curves by tokens, by shape and by threads, as PNG files that the README shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from pyneurons.report.style import LINES, MARKERS, WIDTH, new_figure, styled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

    from results import Results

FOLDER: Final = Path(__file__).resolve().parent / "plots"
STAGES: Final = ("index", "counting", "n = 1", "n = 2", "n = 3")


def draw(results: Results) -> Iterator[tuple[Path, str]]:
    """Draw what there are records for; yield each file with its caption."""
    FOLDER.mkdir(exist_ok=True)
    for name, (figure_of, caption) in FIGURES.items():
        figure = figure_of(results)
        if figure is None:
            continue
        path = FOLDER / f"{results.machine}-{name}.png"
        figure.savefig(path, dpi=150, metadata={"Software": None})
        yield path, caption


def _by_tokens(axes: Any) -> None:
    axes.set_xscale("log")
    most = 1.1 * axes.dataLim.x1
    ticks = [m for m in (0.1, 0.2, 0.5, 1, 2, 5) if m * 1e6 <= most]
    axes.set_xticks([m * 1e6 for m in ticks], [f"{m:g}M" for m in ticks])
    axes.minorticks_off()
    axes.set_xlabel("tokens")


@styled
def tokens(results: Results) -> Figure | None:
    """Cost of counting and of n-grams per token, and speed of whole scans, by tokens."""
    counted = results.records("counting_scale")
    within = results.records("scan_scale")
    sizes = {record["tokens"] for record in within}
    free = [r for r in results.records("scan", context=2048) if r["tokens"] not in sizes]
    scanned = sorted((*free, *within), key=lambda record: record["tokens"])
    if not counted or not scanned:
        return None
    figure = new_figure(WIDTH, 2.8)
    left, right = figure.subplots(1, 2)
    x = [record["tokens"] for record in counted]
    for stage, colour, marker in zip(STAGES, LINES, MARKERS, strict=False):
        low, middle, high = np.array([record["ns_per_token"]["2"][stage] for record in counted]).T
        name = "index, all n, once" if stage == "index" else stage
        left.plot(x, middle, color=colour, marker=marker, label=name)
        left.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    left.set_title("counting one layer of OPT-125m, 2 threads")
    left.set_ylabel("ns per token")
    left.set_yscale("log")
    _by_tokens(left)
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_locator(NullLocator())
    left.set_ylim(top=5 * left.get_ylim()[1])  # room for the legend above the lines
    left.legend(ncols=2)
    x = [record["tokens"] for record in scanned]
    whole = [record["tokens"] / record["total_s"] for record in scanned]
    growing = [
        record["tokens"] / (record["forward_s"] * (1 + record["overhead_with_ngrams"]))
        for record in scanned
    ]
    right.plot(x, growing, color=LINES[0], marker=MARKERS[0], label="what grows with tokens")
    right.plot(x, whole, color=LINES[1], marker=MARKERS[1], label="the whole call")
    right.set_title("whole scans, OPT-125m, T = 2048")
    right.set_ylabel("tokens per second")
    _by_tokens(right)
    right.set_ylim(bottom=0)
    right.legend()
    return figure


@styled
def shapes(results: Results) -> Figure | None:
    """One decoder layer of three shapes, ours beside transformers'."""
    records = results.records("layers")
    if not records:
        return None
    figure = new_figure(WIDTH, 2.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, threads in zip(panels, (1, 2), strict=True):
        here = [record for record in records if record["threads"] == threads]
        place = np.arange(len(here))
        ours = np.array([record["tflop_per_s"] for record in here])
        ratio = np.array([next(iter(r["rivals"].values()))["ratio"][1] for r in here])
        for offset, values, name, colour in (
            (-0.2, ours[:, 1], "pyneurons, with bits", LINES[0]),
            (0.2, ours[:, 1] / ratio, "transformers bfloat16", LINES[1]),
        ):
            axes.bar(place + offset, values, 0.38, color=colour, label=name)
        axes.errorbar(
            place - 0.2, ours[:, 1], np.abs(ours[:, (0, 2)].T - ours[:, 1]),
            fmt="none", ecolor="black", elinewidth=0.8,
        )  # fmt: skip
        axes.set_xticks(place, [record["shape"] for record in here])
        axes.set_title(f"one decoder layer, T = 2048, {threads} thread{'s' * (threads > 1)}")
    panels[0].set_ylabel("TFLOP/s (dense)")
    panels[0].legend()
    return figure


@styled
def threads(results: Results) -> Figure | None:
    """How much faster two threads are than one."""
    bars: list[tuple[str, float]] = []
    for shape in ("opt-125m", "opt-350m", "opt-1.3b"):
        one = results.record("layers", shape=shape, threads=1)
        two = results.record("layers", shape=shape, threads=2)
        if one and two:
            bars.append((f"layer, {shape}", two["tokens_per_s"][1] / one["tokens_per_s"][1]))
    counted = results.record("counting_scale", tokens=1_048_576)
    if counted is not None:
        one, two = counted["ns_per_token"]["1"], counted["ns_per_token"]["2"]
        bars += [(f"engine, {stage}", one[stage][1] / two[stage][1]) for stage in STAGES]
    for ordered in ("in order", "by position"):
        case = {"place": "memory", "ordered": ordered}
        one = results.record("segment_counts", threads=1, **case)
        two = results.record("segment_counts", threads=2, **case)
        if one and two:
            ratio = two["tokens_per_s"][1] / one["tokens_per_s"][1]
            bars.append((f"segment_counts, {ordered}", ratio))
    for part in ("ngram_coverage", "ngram_triggers"):
        for n in (1, 2, 3):
            one = results.record(part, n=n, threads=1)
            two = results.record(part, n=n, threads=2)
            if one and two:
                ratio = two["tokens_per_s"][1] / one["tokens_per_s"][1]
                bars.append((f"{part}, n = {n}", ratio))
    if not bars:
        return None
    figure = new_figure(WIDTH * 0.75, 0.5 + 0.19 * len(bars))
    axes = figure.subplots()
    names, ratios = zip(*reversed(bars), strict=True)
    axes.barh(names, ratios, color=LINES[0], height=0.65)
    for value in (1, 2):
        axes.axvline(value, color="black", linewidth=0.8, linestyle=":", zorder=0)
    for place, ratio in enumerate(ratios):
        axes.text(ratio - 0.02, place, f"{ratio:.2f}", va="center", ha="right", color="white")
    axes.grid(visible=False)
    axes.set_xlim(0, max(2.2, max(ratios) + 0.15))
    axes.set_title("speed of 2 threads over 1")
    return figure


FIGURES: Final = {
    "tokens": (
        tokens,
        (
            "Left: what counting costs per token, in one layer, for corpora of 0.1 to 5 million "
            "tokens. Right: whole scans; the fixed costs of a call weigh less the longer it runs."
        ),
    ),
    "shapes": (shapes, "One decoder layer of three shapes, with bits out, beside transformers'."),
    "threads": (threads, "Two threads against one: layers, the engine by stage, single ops."),
}
