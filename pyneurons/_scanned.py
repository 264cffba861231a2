"""``Scan``: the face of a finished run; arrays, tables, one neuron at a time. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons.analysis import coverage as covering
from pyneurons.analysis import dead as dead_neurons
from pyneurons.analysis import detectors as detection
from pyneurons.analysis import ensemble
from pyneurons.analysis import positional as positions
from pyneurons.analysis import suppression as suppressing
from pyneurons.covering import DEFAULT_SHARE, covering_number, exact_share
from pyneurons.errors import InputError
from pyneurons.result import Run, Table, columns_of, table, token_strings

if TYPE_CHECKING:
    from fractions import Fraction

    from pyneurons.analysis.detectors import ExpectedDetectors


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

    @property
    def vocabulary_entries(self) -> int:
        """Tokens that are ranked: those with a string, or all where none has one."""
        if "entries" not in self._memo:
            known = sum(string is not None for string in self.strings)
            self._memo["entries"] = known or len(self.strings)
        return int(self._memo["entries"])

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The scans that a merged run was made of, each with its corpus; none for a scan."""
        merged = self.manifest.get("merged")
        return [] if merged is None else list(merged["parts"])

    @property
    def has_suppression(self) -> bool:
        """Whether the scores of triggers are known."""
        return self._run.has_suppression

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
        return positions.mutual_information(self._curves(layer, domain), sequences)

    def position_fires(self, layer: int, domain: str | None = None) -> np.ndarray:
        """Return fires by position over full sequences, int64 [F, T]."""
        return np.ascontiguousarray(self._curves(layer, domain), dtype=np.int64)

    def _curves(self, layer: int, domain: str | None) -> np.ndarray:
        """Return fires by position [F, T] as they are stored: positions apart, in few bytes."""
        counts = self._run.layer_array(layer, "position_fires")
        if domain is not None:
            if domain not in self._run.domains:
                message = f"domain {domain!r} was not scanned; domains: {self._run.domains}"
                raise InputError(message)
            counts = counts[self._run.domains.index(domain)]
        elif len(counts) == 1:
            counts = counts[0]
        else:
            counts = counts.sum(axis=0, dtype=np.min_scalar_type(self.full_sequences))
        curves: np.ndarray = counts.T
        return curves

    def ngram_positions(self, n: int) -> int:
        """Return how many positions end a countable n-gram."""
        occurrences, number = self._run.spectrum(n)
        return int((occurrences * number).sum())

    def ngram_fires(self, n: int) -> np.ndarray:
        """Return A_n, the fires at positions that end a countable n-gram, int64 [L, F]."""
        self._run.check_order(n)
        return self._run.array(f"ngram_fires_{n}")

    def exact(self, n: int) -> np.ndarray:
        """Return of which neurons the n-gram statistics are exact, bool [L, F].

        All of a scan, and of a merged run whose runs kept their bits; of other merged runs those all
        of whose n-grams every run lists.
        """
        self._run.check_order(n)
        if not self._run.in_bounds:
            return np.ones(self.fires.shape, dtype=np.bool_)
        return self._run.array(f"exact_{n}")

    def coverage(self, n: int, share: float | str | Fraction | None = None) -> np.ndarray:
        """Return covering numbers, int64 [L, F]; at any share, from the exact histograms.

        Raises
        ------
        InputError
            In a merged run that knows some in bounds only: see `exact`, `coverage_bounds`.
        """
        open_ = int(np.count_nonzero(~self.exact(n)))
        if open_:
            message = f"coverage: of {open_:,} neurons the covering number for n = {n} is known in "
            message += "bounds only: coverage_bounds() gives them, exact() tells which; runs that "
            message += "are scanned with keep_bits=True are merged exactly"
            raise InputError(message)
        return self.coverage_bounds(n, share)[1]

    def coverage_bounds(
        self, n: int, share: float | str | Fraction | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest possible covering numbers, int64 [L, F] each.

        Equal where `exact`. Else what the counts of all parts give at best and at worst:
        `pyneurons.merging.histograms`.
        """
        self._run.check_order(n)
        wanted = DEFAULT_SHARE if share is None else exact_share(share)
        most = self._coverage(n, wanted, "histogram")
        if not self._run.in_bounds:
            return most, most
        return np.where(self.exact(n), most, self._coverage(n, wanted, "aligned")), most

    def _coverage(self, n: int, share: Fraction, histogram: str) -> np.ndarray:
        if share == DEFAULT_SHARE and histogram == "histogram":
            return self._run.array(f"coverage_{n}")
        total = self.ngram_fires(n)
        return np.stack(
            [
                covering_number(*self._run.histogram(layer, n, histogram), total[row], share)
                for row, layer in enumerate(self.layers)
            ]
        )

    def bits(self, layer: int) -> np.ndarray:
        """Return the bits of one layer, bool [N, F]; needs ``keep_bits=True``."""
        return self._run.bits(layer)

    # -- tables --------------------------------------------------------------------------------

    def _detectors(self, n: int, **thresholds: Any) -> dict[str, Any]:
        """Return the certain detectors."""
        return detection.decided(self._judged(n, **thresholds))

    def _judged(
        self,
        n: int,
        K: int | None = None,
        coverage: float | str | Fraction = DEFAULT_SHARE,
        precision: float | str | Fraction = DEFAULT_SHARE,
        min_count: int = 1,
    ) -> dict[str, Any]:
        shares = exact_share(coverage, "coverage"), exact_share(precision, "precision")
        key = ("detectors", n, K, *shares, min_count)
        if key not in self._memo:
            self._run.check_order(n)
            self._memo[key] = detection.detectors(
                self._ngrams(n),
                layers=self.layers,
                fires=self.fires,
                ngram_fires=self.ngram_fires(n),
                covering=self.coverage_bounds(n, coverage)[0],
                n=n,
                K=K,
                coverage=coverage,
                precision=precision,
                min_count=min_count,
                strings=self.strings,
                exact=self.exact(n),
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
    ) -> Table:
        """Return the neurons that detect n-grams (definition 4), one row each.

        Exact for any thresholds, or refused with an InputError where the run does not keep what
        they need (see ``list_limit`` of `scan`). Rows of a merged run with ``exact`` false are neurons
        that may be detectors or not; everything that is made of detectors leaves them out.
        """
        return table(self._judged(n, K, coverage, precision, min_count))

    def expected_detectors(self, n: int = 1, **thresholds: Any) -> ExpectedDetectors:
        """Return how many detectors neurons with the same A_n, firing at random, would make."""
        key = ("expected", n, *sorted(thresholds.items()))
        if key not in self._memo:
            self._memo[key] = detection.expected_detectors(
                self.ngram_fires(n), *self._run.spectrum(n), n=n, **thresholds
            )
        expected: ExpectedDetectors = self._memo[key]
        return expected

    def detected(self, n: int = 1, **thresholds: Any) -> Table:
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
                    self._curves(layer, domain),
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
    ) -> Table:
        """Return the positional neurons with their types (definitions 7 and 8).

        With fewer than ``min_sequences`` full sequences nothing is decided: the table is empty and
        ``positional`` is null in `neurons`; `mi` is there all the same.
        """
        return table(self._positional(mi, min_sequences, rules, domain))

    def _suppression(self, n: int = 1) -> dict[str, Any]:
        if ("suppression", n) not in self._memo:
            self._run.check_order(n)
            if not self.has_suppression:
                message = (
                    "suppression: a merged run has scores of triggers only where it was merged "
                )
                message += (
                    "with model= (--model): which n-grams trigger a neuron follows from all runs"
                )
                raise InputError(message)
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

    def suppression(self, n: int = 1) -> Table:
        """Return, per detector, whether its update points away from its triggers (definition 6)."""
        return table(self._suppression(n))

    def suppression_shares(self, n: int = 1, *, lower_half: bool = False) -> dict[str, Any]:
        """Return the share of detectors that point away, beside both baselines."""
        rows = self._suppression(n)
        if lower_half:
            keep = covering.lower_half(rows["layer"], self.n_model_layers)
            rows = {name: np.asarray(values)[keep] for name, values in rows.items()}
        return suppressing.shares(rows)

    def proofs(self) -> Table:
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

    def neuron_table(self) -> Table:
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
        is_positional = np.ma.array(np.zeros(width * depth, dtype=np.bool_), mask=not decided)
        kind = np.full(width * depth, None, dtype=object)
        strength = np.full(width * depth, None, dtype=object)
        if decided:
            is_positional[place] = True
            kind[place], strength[place] = found["type"], found["strength"]
        columns["positional"] = is_positional
        columns["positional_type"] = kind
        columns["positional_strength"] = strength
        for n in self._run.ngram_orders:
            columns[f"ngram_fires_{n}"] = self.ngram_fires(n).reshape(-1)
            least, most = (values.reshape(-1) for values in self.coverage_bounds(n))
            columns[f"coverage_{n}"] = most
            if self._run.in_bounds:
                exact = self.exact(n).reshape(-1)
                columns[f"coverage_{n}"] = np.ma.array(most, mask=~exact)
                columns |= {f"coverage_{n}_least": least, f"coverage_{n}_most": most}
                columns[f"exact_{n}"] = exact
        tables = {n: self._judged(n) for n in self._run.ngram_orders}
        role = detection.roles(tables, self.layers, width).reshape(-1)
        columns["role"] = np.ma.array(role, mask=role < 0) if (role < 0).any() else role
        return table(columns)

    @property
    def neurons(self) -> Table:
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
        row["triggers"] = self._triggers(layer, index)
        row["contexts"] = self.contexts(layer, index)
        return row

    def rows(self, name: str, layer: int) -> dict[str, Any]:
        """Return the columns of a stored table, the rows of one layer.

        ``name`` is ``"neurons"``, ``"ngrams"``, ``"suppression"``, ``"vocabulary"`` or
        ``"examples"``; null cells of a number are NaN, of a bool None.
        """
        return columns_of(self._run.table(name, layer=layer))

    def _triggers(self, layer: int, index: int) -> list[dict[str, Any]]:
        """Return what the update does to the tokens that trigger a detector; often unknown: []."""
        if not self.has_suppression or not self._run.ngram_orders:
            return []
        rows = self._run.table("suppression", layer=layer, neuron=index).to_pylist()
        vocabulary = self.vocabulary_entries
        names = ("n", "token", "score", "centred", "rank")
        return [
            {name: row[name] for name in names}
            | {"string": self._string(row["token"])}
            | {"place": row["rank"] + 1, "vocabulary": vocabulary}
            for row in rows
        ]

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
            "fires_most": entry.get("fires_most", entry["fires"]),
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

    def which(self, text: str) -> Table:
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

    def report(self, path: str | Path | None = None, *, text: bool = True) -> list[Path]:
        """Write figures into a folder, or a page where the name ends in ``.html``.

        Parameters
        ----------
        path : path, optional
            Default: ``figures`` in the run directory.
        text : bool
            Of a page: show example contexts, which are text of the corpus.
        """
        from pyneurons.report import write_figures
        from pyneurons.report.page import write_page

        place = Path(path or self.directory / "figures")
        if place.suffix.lower() == ".html":
            return write_page([self], place, text=text)
        return write_figures([self], place)
