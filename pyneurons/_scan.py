"""``scan`` wires the parts; ``Scan`` is the face of a result."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
import weakref
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons import _env
from pyneurons._progress import Progress
from pyneurons.analysis import coverage as covering
from pyneurons.analysis import dead as dead_neurons
from pyneurons.analysis import detectors as detection
from pyneurons.analysis import ensemble
from pyneurons.analysis import positional as positions
from pyneurons.analysis import suppression as suppressing
from pyneurons.covering import DEFAULT_SHARE, covering_number, exact_share
from pyneurons.errors import InputError
from pyneurons.result import FORMAT, Run, RunWriter, columns_of, table, token_strings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction

    import pyarrow as pa

    from pyneurons.analysis.detectors import ExpectedDetectors
    from pyneurons.model.checkpoint import Checkpoint

DTYPES = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu")
DEMO = "demo"
UNTRAINED = "demo-untrained"
FLIP_SAMPLE = 16_384


def scan(
    model: str | Path,
    corpus: Any,
    *,
    context: int | None = None,
    packing: str = "pack",
    ngrams: Sequence[int] = (1, 2, 3),
    layers: Sequence[int] | None = None,
    max_tokens: int | Mapping[str, int] | None = None,
    memory: float | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    text_field: str = "text",
    domain_field: str | None = None,
    document_separator: str | None = None,
    shuffle_seed: int | None = None,
    errors: str = "strict",
    list_limit: int = 200,
    coverage: float | str | Fraction = DEFAULT_SHARE,
    precision: float | str | Fraction = DEFAULT_SHARE,
    flip_sample: int = FLIP_SAMPLE,
    projection: str = "dot",
    residual: str | None = None,
    keep_bits: bool = False,
) -> Scan:
    """Run a model over a corpus and count, exactly, what every feed-forward neuron does.

    A neuron fires at a position when ``z = fc1(x) + b1 > 0`` there.

    Parameters
    ----------
    model : str or Path
        A checkpoint directory, a Hugging Face id (local cache, or download), ``"demo"``, or
        ``"demo-untrained"`` (the demo's shape with random weights, as a control).
    corpus
        A path or glob (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .npy, .bin), an iterable of
        str or of token-id lists, a ``datasets.Dataset``, a dict {domain: any of these}, or
        ``"demo"``.
    context : int, optional
        Positions of a full sequence, BOS included. Default: the model's maximum.
    packing : {"pack", "document"}
        Documents joined by separators, or each document its own sequences.
    ngrams : sequence of int
        The n for which n-gram statistics are made; ``()`` for none.
    layers : sequence of int, optional
        Absolute ids of the layers to observe. Default: all.
    max_tokens : int or dict of int, optional
        Positions to run, split evenly over the domains, or given for each.
    memory : number of bytes or str, optional
        Peak resident memory of the process, such as ``"2GB"``. Default: what the process has now
        and 60 % of what is free.
    device : {"auto", "cpu"}
    dtype : {"auto", "float32", "bfloat16"}
        Numeric mode; ``"auto"`` is bfloat16 where the processor multiplies it, else float32.
    backend : str
        Of the ops: ``"auto"`` or a name of `pyneurons.backends.names`.
    threads : int, optional
        Default: the processors this process may use. Results do not depend on it.
    out : path, optional
        Run directory. Default: a temporary one that lives as long as the result.
    overwrite : bool
        Replace a run at ``out``; only when the new one is complete.
    progress : bool
        Show progress on standard error.
    text_field, domain_field : str
        Column or JSON path of the text and of the domain.
    document_separator : str, optional
        Splits a .txt file into documents.
    shuffle_seed : int, optional
        With ``max_tokens``: choose sequences at random instead of the first ones.
    errors : {"strict", "replace"}
        What to do about invalid UTF-8.
    list_limit : int
        Neurons with a covering number up to this keep the list of all their n-grams.
    coverage, precision : share
        Of definitions 3 and 4, for what is stored (tables can be swept afterwards).
    flip_sample : int
        Tokens repeated in float32 to count flipped bits when the mode is not float32; 0: none.
    projection : {"dot", "cosine", "final_norm"}
        How updates are projected onto the vocabulary.
    residual : {"memory", "file"}, optional
        Where the residual stream is kept. Default: as the memory allows.
    keep_bits : bool
        Keep the bits of every layer in the run (N * F / 8 bytes a layer).

    Returns
    -------
    Scan

    Raises
    ------
    InputError
        Bad arguments or files, before any compute.
    ResourceError
        The memory given is predicted not to suffice.
    IntegrityError
        Non-finite values, or counters that contradict each other.
    """
    from pyneurons import backends, demo
    from pyneurons import corpus as corpora
    from pyneurons.engine.plan import parse_memory
    from pyneurons.engine.run import Engine, Settings
    from pyneurons.model.checkpoint import Checkpoint, load_tokenizer, resolve
    from pyneurons.observers.weights import PROJECTIONS

    began = time.time()
    _choice("device", device, DEVICES)
    _choice("dtype", dtype, DTYPES)
    _choice("projection", projection, PROJECTIONS)
    _choice("residual", residual, (None, "memory", "file"))
    orders = _orders(ngrams)
    share, exact = exact_share(coverage, "coverage"), exact_share(precision, "precision")
    if list_limit < 1 or flip_sample < 0 or (threads is not None and threads < 1):
        message = f"list_limit={list_limit}, flip_sample={flip_sample}, threads={threads}: "
        message += "expected list_limit >= 1, flip_sample >= 0, threads >= 1"
        raise InputError(message)
    memory_bytes = parse_memory(memory)
    chosen = backends.resolve(None if backend == "auto" else backend)

    with tempfile.TemporaryDirectory(prefix="pyneurons-") as scratch:
        if model == DEMO:
            directory = demo.model_directory()
        elif model == UNTRAINED:
            directory = demo.untrained_twin(Path(scratch) / "untrained")
        else:
            directory = resolve(model)
        checkpoint = Checkpoint(directory)
        config = checkpoint.config
        context = config.max_position_embeddings if context is None else context
        if not 2 <= context <= config.max_position_embeddings:
            message = f"context: {context} is not between 2 and {config.max_position_embeddings}, "
            message += "the model's maximum"
            raise InputError(message)
        wanted = _layers(layers, config.num_hidden_layers)
        kept = ExitStack()
        place = _temporary_run(kept) if out is None else Path(out).absolute()
        with (
            kept,
            Progress(enabled=progress) as shown,
            RunWriter(place, overwrite=overwrite) as writer,
        ):
            tokens = corpora.read(
                demo.demo_corpus() if isinstance(corpus, str) and corpus == DEMO else corpus,
                load_tokenizer(directory),
                context=context,
                packing=packing,
                vocab_size=config.vocab_size,
                text_field=text_field,
                domain_field=domain_field,
                document_separator=document_separator,
                max_tokens=max_tokens,
                shuffle_seed=shuffle_seed,
                errors=errors,
                progress=_reading(shown),
                scratch=Path(scratch),
            )
            settings = Settings(
                layers=wanted,
                ngrams=orders,
                mode=_mode(dtype),
                backend=chosen.name,
                threads=threads or _env.cpu_count(),
                memory_bytes=memory_bytes,
                list_limit=list_limit,
                share=share,
                precision=exact,
                flip_sample=flip_sample,
                keep_bits=keep_bits,
                projection=projection,
                residual=residual,
            )
            engine = Engine(checkpoint, tokens, settings, writer, shown)
            outcome = engine.run()
            manifest = {
                "format": FORMAT,
                "pyneurons": version("pyneurons-scan"),
                "layers": list(wanted),
                "model": _model_entry(model, checkpoint),
                "corpus": tokens.manifest(),
                "settings": {
                    "context": tokens.context,
                    "packing": tokens.packing,
                    "ngrams": list(orders),
                    "list_limit": list_limit,
                    "coverage": str(share),
                    "precision": str(exact),
                    "projection": projection,
                    "flip_sample": flip_sample,
                    "keep_bits": keep_bits,
                    "shuffle_seed": shuffle_seed,
                },
                "numeric": {
                    "mode": settings.mode,
                    "residual": "float32",
                    "flips": outcome["flips"],
                },
                "plan": outcome["plan"],
                "timing": outcome["timing"] | {"began_unix_s": began},
                "environment": _environment(chosen.name, chosen.isa),
            }
            _write_tokens(writer, tokens.strings, engine.token_counts)
            partial = Scan(writer.view(manifest))
            writer.append("neurons", columns_of(partial.neuron_table()))
            manifest["timing"]["total_s"] = time.time() - began
            run = writer.finish(manifest)
            tokens.close()
            finished = Scan(run)
            # A temporary run directory lives as long as the result that reads it.
            weakref.finalize(finished, kept.pop_all().close)
    return finished


def load(directory: str | Path) -> Scan:
    """Read a run directory; needs no torch.

    Raises
    ------
    InputError
        If the directory is not a finished run of a format this version reads.
    """
    return Scan(Run.open(directory))


def _choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        message = f"{name}: {value!r} is not one of {', '.join(map(repr, choices))}"
        raise InputError(message)


def _orders(ngrams: Sequence[int]) -> tuple[int, ...]:
    orders = tuple(sorted({int(n) for n in ngrams}))
    if any(not 1 <= n <= 8 for n in orders):
        message = f"ngrams: {list(ngrams)} has an order outside 1 to 8"
        raise InputError(message)
    return orders


def _layers(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(depth))
    wanted = tuple(sorted({int(layer) for layer in layers}))
    if not wanted or wanted[0] < 0 or wanted[-1] >= depth:
        message = f"layers: {list(layers)} is not a list of layers between 0 and {depth - 1}"
        raise InputError(message)
    return wanted


def _mode(dtype: str) -> str:
    if dtype != "auto":
        return dtype
    return "bfloat16" if _env.multiplies_bfloat16() else "float32"


def _temporary_run(kept: ExitStack) -> Path:
    """Make a directory that goes when ``kept`` is closed; return the run's place in it."""
    home = tempfile.mkdtemp(prefix="pyneurons-run-")
    kept.callback(shutil.rmtree, home, ignore_errors=True)
    return Path(home) / "run"


def _reading(shown: Progress) -> Any:
    begun = False

    def report(done: int, total: int | None, tokens: int) -> None:
        nonlocal begun
        if not begun:
            shown.begin("reading the corpus", total, unit="bytes")
            begun = True
        shown.reach(done, f"{tokens:,} tokens read")

    return report


def _model_entry(model: str | Path, checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "name": str(model) if str(model) in (DEMO, UNTRAINED) else Path(str(model)).name,
        "given": str(model),
        "directory": str(checkpoint.directory),
        "fingerprint": checkpoint.fingerprint(),
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "n_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_dim": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "do_layer_norm_before": config.do_layer_norm_before,
    }


def _environment(backend: str, isa: str | None) -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "backend": backend,
        "isa": isa,
    }


