"""A run, or one neuron, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from pyneurons.analysis import coverage as covering
from pyneurons.analysis.detectors import decided, supported
from pyneurons.report import words
from pyneurons.report.numbers import suppressing_share
from pyneurons.report.textplot import plot
from pyneurons.report.words import MOST_CONTEXTS, MOST_NGRAMS, TEMPLATES, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_DETECTORS = 12


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _columns(table: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def summary(scan: Any) -> list[RenderableType]:
    """Return what a person wants to know of a run first."""
    blocks: list[RenderableType] = [_what_was_run(scan), _layers(scan)]
    for n in scan.manifest["settings"]["ngrams"]:
        blocks += _detectors(scan, n)
    blocks += _positional(scan)
    if 1 in scan.manifest["settings"]["ngrams"] and scan.has_suppression:
        blocks += _suppression(scan)
    blocks += [_numeric(scan), _cost(scan)]
    return blocks


def _what_was_run(scan: Any) -> Text:
    return _heading(words.title(scan)).append(
        "".join(f"\n{line}" for line in words.what_was_run(scan) + words.exactness(scan)),
        style="not bold",
    )


def _layers(scan: Any) -> Table:
    orders = scan.manifest["settings"]["ngrams"]
    names = {1: "tokens", 2: "bigrams", 3: "trigrams"}
    table = Table(
        header_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 1),
        caption="fires %: mean of the alive; detectors (supported); pos.: positional neurons",
        caption_justify="left",
    )
    table.add_column("layer", justify="right")
    for name in ("alive", "dead", "dead %", "proven", "fires %"):
        table.add_column(name, justify="right")
    for n in orders:
        table.add_column(names.get(n, f"{n}-grams"), justify="right")
    table.add_column("pos.", justify="right")
    detected = {n: _columns(scan.detected(n)) for n in orders}
    positional = np.bincount(
        np.array(_columns(scan.positional())["layer"], dtype=np.int64),
        minlength=scan.n_model_layers,
    )
    dead, frequency = scan.dead, scan.frequency
    for row, layer in enumerate(scan.layers):
        alive = ~dead[row]
        mean = 100 * frequency[row][alive].mean() if alive.any() else float("nan")
        cells = [
            str(layer),
            f"{int(alive.sum()):,}",
            f"{int(dead[row].sum()):,}",
            f"{100 * dead[row].mean():.1f}",
            f"{int(scan.provably_dead[row].sum()):,}",
            f"{mean:.2f}",
        ]
        cells += [
            f"{detected[n]['detectors'][row]:,} ({detected[n]['supported'][row]:,})" for n in orders
        ]
        table.add_row(*cells, f"{int(positional[layer]):,}")
    return table


def _detectors(scan: Any, n: int) -> list[RenderableType]:
    judged = _columns(scan.detectors(n=n))
    found = decided(judged)
    size = len(found["layer"])
    held = int(supported(found).sum()) if size else 0
    expected = scan.expected_detectors(n)
    what = words.ngram_name(n)
    text = _heading(f"{size:,} {what} detectors, {held:,} of them supported")
    text.append(
        f"\nneurons with as many fires at random positions would make "
        f"{expected.total:,.1f} ± {expected.total_error:.1f}, "
        f"{expected.total_supported:,.1f} ± {expected.total_supported_error:.1f} of them supported",
        style="not bold",
    )
    left_open = len(judged["layer"]) - size
    if left_open:
        text.append(
            f"\n{left_open:,} more neurons may be such detectors or not: the runs that were merged do "
            "not list all of their n-grams",
            style="not bold",
        )
    lower = int(covering.lower_half(found["layer"], scan.n_model_layers).sum()) if size else 0
    text.append(f"\nin the lower half of the layers: {lower:,}", style="not bold")
    blocks: list[RenderableType] = [text]
    if not size:
        return blocks
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2))
    table.add_column("neuron", justify="right")
    table.add_column("fires", justify="right")
    table.add_column("support %", justify="right")
    table.add_column("detects")
    support = np.array(found["support"]) / np.maximum(found["ngram_fires"], 1)
    order = sorted(range(size), key=lambda i: (-found["support"][i], found["layer"][i]))
    for i in order[:MOST_DETECTORS]:
        strings = found["strings"][i] or [str(ids) for ids in found["covered"][i]]
        shown = "  ".join(visible(string) for string in strings[:MOST_NGRAMS])
        more = len(strings) - MOST_NGRAMS
        table.add_row(
            f"{found['layer'][i]}.{found['neuron'][i]}",
            f"{found['fires'][i]:,}",
            f"{100 * support[i]:.0f}",
            Text(shown + (f"  and {more} more" if more > 0 else ""), overflow="ellipsis"),
        )
    blocks.append(table)
    if size > MOST_DETECTORS:
        blocks.append(Text(f"... and {size - MOST_DETECTORS:,} more", style="dim"))
    return blocks


def _positional(scan: Any) -> list[RenderableType]:
    found = _columns(scan.positional())
    size = len(found["layer"])
    text = _heading(f"{size:,} positional neurons (I > 0.05 nats)")
    text.append("".join(f"\n{line}" for line in words.positional_caveat(scan)), style="not bold")
    kinds: dict[str, int] = {}
    for kind, strength in zip(found["type"], found["strength"], strict=True):
        if kind is not None:
            kinds[f"{strength} {kind}"] = kinds.get(f"{strength} {kind}", 0) + 1
    if kinds:
        listed = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        text.append(f"\n{listed}", style="not bold")
    order = sorted(range(size), key=lambda i: -found["mi"][i])[:5]
    if order:
        best = ", ".join(
            f"{found['layer'][i]}.{found['neuron'][i]} ({found['mi'][i]:.2f})" for i in order
        )
        text.append(f"\nmost: {best}", style="not bold")
    return [text]


def _suppression(scan: Any) -> list[RenderableType]:
    shares = scan.suppression_shares(1, lower_half=True)
    number = int(shares["detectors"][0])
    text = _heading("Do token detectors push their own tokens down?")
    if not number:
        text.append("\nno token detector in the lower half of the layers to ask", style="not bold")
        return [text]
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2))
    table.add_column(f"share of {number:,} detectors (lower half)")
    for name in ("own triggers", "random tokens", "tokens as frequent"):
        table.add_column(name, justify="right")
    for i, criterion in enumerate(shares["criterion"]):
        said = {"mean": "mean score < 0", "majority": "most scores < 0", "all": "all scores < 0"}
        measure = "" if shares["measure"][i] == "raw" else ", centred"
        table.add_row(
            said[criterion] + measure,
            *(
                f"{100 * suppressing_share(shares, who, i):.0f} %"
                for who in ("triggers", "random", "matched")
            ),
        )
    return [text, table]


def _numeric(scan: Any) -> Text:
    mode, flips, *classes = words.numeric(scan)
    return _heading(mode).append("\n".join([flips, *classes]), style="not bold")


def _cost(scan: Any) -> Text:
    return Text(f"\n{words.cost(scan)}")


def neuron(scan: Any, name: str) -> list[RenderableType]:
    """Return everything known of one neuron."""
    found = scan.neuron(name)
    said = words.role(**{key: found[key] for key in words.role.__annotations__ if key != "return"})
    text = _heading(f"neuron {found['layer']}.{found['neuron']}: {said}")
    percent = 100 * found["frequency"]
    text.append("\n" + TEMPLATES["fires"].format(percent=percent, **found), style="not bold")
    domains = ", ".join(
        TEMPLATES["domain"].format(domain=domain, percent=100 * share)
        for domain, share in found["domain_frequency"].items()
    )
    text.append(f"\nby domain: {domains}", style="not bold")
    text.append("\n" + TEMPLATES["bounds"].format(**found), style="not bold")
    blocks: list[RenderableType] = [text]
    for n, rows in found["ngrams"].items():
        blocks += _listed_ngrams(found, n, rows)
    blocks += _curve(scan, found)
    for side in ("promoted", "suppressed"):
        tokens = "  ".join(
            TEMPLATES["token_score"].format(token=visible(token), score=score)
            for token, score in found[side]
        )
        blocks.append(_heading(side).append(f"\n{tokens}", style="not bold"))
    if found["triggers"]:
        triggers = "".join(
            "\n" + TEMPLATES["trigger"].format(**{**row, "token": visible(row["string"])})
            for row in found["triggers"][:MOST_NGRAMS]
        )
        blocks.append(_heading(TEMPLATES["triggers"]).append(triggers, style="not bold"))
    if found["contexts"]:
        blocks.append(_heading(TEMPLATES["contexts"]))
    for context in found["contexts"][:MOST_CONTEXTS]:
        line = Text(f"{context['domain']} @{context['position']}  ", style="dim", no_wrap=True)
        line.append(visible(context["before"])[-48:], style="not dim")
        line.append(visible(context["token"]), style="bold reverse not dim")
        line.append(visible(context["after"])[:24], style="not dim")
        blocks.append(line)
    return blocks


def _listed_ngrams(found: dict[str, Any], n: int, rows: list[dict[str, Any]]) -> list[Any]:
    fires, number = found[f"ngram_fires_{n}"], found[f"coverage_{n}"]
    if not fires:
        return []
    bounds = [found.get(f"coverage_{n}_{end}", number) for end in ("least", "most")]
    head = _heading(words.covers(n, fires, number, *bounds))
    if number is None:
        head.append(TEMPLATES["at_least"], style="not bold")
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2))
    for name in ("", "fires", "of fires %", "occurs", "precision %"):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows[:MOST_NGRAMS]:
        strings = [
            visible(s) if s is not None else f"#{token}"
            for s, token in zip(row["strings"], row["tokens"], strict=True)
        ]
        table.add_row(
            Text("|".join(strings)),
            f"{row['fires']:,}",
            f"{100 * row['fires'] / fires:.1f}",
            f"{row['occurrences']:,}",
            f"{100 * row['precision']:.1f}",
        )
    return [head, table]


def _curve(scan: Any, found: dict[str, Any]) -> list[RenderableType]:
    if not scan.full_sequences:
        return []
    head = _heading(TEMPLATES["curve"].format(mi=found["mi"]))
    head.append(TEMPLATES["bias"].format(bias=found["mi_bias"]), style="not bold")
    curve = np.asarray(found["position_fires"]) / scan.full_sequences
    return [head, Text(plot(curve))]


def detecting(scan: Any, text: str) -> list[RenderableType]:
    """Return the detectors of a token or n-gram."""
    found = _columns(scan.which(text))
    if not found["layer"]:
        return [
            Text(
                TEMPLATES["not_found"].format(
                    text=repr(visible(text)), other=repr(" " + text.strip())
                )
            )
        ]
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2))
    for name in ("neuron", "n", "fires", "share of fires on its n-grams %"):
        table.add_column(name, justify="right")
    for i in range(len(found["layer"])):
        table.add_row(
            f"{found['layer'][i]}.{found['neuron'][i]}",
            str(found["n"][i]),
            f"{found['fires'][i]:,}",
            f"{100 * found['coverage'][i]:.1f}",
        )
    return [table]
