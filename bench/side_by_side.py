"""A whole scan beside the programs that users run, in turns, on the same tokens.

Ours takes more tokens than theirs: a scan has costs that do not grow with them (projecting updates
onto the vocabulary, writing tables), some seconds at OPT-125m's shape, and a corpus has millions.
Records hold both ratios of time per token: of the whole call, and of the part that grows.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import pyneurons
from interleaved import Rival
from peers import TOOLS, WHY_NOT, Peer, installed
from programs import CountingHooks, Program
from pyneurons import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interleaved import Interleaved

# Stages that run on the worker threads: their seconds are summed over these.
THREADED = ("embedding", "attention", "norm", "ffn", "residual")

OWN_FORWARD = "own forward, one layer observed, no n-grams"

AFTER = ("vocabulary", "writing")
"""Stages that cost about a constant in each layer, however many tokens there are."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Rows of ids, and the file that all programs read them from."""

    rows: np.ndarray  # [S, T]
    file: Path

    @classmethod
    def write(cls, rows: np.ndarray, folder: Path) -> Tokens:
        """Keep rows in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "rows.npy", rows)
        return cls(rows, folder / "rows.npy")

    def first(self, tokens: int) -> np.ndarray:
        """Return as many rows as have that many tokens, one at least."""
        return self.rows[: max(1, tokens // self.rows.shape[1])]


class Scans:
    """Scans of one checkpoint that keep what the last one said, for the record."""

    def __init__(self, model: Path | str, corpus: Any, **options: Any) -> None:
        self.model, self.corpus = model, corpus
        self.options = {"flip_sample": 0, "progress": False} | options
        self.timings: list[dict[str, Any]] = []
        self.last: pyneurons.Scan | None = None

    def run(self, **options: Any) -> pyneurons.Scan:
        """Scan; what `pyneurons.scan` does from the first file read to the last one written."""
        self.last = pyneurons.scan(self.model, self.corpus, **(self.options | options))
        self.timings.append(self.last.manifest["timing"])
        return self.last

    def growing(self) -> float:
        """Return the seconds of the last scan without what costs a constant in each layer."""
        timing = self.timings[-1]
        constant = sum(timing["thread_s"].get(stage, 0.0) for stage in AFTER)
        return float(timing["layers_s"] + timing["thread_s"]["n-gram index"] - constant)

    def notes(self) -> dict[str, Any]:
        """Return what the engine's clock says, and how often neurons fire."""
        assert self.last is not None
        threads = self.last.manifest["plan"]["threads"]
        return by_stage(self.timings, threads) | {
            "threads": threads,
            "firing_share": float(self.last.frequency.mean()),
        }


def by_stage(timings: Sequence[Mapping[str, Any]], threads: int) -> dict[str, Any]:
    """Return medians of the engine's clock: seconds of stages, and shares of the forward pass.

    The forward pass is what is left of the layers' time without counting, n-grams and what follows
    them.
    """
    stages = {
        stage: float(np.median([timing["thread_s"].get(stage, 0.0) for timing in timings]))
        / (threads if stage in THREADED else 1)
        for stage in timings[0]["thread_s"]
    }
    layers = float(np.median([timing["layers_s"] for timing in timings]))
    forward = layers - sum(stages[stage] for stage in ("counting", "n-grams", *AFTER))
    ngrams = stages["n-grams"] + stages["n-gram index"]
    return {
        "stages_s": {name: float(f"{value:.4g}") for name, value in stages.items()},
        "forward_s": float(f"{forward:.4g}"),
        "total_s": float(np.median([timing["total_s"] for timing in timings])),
        "overhead_of_counting": stages["counting"] / forward,
        "overhead_with_ngrams": (stages["counting"] + ngrams) / forward,
    }


def agree(model: Path | str, tokens: Tokens, folder: Path, dtype: str = "float32") -> int:
    """Assert that scan and hooks count the same fires; return how many cells differ.

    In float32, where both must agree but for cells next to 0; of the layers of `observed`.
    """
    sample = Tokens.write(tokens.first(4096), folder)
    hooks = CountingHooks(pyneurons_directory(model), getattr(torch, dtype))
    layers = observed(pyneurons_directory(model))
    options = {"dtype": dtype, "context": sample.rows.shape[1], "layers": layers, "ngrams": ()}
    scan = Scans(model, sample.file, **options).run()
    difference = np.abs(scan.fires - hooks.fires(sample.rows)[list(layers)])
    assert difference.max() <= 2
    assert difference.sum() <= 1e-5 * scan.fires.size * sample.rows.size
    return int(difference.sum())