def _write_tokens(
    writer: RunWriter, strings: Sequence[str | None], token_counts: np.ndarray
) -> None:
    size = token_counts.size
    known = list(strings[:size]) + [None] * (size - len(strings))
    writer.append(
        "tokens",
        {"id": np.arange(size, dtype=np.int32), "string": known, "count": token_counts},
    )


class Scan:
    """A finished scan: arrays, tables, and one neuron at a time.

    Arrays have one row per scanned layer; ``layers`` holds the absolute ids, which methods and
    tables speak in.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._memo: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return (
            f"<Scan of {self.name}: {len(self.layers)} layers x {self._run.n_neurons} neurons, "
            f"{self.tokens:,} tokens, {self.manifest['numeric']['mode']}>"
        )

    # -- what was run --------------------------------------------------------------------------

    @property
    def manifest(self) -> dict[str, Any]:
        """Settings, model, corpus, numeric mode, plan and timing of the run."""
        return self._run.manifest

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self._run.directory

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["model"]["name"])

    @property
    def layers(self) -> list[int]:
        """Absolute ids of the scanned layers."""
        return self._run.layers

    @property
    def n_model_layers(self) -> int:
        """Layers of the model, scanned or not."""
        return int(self.manifest["model"]["n_layers"])

    def _corpus(self, name: str) -> int:
        return int(self.manifest["corpus"][name])

    @property
    def tokens(self) -> int:
        """Positions run, BOS and separators included."""
        return self._corpus("tokens")

    @property
    def corpus_tokens(self) -> int:
        """Positions run without BOS and separators."""
        return self._corpus("corpus_tokens")

    @property
    def sequences(self) -> int:
        """Sequences run."""
        return self._corpus("sequences")

    @property
    def full_sequences(self) -> int:
        """Sequences that fill the context."""
        return self._corpus("full_sequences")

    @property
    def domain_tokens(self) -> dict[str, int]:
        """Positions run of each domain, in run order."""
        return dict(self.manifest["corpus"]["domain_tokens"])

    @property
    def domain_full_sequences(self) -> dict[str, int]:
        """Full sequences of each domain."""
        lengths = np.diff(self.starts)
        owner = self._run.corpus_array("sequence_domain")
        full = np.bincount(owner[lengths == self._run.context], minlength=len(self._run.domains))
        return dict(zip(self._run.domains, full.tolist(), strict=True))

    @property
    def ids(self) -> np.ndarray:
        """Token ids in run order, domain by domain, [N]."""
        return self._run.corpus_array("ids")

    @property
    def starts(self) -> np.ndarray:
        """First row of each sequence, and N at the end, int64 [S + 1]."""
        return self._run.corpus_array("starts").astype(np.int64)

    @property
    def strings(self) -> list[str | None]:
        """The string of each token id, None where there is none."""
        return self._run.strings

    # -- arrays [L, F] -------------------------------------------------------------------------

    @property
    def fires(self) -> np.ndarray:
        """Positions at which each neuron fires, int64 [L, F]."""
        return self._run.array("fires")

    @property
    def bos_fires(self) -> np.ndarray:
        """Fires at BOS, int64 [L, F]."""
        return self._run.array("bos_fires")

    @property
    def separator_fires(self) -> np.ndarray:
        """Fires at separators, int64 [L, F]."""
        return self._run.array("separator_fires")

    @property
    def domain_fires(self) -> dict[str, np.ndarray]:
        """Fires by domain, each int64 [L, F]."""
        stacked = self._run.array("domain_fires")
        return {name: stacked[:, i] for i, name in enumerate(self._run.domains)}

    @property
    def frequency(self) -> np.ndarray:
        """Fires / tokens, float64 [L, F]."""
        return dead_neurons.frequency(self.fires, self.tokens)

    @property
    def dead(self) -> np.ndarray:
        """Neurons without a single fire, bool [L, F]."""
        return dead_neurons.dead(self.fires)

    @property
    def first_fire(self) -> np.ndarray:
        """Row of the first fire in run order, -1 when there is none, int64 [L, F]."""
        return self._run.array("first_fire")

    @property
    def z_max(self) -> np.ndarray:
        """Largest pre-activation seen, float32 [L, F]."""
        return self._run.array("z_max")

    @property
    def z_sup(self) -> np.ndarray:
        """Supremum of z over all residual vectors, float64 [L, F]."""
        return self._run.array("z_sup")

    @property
    def z_inf(self) -> np.ndarray:
        """Infimum of z over all residual vectors, float64 [L, F]."""
        return self._run.array("z_inf")

    @property
    def margin(self) -> np.ndarray:
        """Rounding margin of the bounds in the run's numeric mode, float64 [L, F]."""
        return self._run.array("margin")

    @property
    def provably_dead(self) -> np.ndarray:
        """Neurons that can fire on no input: z_sup + margin <= 0, bool [L, F]."""
        return dead_neurons.provably_dead(self.z_sup, self.margin)

    @property
    def provably_on(self) -> np.ndarray:
        """Neurons that fire on every input: z_inf - margin > 0, bool [L, F]."""
        return dead_neurons.provably_on(self.z_inf, self.margin)

    @property
    def mi(self) -> np.ndarray:
        """Mutual information of firing and position in nats, float64 [L, F] (definition 7)."""
        if "mi" not in self._memo:
            self._memo["mi"] = np.stack([self.mi_of(layer) for layer in self.layers])
        mi: np.ndarray = self._memo["mi"]
        return mi

    def mi_of(self, layer: int, domain: str | None = None) -> np.ndarray:
        """Return the mutual information of one layer, over all domains or one, float64 [F]."""
        sequences = self.full_sequences if domain is None else self.domain_full_sequences[domain]
        return positions.mutual_information(self.position_fires(layer, domain), sequences)

    def position_fires(self, layer: int, domain: str | None = None) -> np.ndarray:
        """Return fires by position over full sequences, int64 [F, T]."""
        counts = self._run.layer_array(layer, "position_fires")
        if domain is None:
            return np.ascontiguousarray(counts.sum(axis=0).T)
        if domain not in self._run.domains:
            message = f"domain {domain!r} was not scanned; domains: {self._run.domains}"
            raise InputError(message)
        return np.ascontiguousarray(counts[self._run.domains.index(domain)].T)

    def ngram_positions(self, n: int) -> int:
        """Return how many positions end a countable n-gram."""
        occurrences, number = self._run.spectrum(n)
        return int((occurrences * number).sum())

    def ngram_fires(self, n: int) -> np.ndarray:
        """Return A_n, the fires at positions that end a countable n-gram, int64 [L, F]."""
        self._run.check_order(n)
        return self._run.array(f"ngram_fires_{n}")

    def coverage(self, n: int, share: float | str | Fraction | None = None) -> np.ndarray:
        """Return covering numbers, int64 [L, F]; at any share, from the exact histograms."""
        self._run.check_order(n)
        scanned = exact_share(self.manifest["settings"]["coverage"])
        exact = scanned if share is None else exact_share(share)
        if exact == scanned:
            return self._run.array(f"coverage_{n}")
        total = self.ngram_fires(n)
        return np.stack(
            [
                covering_number(*self._run.histogram(layer, n), total[row], exact)
                for row, layer in enumerate(self.layers)
            ]
        )

    def bits(self, layer: int) -> np.ndarray:
        """Return the bits of one layer, bool [N, F]; needs ``keep_bits=True``."""
        return self._run.bits(layer)

    # -- tables --------------------------------------------------------------------------------

    def _detectors(
        self,
        n: int,
        K: int | None = None,
        coverage: float | str | Fraction = DEFAULT_SHARE,
        precision: float | str | Fraction = DEFAULT_SHARE,
        min_count: int = 1,
    ) -> dict[str, Any]:
        key = ("detectors", n, K, exact_share(coverage), exact_share(precision), min_count)
        if key not in self._memo:
            self._run.check_order(n)
            self._memo[key] = detection.detectors(
                self._ngrams(n),
                layers=self.layers,
                fires=self.fires,
                ngram_fires=self.ngram_fires(n),
                covering=self.coverage(n, coverage),
                n=n,
                K=K,
                coverage=coverage,
                precision=precision,
                min_count=min_count,
                strings=self.strings,
            )
        found: dict[str, Any] = self._memo[key]
        return found

    def _ngrams(self, n: int) -> dict[str, Any]:
        if ("ngrams", n) not in self._memo:
            self._memo["ngrams", n] = columns_of(self._run.table("ngrams", n=n))
        found: dict[str, Any] = self._memo["ngrams", n]
        return found

    def detectors(
        self,
        n: int = 1,
        *,
        K: int | None = None,
        coverage: float | str | Fraction = DEFAULT_SHARE,
        precision: float | str | Fraction = DEFAULT_SHARE,
        min_count: int = 1,
    ) -> pa.Table:
        """Return the neurons that detect n-grams (definition 4), one row each.

        Exact for any thresholds, or refused with an InputError where the run does not keep what
        they need (see ``list_limit`` of `scan`).
        """
        return table(self._detectors(n, K, coverage, precision, min_count))

    def expected_detectors(self, n: int = 1, **thresholds: Any) -> ExpectedDetectors:
        """Return how many detectors neurons with the same A_n, firing at random, would make."""
        key = ("expected", n, *sorted(thresholds.items()))
        if key not in self._memo:
            self._memo[key] = detection.expected_detectors(
                self.ngram_fires(n), *self._run.spectrum(n), n=n, **thresholds
            )
        expected: ExpectedDetectors = self._memo[key]
        return expected

    def detected(self, n: int = 1, **thresholds: Any) -> pa.Table:
        """Return, per layer and cumulatively, how many n-grams are detected (definition 5)."""
        return table(ensemble.detected(self._detectors(n, **thresholds), self.layers))

    def _positional(
        self,
        mi: float = positions.MI_THRESHOLD,
        min_sequences: int = positions.MIN_SEQUENCES,
        rules: positions.TypeRules = positions.DEFAULT_RULES,
        domain: str | None = None,
    ) -> dict[str, Any]:
        key = ("positional", mi, min_sequences, rules, domain)
        if key not in self._memo:
            sequences = (
                self.full_sequences if domain is None else self.domain_full_sequences[domain]
            )
            parts = [
                positions.positional(
                    layer,
                    self.position_fires(layer, domain),
                    sequences,
                    mi=mi,
                    min_sequences=min_sequences,
                    rules=rules,
                    information=self.mi[row] if domain is None else None,
                )
                for row, layer in enumerate(self.layers)
            ]
            self._memo[key] = {
                name: np.concatenate([part[name] for part in parts]) for name in parts[0]
            }
        found: dict[str, Any] = self._memo[key]
        return found

    def positional(
        self,
        mi: float = positions.MI_THRESHOLD,
        *,
        min_sequences: int = positions.MIN_SEQUENCES,
        rules: positions.TypeRules = positions.DEFAULT_RULES,
        domain: str | None = None,
    ) -> pa.Table:
        """Return the positional neurons with their types (definitions 7 and 8).

        With fewer than ``min_sequences`` full sequences type and strength are null.
        """
        return table(self._positional(mi, min_sequences, rules, domain))

    def _suppression(self, n: int = 1) -> dict[str, Any]:
        if ("suppression", n) not in self._memo:
            self._run.check_order(n)
            rows = columns_of(self._run.table("suppression", n=n))
            found = self._detectors(n)
            width = self._run.n_neurons
            wanted = np.asarray(found["layer"]) * width + np.asarray(found["neuron"])
            own = rows["layer"].astype(np.int64) * width + rows["neuron"]
            # Without baseline tokens (a vocabulary of triggers alone) there is nothing to compare.
            keep = np.isin(own, wanted) & (rows["random_tokens"] > 0) & (rows["matched_tokens"] > 0)
            self._memo["suppression", n] = suppressing.suppression(
                {name: values[keep] for name, values in rows.items()}
            )
        found_rows: dict[str, Any] = self._memo["suppression", n]
        return found_rows

    def suppression(self, n: int = 1) -> pa.Table:
        """Return, per detector, whether its update points away from its triggers (definition 6)."""
        return table(self._suppression(n))

    def suppression_shares(self, n: int = 1, *, lower_half: bool = False) -> dict[str, Any]:
        """Return the share of detectors that point away, beside both baselines."""
        rows = self._suppression(n)
        if lower_half:
            keep = covering.lower_half(rows["layer"], self.n_model_layers)
            rows = {name: np.asarray(values)[keep] for name, values in rows.items()}
        return suppressing.shares(rows)

    def proofs(self) -> pa.Table:
        """Return, per layer, what never fired beside what can never fire (definition 9)."""
        return table(
            dead_neurons.proofs(
                self.layers,
                self.fires,
                self.tokens,
                self.z_max,
                self.z_sup,
                self.z_inf,
                self.margin,
            )
        )

    def neuron_table(self) -> pa.Table:
        """Make the table of all neurons from the counters."""
        width, depth = self._run.n_neurons, len(self.layers)
        columns: dict[str, Any] = {
            "layer": np.repeat(np.array(self.layers, dtype=np.int32), width),
            "neuron": np.tile(np.arange(width, dtype=np.int32), depth),
        }
        for name in ("fires", "frequency", "dead", "bos_fires", "separator_fires", "first_fire"):
            columns[name] = getattr(self, name).reshape(-1)
        for name, values in self.domain_fires.items():
            columns[f"fires_{name}"] = values.reshape(-1)
        for name in ("z_max", "z_sup", "z_inf", "margin", "provably_dead", "provably_on", "mi"):
            columns[name] = getattr(self, name).reshape(-1)
        columns["mi_bias"] = np.full(width * depth, positions.bias(self.full_sequences))
        found = self._positional()
        place = np.array([self.layers.index(layer) for layer in found["layer"]], dtype=np.int64)
        place = place * width + found["neuron"] if place.size else place
        decided = self.full_sequences >= positions.MIN_SEQUENCES
        is_positional = np.ma.array(
            np.zeros(width * depth, dtype=np.bool_), mask=not decided
        )
        kind = np.full(width * depth, None, dtype=object)
        strength = np.full(width * depth, None, dtype=object)
        if decided:
            is_positional[place] = True
            kind[place], strength[place] = found["type"], found["strength"]
        columns["positional"] = is_positional
        columns["positional_type"] = kind
        columns["positional_strength"] = strength
        tables = {n: self._detectors(n) for n in self._run.ngram_orders}
        for n in self._run.ngram_orders:
            columns[f"ngram_fires_{n}"] = self.ngram_fires(n).reshape(-1)
            columns[f"coverage_{n}"] = self.coverage(n).reshape(-1)
        columns["role"] = detection.roles(tables, self.layers, width).reshape(-1)
        return table(columns)

    @property
    def neurons(self) -> pa.Table:
        """Every neuron, one row each, with all of its statistics."""
        return self._run.table("neurons")

    def _address(self, neuron: str | tuple[int, int]) -> tuple[int, int]:
        try:
            layer, index = (
                map(int, neuron.split(".")) if isinstance(neuron, str) else map(int, neuron)
            )
        except ValueError as error:
            message = f"neuron {neuron!r}: write LAYER.NEURON, for example 3.1045"
            raise InputError(message) from error
        if layer not in self.layers or not 0 <= index < self._run.n_neurons:
            message = f"neuron {layer}.{index} was not scanned: layers {self.layers}, "
            message += f"neurons 0 to {self._run.n_neurons - 1}"
            raise InputError(message)
        return layer, index

    def neuron(self, neuron: str | tuple[int, int]) -> dict[str, Any]:
        """Return all that is known of one neuron, named ``"3.1045"`` (layer 3, neuron 1045)."""
        layer, index = self._address(neuron)
        row = {
            name: values[0]
            for name, values in self._run.table("neurons", layer=layer, neuron=index)
            .to_pydict()
            .items()
        }
        row["domain_frequency"] = {
            name: row[f"fires_{name}"] / max(tokens, 1)
            for name, tokens in self.domain_tokens.items()
        }
        row["ngrams"] = {
            n: [self._named(entry, n) for entry in self._listed(layer, index, n)]
            for n in self._run.ngram_orders
        }
        row["position_fires"] = self.position_fires(layer)[index]
        row["promoted"], row["suppressed"] = self.vocabulary(layer, index)
        row["contexts"] = self.contexts(layer, index)
        return row

    def _listed(self, layer: int, index: int, n: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._run.table(
            "ngrams", layer=layer, neuron=index, n=n
        ).to_pylist()
        return rows

    def _named(self, entry: dict[str, Any], n: int) -> dict[str, Any]:
        ids = [entry[f"t{i}"] for i in range(n)]
        return {
            "tokens": ids,
            "strings": token_strings(self.strings, ids),
            "fires": entry["fires"],
            "occurrences": entry["occurrences"],
            "precision": entry["fires"] / entry["occurrences"],
            "covered": entry["covered"],
        }

    def vocabulary(
        self, layer: int, neuron: int
    ) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """Return the tokens that a neuron's update promotes and suppresses most, with scores."""
        rows = columns_of(self._run.table("vocabulary", layer=layer, neuron=neuron))
        promoted, suppressed = (
            [
                (self._string(token), float(score))
                for token, score in zip(rows[side][0], rows[f"{side}_scores"][0], strict=True)
            ]
            for side in ("promoted", "suppressed")
        )
        return promoted, suppressed

    def _string(self, token: int) -> str:
        string = self.strings[int(token)]
        return f"#{int(token)}" if string is None else string

    def contexts(self, layer: int, neuron: int, *, before: int = 12, after: int = 4) -> list[Any]:
        """Return the sampled firing positions of a neuron with the text around them."""
        starts, ids = self.starts, self.ids
        found = []
        for row in self._run.table("examples", layer=layer, neuron=neuron).to_pylist():
            at, begin, end = row["row"], starts[row["sequence"]], starts[row["sequence"] + 1]
            left = ids[max(begin, at - before) : at]
            right = ids[at + 1 : min(end, at + 1 + after)]
            found.append(
                {
                    "domain": self._run.domains[row["domain"]],
                    "position": row["position"],
                    "before": "".join(map(self._string, left)),
                    "token": self._string(ids[at]),
                    "after": "".join(map(self._string, right)),
                }
            )
        return found

    def which(self, text: str) -> pa.Table:
        """Return the detectors one of whose covered n-grams reads ``text`` (spaces count)."""
        parts: list[dict[str, Any]] = []
        for n in self._run.ngram_orders:
            found = self._detectors(n)
            for i, covered in enumerate(found["covered"]):
                for ids in covered:
                    if "".join(self._string(token) for token in ids) == text:
                        entry = {name: found[name][i] for name in ("layer", "neuron", "n")}
                        entry |= {"tokens": ids, "fires": int(found["fires"][i])}
                        entry |= {"coverage": float(found["coverage"][i])}
                        parts.append(entry)
        names = ("layer", "neuron", "n", "tokens", "fires", "coverage")
        return table({name: [part[name] for part in parts] for name in names})

    # -- out -----------------------------------------------------------------------------------

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Copy the run to another directory."""
        return self._run.save(directory, overwrite=overwrite)

    def report(self, directory: str | Path | None = None) -> list[Path]:
        """Write the figures as PNG and SVG; default ``figures`` in the run directory."""
        from pyneurons.report import write_figures

        return write_figures([self], Path(directory or self.directory / "figures"))
