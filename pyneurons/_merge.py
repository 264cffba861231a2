"""``merge``: runs of one model over disjoint corpora as one run."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyneurons import _env
from pyneurons._progress import Progress
from pyneurons._scanned import Scan
from pyneurons.errors import InputError, IntegrityError
from pyneurons.ledger import Plan
from pyneurons.result import FORMAT, Run, columns_of
from pyneurons.run_writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyneurons.merging.parts import Layout, OpenedRun
    from pyneurons.model.source import WeightSource

_FLIPS = ("fires", "gained", "lost")


def merge(
    runs: Sequence[str | Path | Scan],
    *,
    out: str | Path,
    model: str | Path | None = None,
    allow_repeats: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: bool = True,
) -> Scan:
    """Join runs of the same model over disjoint corpora into one run, without running the model.

    Fires by neuron, domain, position, at BOS and separators, first fires, largest z and examples are
    those of one scan of all the text. N-gram statistics are, too, where the runs kept their bits
    (``keep_bits=True``), and for every neuron all of whose n-grams every run lists (see ``list_limit``
    of `scan`); the others have bounds: `Scan.exact`, `Scan.coverage_bounds`, the column ``exact`` of
    `Scan.detectors`.

    The result is the same to the byte in whatever order and grouping runs are merged: rows of the parts
    follow each other in the order of the checksums of their corpora, and domains in that of their names.

    Parameters
    ----------
    runs : sequence of path or Scan
        At least two finished runs that were scanned with ``out=``, or merged. All their checksums are
        compared.
    out : path
        The merged run. One that was stopped goes on when it is asked for again.
    model : path or str, optional
        The model of the runs, as for `scan`. With it the triggers of the merged detectors are scored in
        their updates (`Scan.suppression`), which no sum of runs tells; without it, there are no scores.
    allow_repeats : bool
        Count text again that two runs have in common.
    overwrite : bool
        Begin anew, and replace a finished run at ``out``.
    threads : int, optional
        Default: the processors this process may use.
    progress : bool
        Show progress on standard error.

    Returns
    -------
    Scan

    Raises
    ------
    InputError
        Runs of another model, options, numeric mode, machine or version, with each field that differs;
        or runs whose corpora overlap.
    IntegrityError
        A run is damaged, or contradicts another; or a counter would pass 2^63 - 1.

    Notes
    -----
    Cost: reads all runs twice and sorts what they list; an n-gram index of all tokens is in memory, 12
    to 16 bytes a token and order. Of the counters one layer at a time.
    """
    from pyneurons.merging.parts import Layout, OpenedRun, check_alike

    began = time.time()
    places = [run.directory if isinstance(run, Scan) else Path(run) for run in runs]
    if len(places) < 2:
        message = f"merge: {len(places)} runs are given, expected at least two"
        raise InputError(message)
    place = Path(out).absolute()
    if place in [path.absolute() for path in places]:
        message = f"out: {out} is one of the runs that are merged; name another directory"
        raise InputError(message)
    with ExitStack() as stack:
        shown = stack.enter_context(Progress(enabled=progress))
        writer = stack.enter_context(RunWriter(place, overwrite=overwrite))
        shown.begin("comparing checksums", len(places), unit="runs")
        opened = []
        for path in places:
            opened.append(OpenedRun.open(path))
            shown.advance(1)
        check_alike(opened)
        layout = Layout(opened)
        if not allow_repeats:
            layout.check_disjoint()
        source = None if model is None else _source(model, opened[0], stack)
        if writer.begin(_plan(layout, scored=source is not None)):
            return Scan(Run.open(place))
        merging = _Merging(layout, writer, source, threads or _env.cpu_count(), stack)
        merging.prepare()
        shown.begin("merging", len(opened[0].run.layers), unit="layers")
        for layer in opened[0].run.layers:
            if layer not in writer.committed:
                merging.layer(layer)
            shown.advance(1)
        manifest = _manifest(layout, writer, scored=source is not None)
        merging.finish()
        partial = Scan(writer.view(manifest))
        writer.append("neurons", partial.neuron_table())
        manifest["timing"] |= {"began_unix_s": began, "total_s": time.time() - began}
        return Scan(writer.finish(manifest))


def _source(model: str | Path, first: OpenedRun, stack: ExitStack) -> WeightSource:
    """Return the weights of a model, if they are those of the runs."""
    from pyneurons._scan import open_model

    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="pyneurons-"))
    source = open_model(model, Path(scratch))
    told = first.run.manifest["model"]["fingerprint"]
    if source.fingerprint() != told:
        message = (
            f"model: {model} has the fingerprint {source.fingerprint()[:12]}.., the runs are of "
        )
        message += f"{told[:12]}..; name the model that was scanned"
        raise InputError(message)
    source.expect(first.plan.identity["model"]["weights"])
    return source


def _plan(layout: Layout, *, scored: bool) -> Plan:
    """Return what the merged run is of: what all have in common, and the corpora."""
    from pyneurons.merging.parts import SCORED

    corpus, first = layout.corpus, layout.opened[0]
    alike = first.alike
    identity = dict(alike)
    identity["options"] = alike["options"] | {SCORED: scored}
    identity["corpus"] = alike["corpus"] | {
        "domains": list(corpus.domains),
        "tokens": corpus.tokens,
        "sequences": corpus.sequences,
        "sha256": corpus.sha256,
        "parts": [part.identity for part in layout.parts],
    }
    return Plan(identity, {"model": layout.parts[0].given})


class _Merging:
    """Writes one merged run, layer by layer."""

    def __init__(
        self,
        layout: Layout,
        writer: RunWriter,
        source: WeightSource | None,
        threads: int,
        stack: ExitStack,
    ) -> None:
        self.layout, self.writer, self.source, self.threads = layout, writer, source, threads
        self.settings = layout.opened[0].run.manifest["settings"]
        self.orders = tuple(layout.opened[0].run.ngram_orders)
        self.by_bits = bool(self.settings["keep_bits"])
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="pyneurons-merge")
        stack.callback(self.pool.shutdown, wait=True, cancel_futures=True)

    def prepare(self) -> None:
        """Index the n-grams of all tokens, and write the corpus."""
        from pyneurons.corpus import ngram_index
        from pyneurons.engine.record import corpus_arrays
        from pyneurons.merging.lists import NgramIds
        from pyneurons.observers.ngram import NgramObserver
        from pyneurons.observers.suppression import Baselines
        from pyneurons.observers.unembedding import Unembedding

        corpus = self.layout.corpus
        indices = [ngram_index.build(corpus, n, threads=self.threads) for n in self.orders]
        if self.by_bits:
            limit = int(self.settings["list_limit"])
            self.observers = [NgramObserver.build(corpus, i, list_limit=limit) for i in indices]
        else:
            self.ids = [NgramIds(corpus, index) for index in indices]
        if self.source is not None:
            projection = self.settings["projection"]
            embeddings = self.source.read_embeddings()
            self.unembedding = Unembedding.of(embeddings, corpus.strings, projection)
            self.baselines = Baselines.of(corpus, self.unembedding.ids)
        self.writer.write_corpus(corpus_arrays(corpus, indices))

    def layer(self, layer: int) -> None:
        """Merge one layer, check its counters and commit it."""
        from pyneurons.engine.record import (
            check,
            ngram_arrays,
            of_layer,
            trigger_scores,
            write_examples,
            write_ngrams,
        )
        from pyneurons.merging.bits import MergedBits, counted_ngrams
        from pyneurons.merging.counters import NGRAM_FIRES, check_equal, merged_counters
        from pyneurons.merging.examples import merged_examples
        from pyneurons.merging.lists import merged_ngrams

        layout, writer = self.layout, self.writer
        arrays = merged_counters(layout, layer)
        ngram_fires = {n: arrays.pop(NGRAM_FIRES.format(n)) for n in self.orders}
        if self.by_bits:
            bits = MergedBits(layout, layer)
            ngrams = counted_ngrams(bits, arrays["fires"], self.observers, self.threads)
        else:
            merged = {n: merged_ngrams(layout, layer, ids, n) for n, ids in self._ids()}
            ngrams = {n: found.counts for n, found in merged.items()}
        check(layer, arrays, ngrams, layout.corpus.tokens)
        for n, counts in ngrams.items():
            if (counts.ngram_fires != ngram_fires[n]).any():
                message = (
                    f"layer {layer}: the bits of the runs give another A_{n} than their counters"
                )
                raise IntegrityError(message)
            arrays |= ngram_arrays(counts)
            if not self.by_bits:
                arrays |= merged[n].arrays()
            write_ngrams(writer, self.orders, layer, counts)
        write_examples(writer, layout.corpus, layer, merged_examples(layout, layer))
        tables = [one.run.table("vocabulary", layer=layer) for one in layout.opened]
        check_equal(layout, tables, f"layer {layer}: the vocabulary scores")
        writer.append("vocabulary", columns_of(tables[0]), layer)
        if self.source is not None:
            given = self.source.read_fc2(layer), ngrams, self.unembedding, self.baselines
            scores = trigger_scores(*given, self.pool)
            writer.append("suppression", of_layer(layer, scores), layer)
        writer.write_layer(layer, arrays)
        if self.by_bits:
            writer.write_bits(layer, layout.corpus.tokens, bits)
        writer.commit_layer(layer)

    def finish(self) -> None:
        """Write what is of no layer."""
        from pyneurons.engine.record import write_tokens

        write_tokens(self.writer, self.layout.corpus)

    def _ids(self) -> Any:
        return zip(self.orders, self.ids, strict=True)


def _manifest(layout: Layout, writer: RunWriter, *, scored: bool) -> dict[str, Any]:
    """Describe the merged run as a scan is described."""
    first = next(one for one in layout.opened if layout.parts[0] in one.parts)
    told = first.run.manifest
    settings = dict.fromkeys(("max_tokens", "shuffle_seed"))  # of each part; see there
    return {
        "format": FORMAT,
        "pyneurons": version("pyneurons-scan"),
        "layers": list(first.run.layers),
        "model": told["model"] | {"given": layout.parts[0].given, "directory": None},
        "corpus": layout.corpus.manifest(),
        "settings": told["settings"] | settings,
        "numeric": told["numeric"] | {"flips": _flips(layout)},
        "merged": {
            "suppression": scored,
            "repeated_sequences": layout.repeated_sequences(),
            "parts": [part.as_dict() for part in layout.parts],
        },
        "timing": {"computed_again": sorted(writer.set_aside)},
        "environment": told["environment"],
    }


def _flips(layout: Layout) -> dict[str, Any]:
    """Add up what the samples of all runs say about flipped bits, layer by layer."""
    every = [one.run.manifest["numeric"]["flips"] for one in layout.opened]
    found: dict[str, Any] = {}
    for layer in every[0]:
        summed: dict[str, Any] = {name: sum(e[layer][name] for e in every) for name in _FLIPS}
        fires = max(1, summed["fires"])
        found[layer] = summed | {
            "gained_share": summed["gained"] / fires,
            "lost_share": summed["lost"] / fires,
        }
    return found
