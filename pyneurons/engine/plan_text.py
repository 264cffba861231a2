"""Plans for one GPU as text for a terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from pyneurons.engine.device_plan import (
    BASIS,
    Assumptions,
    Budgets,
    DevicePlan,
    host_memory_to_compute,
    most_tokens_without_file,
)
from pyneurons.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from pyneurons.model.config import OptConfig

_OPTIONS = {
    "gemm_tflops": ("--gemm-tflops", "TFLOP/s", 1),
    "attention_tflops": ("--attention-tflops", "TFLOP/s", 1),
    "kernel_share": ("--kernel-share", "", 1),
    "gpu_bandwidth": ("--gpu-bandwidth", "GB/s", 10**9),
    "pcie_bandwidth": ("--pcie-bandwidth", "GB/s", 10**9),
    "disk_bandwidth": ("--disk-bandwidth", "GB/s", 10**9),
}


def _table(*columns: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2))
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def size(given: int) -> str:
    """Return bytes in GB."""
    return f"{given / 1e9:,.2f}" if given < 10**10 else f"{given / 1e9:,.0f}"


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours with two or three digits."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _shares(plan: DevicePlan) -> str:
    """Return where the residual lies: ``device 40 %, file 60 %``."""
    places = {place: rows for place, rows in plan.residual.items() if rows}
    if len(places) == 1:
        return next(iter(places))
    return ", ".join(f"{place} {100 * rows / plan.tokens:.0f} %" for place, rows in places.items())


def _budget_line(tokens: int, budgets: Budgets) -> Text:
    return Text(
        f"{tokens:,} tokens on one GPU of {budgets.gpu_memory / 2**30:,.4g} GiB, "
        f"{budgets.host_memory / 2**30:,.4g} GiB of host memory, "
        f"{budgets.disk_space / 1e9:,.4g} GB of disk",
        style="bold",
    )


def assumptions(rates: Assumptions) -> list[RenderableType]:
    """Return the table of what the times rest on."""
    table = _table("assumed, not measured", "", "")
    table.add_column("default from")
    for name, value in asdict(rates).items():
        option, unit, scale = _OPTIONS[name]
        basis = BASIS[name] if value == getattr(Assumptions(), name) else "given"
        table.add_row(option, f"{value / scale:,.4g}", unit, basis)
    note = Text(
        "Copies hide behind kernels, both directions of PCIe at once; a layer takes the longest of "
        "compute, PCIe and disk.",
        style="dim",
    )
    return [table, note]


def one(name: str, plan: DevicePlan, config: OptConfig) -> list[RenderableType]:
    """Return everything that a plan says of one model."""
    blocks: list[RenderableType] = [_budget_line(plan.tokens, plan.budgets)]
    rows = "whole sequences" if plan.micro_batch % plan.context == 0 else "rows"
    blocks.append(
        Text(
            f"{name}: {plan.layers} layers, checkpoint {size(plan.checkpoint)} GB\n"
            f"residual stream: {_shares(plan)}; bits: {plan.mask}; n-gram indices: {plan.index}\n"
            f"micro-batch {plan.micro_batch:,} tokens in {rows}; weights in a ring of "
            f"{plan.ring_slots} layers\n"
        )
    )
    table = _table("peak, GB", "")
    table.add_column("of it")
    for place, parts in (("device", plan.device), ("host", plan.host), ("disk", plan.disk)):
        table.add_row(place, size(plan.predicted_peak[place]), _listed(parts))
    blocks += [table, Text("")]
    table = _table("moved by one layer", "GB")
    for way, given in plan.moved.items():
        table.add_row(way, size(given))
    blocks += [table, Text("")]
    table = _table("one layer takes", "")
    table.add_column("of it")
    kernels = ", ".join(f"{kernel} {duration(s)}" for kernel, s in plan.kernel_s.items())
    for what, seconds in plan.layer_s.items():
        table.add_row(what, duration(seconds), kernels if what == "compute" else "")
    blocks += [table, Text("")]
    blocks.append(
        Text(
            f"expected {duration(plan.total_s)}, bound by {plan.bound}; "
            f"{plan.tokens_per_s:,.0f} tokens/s",
            style="bold",
        )
    )
    blocks += [_advice(plan, config), Text("")]
    return blocks + assumptions(plan.assumptions)


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {size(given)}" for part, given in parts.items())


def _advice(plan: DevicePlan, config: OptConfig) -> Text:
    text = Text(
        f"kernels hide one layer's weights from {plan.tokens_that_hide_weights:,} tokens on; with "
        f"these budgets up to {most_tokens_without_file(plan, config):,} tokens need no file"
    )
    if plan.bound != "compute":
        host = host_memory_to_compute(plan, config)
        text.append(
            f"\ncompute would bound it with --host-memory {host >> 30}GiB"
            if host is not None
            else f"\nno host memory hides it: {plan.bound} is too slow for the kernels"
        )
    return text


def several(
    plans: Mapping[str, DevicePlan | ResourceError],
    tokens: int,
    budgets: Budgets,
    rates: Assumptions,
) -> list[RenderableType]:
    """Return one row for each model; one that does not fit says what is short."""
    places = _table("model", "weights", "a layer", "device", "host", "disk")
    places.add_column("residual; bits")
    times = _table("model", "compute s", "PCIe s", "disk s", "expected", "bound", "tokens/s")
    short = []
    for name, plan in plans.items():
        if isinstance(plan, ResourceError):
            places.add_row(name, *[""] * 5, "does not fit")
            short.append(Text(f"{name}: {plan}"))
            continue
        places.add_row(
            name,
            size(plan.checkpoint),
            size(plan.moved["weights, disk to host"]),
            *(size(peak) for peak in plan.predicted_peak.values()),
            f"{_shares(plan)}; {plan.mask}",
        )
        times.add_row(
            name,
            *(f"{seconds:.2g}" for seconds in plan.layer_s.values()),
            duration(plan.total_s),
            plan.bound,
            f"{plan.tokens_per_s:,.0f}",
        )
    first, second = (
        Text(legend, style="dim")
        for legend in (
            "GB; device, host and disk at the peak, without the checkpoint",
            "seconds of one layer; the whole scan",
        )
    )
    blank = Text("")
    parts = [places, first, *short, blank, times, second, blank, *assumptions(rates)]
    return [_budget_line(tokens, budgets), *parts]
