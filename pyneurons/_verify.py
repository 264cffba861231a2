"""What stands at a run's place, and whether it is whole: every checksum, every conservation law.

Reads results on a laptop: no torch, no model, no corpus.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons import durable
from pyneurons._scanned import Scan
from pyneurons.conservation import broken_laws
from pyneurons.covering import covering_number
from pyneurons.errors import InputError, IntegrityError, PyneuronsError
from pyneurons.ledger import PLAN, Ledger, Plan, fingerprint
from pyneurons.result import (
    Run,
    final_files,
    read_sums,
    unfinished,
    wrong_sums,
)

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES: Final = 16
"""Firing positions that are kept of a neuron, as far as it has so many."""


@dataclass
class Standing:
    """An unfinished run, as its ledger tells."""

    folder: Path
    plan: Plan | None
    layers: list[int]
    done: list[int]
    boundary: int  # the layer with which the forward pass would go on
    owner: str | None  # the process that writes it now
    wrong: dict[str, str]


@dataclass
class Verified:
    """What `verify` found."""

    finished: bool
    files: int = 0
    statements: int = 0
    problems: list[str] = field(default_factory=list)

    def hold(self, statement: str, true: bool) -> None:
        """Count a statement; note it where it does not hold."""
        self.statements += 1
        if not true:
            self.problems.append(statement)


def standing(directory: Path, *, whole: bool = False) -> Standing | None:
    """Return what there is of an unfinished run, or None; ``whole``: with every checksum."""
    folder = unfinished(directory)
    if not folder.is_dir():
        return None
    wrong: dict[str, str] = {}
    try:
        plan = Plan.read(folder)
        print_ = plan.fingerprint
    except IntegrityError as error:
        if (folder / PLAN).exists():
            wrong[PLAN] = str(error)
        plan, print_ = None, ""
    entries, damaged = Ledger(folder, print_).read(whole=whole)
    if plan is not None:
        wrong |= damaged
    layers = list(plan.identity["options"]["layers"]) if plan is not None else []
    done = sorted(int(e.facts["layer"]) for n, e in entries.items() if n.startswith("layer-"))
    missing = [layer for layer in layers if layer not in done]
    kept = [int(e.facts["layer"]) for n, e in entries.items() if n.startswith("residual-")]
    return Standing(
        folder=folder,
        plan=plan,
        layers=layers,
        done=done,
        boundary=max([0, *(layer for layer in kept if missing and layer <= missing[0])]),
        owner=durable.owner_of(folder / durable.LOCK) if durable.is_locked(folder) else None,
        wrong=wrong,
    )


def verify(directory: Path) -> Verified:
    """Check a run, finished or not.

    Raises
    ------
    InputError
        If there is no run.
    """
    if not (directory / "manifest.json").exists():
        there = standing(directory, whole=True)
        if there is None:
            message = f"{directory} is not a run: it has no manifest.json"
            raise InputError(message)
        files = len(Ledger(there.folder, "").entry_files())
        problems = [f"{name}: {how}" for name, how in there.wrong.items()]
        return Verified(finished=False, files=files, problems=problems)
    found = Verified(finished=True)
    try:
        _check_files(directory, found)
        if not found.problems:
            _check_numbers(Run.open(directory), found)
    except PyneuronsError as error:
        found.problems.append(str(error))
    except (KeyError, ValueError, TypeError) as error:
        found.problems.append(f"{directory}: {type(error).__name__} {error}")
    return found


def _check_files(directory: Path, found: Verified) -> None:
    sums = read_sums(directory)
    wrong = wrong_sums(directory, sums)
    found.files = len(sums) + 1
    found.problems += [f"{name}: missing, or its checksum does not match" for name in wrong]
    if "manifest.json" in wrong or "manifest.json" not in sums:
        found.hold("SHA256SUMS lists manifest.json", "manifest.json" in sums)
        return
    expected = set(final_files(Run.open(directory).manifest))
    if PLAN not in sums:  # a run that was saved from a temporary one
        expected.discard(PLAN)
    else:
        identity = Plan.read(directory)
        said = durable.unseal(directory / PLAN)["fingerprint"]
        found.hold(
            "plan.json has the fingerprint of what it holds", fingerprint(identity.identity) == said
        )
    missing = expected - set(sums)
    found.hold(f"SHA256SUMS lists every file (it lacks {sorted(missing)})", not missing)


def _check_numbers(run: Run, found: Verified) -> None:
    scan = Scan(run)
    _check_corpus(run, scan, found)
    for layer in run.layers:
        _check_layer(run, layer, found)
    stored, made = scan.neurons, scan.neuron_table()
    for name in made.column_names:
        found.hold(
            f"neurons.parquet agrees with the counters in {name!r}", _equal(stored, made, name)
        )
    tokens = np.bincount(scan.ids, minlength=len(run.strings))
    counts = run.table("tokens").column("count").to_numpy()
    found.hold("tokens.parquet counts the ids of the corpus", np.array_equal(tokens, counts))


def _equal(stored: Any, made: Any, name: str) -> bool:
    if name not in stored.column_names or stored.num_rows != made.num_rows:
        return False
    one, other = stored.column(name).combine_chunks(), made.column(name).combine_chunks()
    if np.dtype("float64") == getattr(other.type, "to_pandas_dtype", lambda: None)():
        # Logarithms may differ in the last digit between processors.
        return bool(
            np.allclose(one.to_numpy(), other.to_numpy(), rtol=1e-9, atol=1e-12, equal_nan=True)
        )
    return bool(one.equals(other))


def _check_corpus(run: Run, scan: Scan, found: Verified) -> None:
    ids, starts = scan.ids, scan.starts
    owner = run.corpus_array("sequence_domain").astype(np.int64)
    said = run.manifest["corpus"]
    found.hold(
        "the last sequence ends with the last id", int(starts[-1]) == ids.size == said["tokens"]
    )
    found.hold("every sequence is of one domain", owner.size == starts.size - 1)
    lengths = np.diff(starts)
    by_domain = np.bincount(owner, weights=lengths, minlength=len(run.domains)).astype(np.int64)
    found.hold(
        "domain_tokens are those of the sequences",
        scan.domain_tokens == dict(zip(run.domains, by_domain.tolist(), strict=True)),
    )
    digest = hashlib.sha256(ids.astype("<u4").tobytes())
    digest.update(starts.astype("<i8").tobytes())
    digest.update(owner.astype("<i4").tobytes())
    digest.update("\0".join(run.domains).encode())
    found.hold("the corpus has the checksum of its manifest", digest.hexdigest() == said["sha256"])
    for n in run.ngram_orders:
        occurrences, number = run.spectrum(n)
        held = int((occurrences * number).sum()) == scan.ngram_positions(n)
        found.hold(f"the {n}-gram spectrum adds up to the positions of {n}-grams", held)


def _check_layer(run: Run, layer: int, found: Verified) -> None:
    names = ["fires", "bos_fires", "separator_fires", "domain_fires", "partial_fires", "first_fire"]
    names += ["position_fires", "z_max", "provably_dead", "provably_on"]
    arrays = {name: run.layer_array(layer, name) for name in names}
    orders = run.ngram_orders
    histograms = {
        n: (run.histogram(layer, n), run.layer_array(layer, f"ngram_fires_{n}")) for n in orders
    }
    tokens = int(run.manifest["corpus"]["tokens"])
    for statement, wrong in broken_laws(arrays, histograms, tokens).items():
        neuron = int(np.argwhere(wrong)[0][-1])
        found.problems.append(f"layer {layer}, neuron {neuron}: '{statement}' does not hold")
    found.statements += 9 + 3 * len(orders)
    for n, (histogram, total) in histograms.items():
        covering = covering_number(*histogram, total)
        same = np.array_equal(covering, run.layer_array(layer, f"coverage_{n}"))
        found.hold(f"layer {layer}: covering numbers follow from the {n}-gram histogram", same)
        if run.in_bounds:
            _check_bounds(run, layer, n, total, covering, found)
        rows = run.table("ngrams", layer=layer, n=n)
        neuron, fires = (rows.column(name).to_numpy() for name in ("neuron", "fires"))
        listed = np.zeros(run.n_neurons, dtype=np.int64)
        np.add.at(listed, neuron, fires)
        complete = np.zeros(run.n_neurons, dtype=np.bool_)
        complete[neuron] = rows.column("complete").to_numpy(zero_copy_only=False)
        right = np.where(complete, listed == total, listed <= total)
        found.hold(
            f"layer {layer}: the listed {n}-grams hold the fires that they name", bool(right.all())
        )
    examples = run.table("examples", layer=layer).column("neuron").to_numpy()
    kept = np.bincount(examples, minlength=run.n_neurons)
    least = np.minimum(arrays["fires"], EXAMPLES)
    found.hold(f"layer {layer}: each neuron has its examples", np.array_equal(kept, least))
    if run.manifest["settings"]["keep_bits"]:
        summed = run.bits(layer).sum(axis=0)
        found.hold(
            f"layer {layer}: the bits add up to the fires", np.array_equal(summed, arrays["fires"])
        )


def _check_bounds(
    run: Run, layer: int, n: int, total: np.ndarray, covering: np.ndarray, found: Verified
) -> None:
    """Check what a merged run knows in bounds."""
    exact = run.layer_array(layer, f"exact_{n}")
    numbers = {}
    for name in ("aligned", "disjoint"):
        offsets, count, number = histogram = run.histogram(layer, n, name)
        summed = np.concatenate([[0], np.cumsum(count * number)])
        held = summed[offsets[1:]] - summed[offsets[:-1]]
        statement = f"layer {layer}: the {name} counts of {n}-grams add up to A_{n}"
        found.hold(statement, np.array_equal(held, total))
        numbers[name] = covering_number(*histogram, total)
    inside = (numbers["aligned"] <= covering) & (covering <= numbers["disjoint"])
    found.hold(
        f"layer {layer}: covering numbers of {n}-grams lie in their bounds", bool(inside.all())
    )
    rows = run.table("ngrams", layer=layer, n=n)
    neuron = rows.column("neuron").to_numpy()
    least, most = (rows.column(name).to_numpy() for name in ("fires", "fires_most"))
    right = (least <= most) & (~exact[neuron] | (least == most))
    found.hold(f"layer {layer}: fires on {n}-grams lie in their bounds", bool(right.all()))