def depth_of(directory: Path) -> int:
    """Return how many layers a checkpoint has."""
    return int(json.loads((directory / "config.json").read_text())["num_hidden_layers"])


def observed(directory: Path) -> tuple[int, ...]:
    """Return the first, a middle and the last layer.

    All layers run, but each observed one costs a projection onto the vocabulary: a second or two at
    OPT-125m's shape, whatever the number of tokens.
    """
    depth = depth_of(directory)
    return tuple(sorted({0, depth // 2, depth - 1}))


def pyneurons_directory(model: Path | str) -> Path:
    """Return where the files of a model lie that pyneurons knows by name."""
    return demo.model_directory() if model == "demo" else Path(model)


def beside(
    compare: Interleaved,
    model: Path | str,
    tokens: Tokens,
    folder: Path,
    *,
    dtype: str,
    theirs: int,
    tools: Mapping[str, int],
    rounds: int,
    own_forward: bool = False,
    notes: Callable[[], Mapping[str, Any]] = dict,
    **facts: Any,
) -> None:
    """Check that scan and hooks agree, then time the scan in turns with everything else.

    Parameters
    ----------
    compare : Interleaved
    model : Path or str
        A checkpoint, or a name that pyneurons knows.
    tokens : Tokens
        What the scan takes.
    folder : Path
        For files of the sample.
    dtype : str
        Numeric mode of all.
    theirs : int
        Tokens of each program on transformers.
    tools : mapping of str to int
        Tokens of each peer.
    rounds : int
    own_forward : bool
        Also run a scan that observes the last layer alone.
    notes, facts
        Into the record.
    """
    directory, context = pyneurons_directory(model), tokens.rows.shape[1]
    differ = agree(model, tokens, folder)
    scans = Scans(model, tokens.file, dtype=dtype, context=context)
    bare = Scans(model, tokens.file, dtype=dtype, context=context)

    def forward() -> float:
        bare.run(layers=(depth_of(directory) - 1,), ngrams=())
        return bare.growing()

    with ExitStack() as stack:
        rivals = programs(directory, tokens, dtype, theirs)
        # Starting the peers takes longer than all else where nothing is timed.
        wanted = tools if compare.benchmark.enabled else {}
        rivals |= dict(peers(stack, directory, tokens, dtype, wanted))
        if own_forward:
            rivals[OWN_FORWARD] = Rival(forward, tokens.rows.size)
        compare(
            scans.run,
            tokens=tokens.rows.size,
            rivals=rivals,
            rounds=rounds,
            warm=False,
            context=context,
            dtype=dtype,
            cells_that_differ_in_float32=differ,
            growing=scans.growing,
            notes=lambda: {**scans.notes(), **notes()},
            **facts,
        )


def programs(directory: Path, tokens: Tokens, dtype: str, amount: int) -> dict[str, Rival]:
    """Return transformers alone and with counting hooks, on so many tokens."""
    rows = tokens.first(amount)
    kind = getattr(torch, dtype)
    made = {
        f"transformers {dtype}, forward alone": Program(directory, kind),
        f"transformers {dtype}, counting hooks": CountingHooks(directory, kind),
        f"transformers {dtype}, counting hooks that add floats": CountingHooks(
            directory, kind, as_float=True
        ),
    }
    for program in made.values():
        program.run(tokens.first(2048))  # the first run after loading takes twice as long
    return {name: Rival(partial(program.run, rows), rows.size) for name, program in made.items()}


def peers(
    stack: ExitStack, directory: Path, tokens: Tokens, dtype: str, amounts: Mapping[str, int]
) -> Iterator[tuple[str, Rival]]:
    """Yield the tools of `.venv-bench`, each with its answer checked; none where it is absent."""
    if not installed():
        print(WHY_NOT)
        return
    sample = tokens.first(2048)
    truth = CountingHooks(directory, getattr(torch, dtype)).fires(sample)
    for tool in TOOLS:
        if tool not in amounts:
            continue
        peer = stack.enter_context(Peer(tool, directory, dtype, tokens.file))
        fires = np.array(peer.run(len(sample))["fires"])
        difference = np.abs(fires - truth).sum()
        # nnsight runs transformers' own attention; TransformerLens another, which rounds otherwise.
        exact = dtype == "float32" or tool.startswith("nnsight")
        assert difference <= (1e-5 * truth.size * sample.size if exact else 0.02 * truth.sum())
        rows = tokens.first(amounts[tool])
        peer.run(len(rows))  # TransformerLens speeds up over its first calls
        yield (
            f"{tool}, {dtype} ({peer.version})",
            Rival(partial(peer.seconds, len(rows)), rows.size),
        )
