"""What is said of a run and of a neuron, for the terminal and the page alike.

Sentences with numbers are templates of `str.format`; the page fills the same ones in the browser,
which knows the formats ``,``, ``.2f`` and ``+.2f``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pyneurons.analysis.positional import MI_THRESHOLD, MIN_SEQUENCES

MOST_NGRAMS: Final = 8
MOST_CONTEXTS: Final = 8
PAPER_CONTEXT: Final = 2048

TEMPLATES: Final = {
    "fires": "fires {fires:,} times, {percent:.3f} % of positions "
    "({bos_fires:,} at BOS, {separator_fires:,} at separators)",
    "domain": "{domain} {percent:.3f} %",
    "bounds": "z at most {z_max:.3f} here, between {z_inf:.2f} and {z_sup:.2f} on any input",
    "covers_one": "1 {what} covers 95 % of {fires:,} fires",
    "covers": "{number:,} {what}s cover 95 % of {fires:,} fires",
    "covers_between": "Between {least:,} and {most:,} {what}s cover 95 % of {fires:,} fires",
    "at_least": "; fires are at least those listed",
    "curve": "firing frequency by position, I = {mi:.4f} nats",
    "bias": " (bias {bias:.4f})",
    "token_score": "{token} {score:+.2f}",
    "trigger": "{token} {score:+.2f} (centred {centred:+.2f}), rank {place:,} of {vocabulary:,}",
    "contexts": "contexts (a sample of firing positions)",
    "triggers": "what the update does to the neuron's own triggers",
    "not_found": "no neuron detects {text}; spaces count: try {other}",
}
"""Sentences by name."""


def ngram_name(n: int) -> str:
    """Return what an n-gram is called."""
    return {1: "token", 2: "bigram", 3: "trigram"}.get(n, f"{n}-gram")


def visible(string: str | None) -> str:
    """Return a token's string with spaces and control characters made visible."""
    if string is None:
        return "?"
    out = string.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in out)


def plain(value: Any) -> str:
    """Return a number, or a dict of numbers, of a manifest."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {plain(v)}" for k, v in value.items()) + ")"
    return f"{value:,}" if isinstance(value, int) else str(value)


def role(
    *,
    role: int | None,
    dead: bool,
    provably_dead: bool,
    provably_on: bool,
    positional: bool | None,
    positional_type: str | None,
    positional_strength: str | None,
) -> str:
    """Return in words what a neuron is.

    Parameters
    ----------
    role : int or None
        The smallest n for which it is a detector, 0 for none, None where that is left open.
    dead, provably_dead, provably_on : bool
    positional : bool or None
    positional_type, positional_strength : str or None
    """
    if dead:
        said = ["dead, proven" if provably_dead else "dead"]
    elif role is None:
        said = ["detector or not: the runs that were merged do not list all of its n-grams"]
    else:
        said = [f"{ngram_name(role)} detector" if role else "no detector"]
    if provably_on:
        said.append("always on, proven")
    if positional:
        said.append(f"positional: {positional_strength} {positional_type}")
    return ", ".join(said)


def covers(n: int, fires: int, number: int | None, least: int = 0, most: int = 0) -> str:
    """Return how many n-grams hold 95 % of the fires; ``number`` None: known in bounds only."""
    name = "covers_between" if number is None else "covers_one" if number == 1 else "covers"
    return TEMPLATES[name].format(
        what=ngram_name(n), fires=fires, number=number, least=least, most=most
    )


def title(scan: Any) -> str:
    """Return the first line about a run."""
    width = scan.manifest["model"]["ffn_dim"]
    return f"{scan.name}: {len(scan.layers)} of {scan.n_model_layers} layers x {width} neurons"


def what_was_run(scan: Any) -> list[str]:
    """Return model, corpus, what was asked for and what was left out, a line each."""
    manifest = scan.manifest
    lines = [
        (
            f"{scan.tokens:,} tokens run ({scan.corpus_tokens:,} of the corpus, the rest BOS and "
            f"separators) in {scan.sequences:,} sequences, {scan.full_sequences:,} of them full "
            f"({manifest['settings']['context']} positions)"
        )
    ]
    asked = manifest["settings"].get("max_tokens")
    if asked is not None:
        line = f"requested: {plain(asked)} tokens"
        if not isinstance(asked, dict) and asked > scan.tokens:
            line += f", {asked - scan.tokens:,} more than were run"
        lines.append(line)
    domains = ", ".join(f"{name} {tokens:,}" for name, tokens in scan.domain_tokens.items())
    lines.append(f"domains: {domains}")
    if scan.parts:
        again = manifest["merged"]["repeated_sequences"]
        said = f"merged from {len(scan.parts)} scans"
        said += f"; sequences that are in more than one: {again:,}" if again else ""
        lines.append(said)
    left_out = {
        name.replace("_", " "): value
        for name, value in manifest["corpus"].get("left_out", {}).items()
        if value
    }
    said = ", ".join(f"{name} {plain(value)}" for name, value in left_out.items()) or "nothing"
    lines.append(f"left out: {said}")
    return lines


def exactness(scan: Any) -> list[str]:
    """Return which numbers are exact, which are bounds, and what is left open."""
    lines = ["exact: fires, by domain and position"]
    whole, open_ = [], []
    for n in scan.manifest["settings"]["ngrams"]:
        exact = scan.exact(n)
        missing = int(exact.size - np.count_nonzero(exact))
        if missing:
            open_.append(f"of {missing:,} neurons the {ngram_name(n)}s in bounds only")
        else:
            whole.append(f"{ngram_name(n)}s")
    if whole:
        lines[0] += f", {', '.join(whole)}"
    lines += open_
    if scan.full_sequences < MIN_SEQUENCES:
        lines.append(
            f"positional neurons are left open: {scan.full_sequences} full sequences, it takes "
            f"{MIN_SEQUENCES}"
        )
    if not scan.has_suppression:
        lines.append("scores of triggers are not known: merged without the model")
    return lines


def numeric(scan: Any) -> list[str]:
    """Return the numeric mode and what it changes, the mode first."""
    told = scan.manifest["numeric"]
    first = f"numeric mode {told['mode']}"
    flips = told["flips"]
    if not flips:
        why = "none to count" if told["mode"] == "float32" else "not counted (flip_sample=0)"
        return [first, f", flips: {why}"]
    gained = max(flips.values(), key=lambda layer: float(layer["gained_share"]))
    lost = max(flips.values(), key=lambda layer: float(layer["lost_share"]))
    lines = [
        first,
        (
            f"; against float32 on the first tokens, worst layer: fires gained "
            f"{100 * gained['gained_share']:.2f} %, lost {100 * lost['lost_share']:.2f} % of fires"
        ),
    ]
    for name in ("dead", "detectors"):
        if not all(f"{name}_gained" in layer for layer in flips.values()):
            continue  # which neurons change class on the samples of several runs, no sum tells
        plus = sum(layer[f"{name}_gained"] for layer in flips.values())
        minus = sum(layer[f"{name}_lost"] for layer in flips.values())
        lines.append(f"on that sample {name}: {plus} more, {minus} fewer than in float32")
    return lines


def positional_caveat(scan: Any) -> list[str]:
    """Return what limits the positional neurons of a run."""
    lines = []
    if scan.full_sequences < MIN_SEQUENCES:
        lines.append(
            f"only {scan.full_sequences} full sequences: their class stays open below "
            f"{MIN_SEQUENCES}"
        )
    context = scan.manifest["settings"]["context"]
    if context != PAPER_CONTEXT:
        lines.append(
            f"the threshold ({MI_THRESHOLD} nats) was set at {PAPER_CONTEXT} positions, "
            f"this context has {context}"
        )
    return lines


def cost(scan: Any) -> str:
    """Return the time and memory that a run took."""
    timing, plan = scan.manifest["timing"], scan.manifest.get("plan")
    if plan is None:
        return f"{timing['total_s']:.0f} s to merge"
    peak = timing.get("peak_resident_bytes")
    return (
        f"{timing['total_s']:.0f} s in all, {timing['tokens_per_s']:,.0f} tokens/s through the "
        f"layers; peak memory {(peak or 0) / 1e6:,.0f} MB "
        f"(predicted {plan['predicted_peak_bytes'] / 1e6:,.0f}); residual in {plan['residual']}, "
        f"bits in {plan['mask']}"
    )
