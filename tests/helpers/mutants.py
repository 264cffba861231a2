"""Take one safeguard away, and see that a test fails: ``make mutants``.

    python tests/helpers/mutants.py                  all of them, 12 minutes on one core
    python tests/helpers/mutants.py inputs laws      some groups

Each mutant is one change to the source, taken back afterwards (on Ctrl-C and SIGTERM as well), with
the quickest tests that find it. Mutants of the native code are built several at a time, in files that
share no test. Refuses to run where the tree has changes of its own. Exit code 1 where one survives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Mutant:
    """One change: in ``file``, ``text`` becomes ``becomes``; ``tests`` are arguments of pytest."""

    group: str
    what: str
    file: str
    text: str
    becomes: str
    tests: str
    build: int = 0  # mutants of one number, above 0, are built together

    def source(self) -> str:
        """Return the file's text; stop where the mutant does not fit it."""
        source = (ROOT / self.file).read_text(encoding="utf-8")
        if source.count(self.text) != 1:
            message = f"{self.file}: {self.text!r} is there {source.count(self.text)} times"
            raise SystemExit(message)
        return source


RUN, DURABLE, LEDGER = "pyneurons/run_writer.py", "pyneurons/durable.py", "pyneurons/ledger.py"
HEADER, TORCH = "pyneurons/model/safetensors_file.py", "pyneurons/model/torch_file.py"
CHECKPOINT, RING = "pyneurons/model/checkpoint.py", "pyneurons/engine/weight_ring.py"
LAWS = "pyneurons/conservation.py"
POWER = "tests/test_power_loss.py"
RESUME = "tests/test_resume.py -k "
PARTS, LISTS = "pyneurons/merging/parts.py", "pyneurons/merging/lists.py"
MERGE = "tests/test_merge.py -k "
MALFORMED = "tests/test_checkpoint.py tests/test_safetensors_properties.py -k "
FILES = "malformed or mutation_of_the_file or mutation_of_an_entry or lying or truncation"
PICKLED = "tests/test_torch_file.py"

# fmt: off
MUTANTS = [
    # -- every fsync
    Mutant("fsync", "fsync of a file", DURABLE,
           "        os.fsync(file.fileno())\n", "        pass\n", POWER),
    Mutant("fsync", "fsync of the folder of a file committed by itself", DURABLE,
           "            if sync:\n                sync_folder(target.parent)\n", "", POWER),
    Mutant("fsync", "fsync of the folder that holds a new folder", DURABLE,
           "            sync_folder(folder.parent)\n", "            pass\n", POWER),
    Mutant("fsync", "fsync of the folder after a rename", DURABLE,
           "        source.rename(target)\n        sync_folder(target.parent)\n",
           "        source.rename(target)\n", POWER),
    Mutant("fsync", "fsync of the folder with the lock", DURABLE,
           "            sync_folder(folder)  # the lock", "            pass  # the lock", POWER),
    Mutant("fsync", "fsync of the folder before a layer's entry", RUN,
           "            durable.sync_folder(self.staging)\n            name = LAYER",
           "            name = LAYER", POWER),
    Mutant("fsync", "fsync of the folder before the checksums", RUN,
           "        durable.sync_folder(self.staging)\n        durable.commit_bytes(self.staging / SUMS",
           "        durable.commit_bytes(self.staging / SUMS", POWER),
    Mutant("fsync", "fsync of the folder before the run is moved", RUN,
           "        durable.sync_folder(self.staging)  # or", "        pass  # or", POWER),
    Mutant("fsync", "fsync of the folder after an entry was dropped", LEDGER,
           "            durable.sync_folder(path.parent)\n", "            pass\n", POWER),
    Mutant("fsync", "fsync of the residual stream", "pyneurons/engine/scratch.py",
           "            os.fsync(self._descriptor)\n", "            pass\n", POWER),
    Mutant("fsync", "fsync of the folder with the residual stream", "pyneurons/engine/checkpoints.py",
           "        durable.sync_folder(self._folder)\n", "        pass\n", POWER),
    # -- what a run goes on with
    Mutant("runs", "checksums of files", LEDGER,
           '    if "sha256" in said:\n', '    return True\n    if "sha256" in said:\n',
           RESUME + "set_aside"),
    Mutant("runs", "checksums of entries", DURABLE,
           "good = isinstance(content, dict) and seal(content) == raw",
           "good = isinstance(content, dict)", RESUME + "sealed"),
    Mutant("runs", "checksums of a finished run", "pyneurons/result.py",
           " or durable.sha256_of(directory / name) != sha256\n", "\n",
           RESUME + "verify_finds"),
    Mutant("runs", "a boundary must lie before what is missing", "pyneurons/engine/checkpoints.py",
           "if self.first < layer <= missing[0]:", "if self.first < layer:", RESUME + "set_aside"),
    Mutant("runs", "what was committed is not written over", "pyneurons/engine/residual.py",
           "        self._into = self._checkpoints.file(self._checkpoints.spare())\n",
           "        pass\n", RESUME + "goes_on_where"),
    Mutant("runs", "weights are those of the run that goes on", "pyneurons/model/source.py",
           "        if digest != expected:\n", "        if False:\n",
           "tests/test_checkpoint.py -k flipped_bit"),
    # -- model files
    Mutant("inputs", "the header's length has a bound", HEADER,
           "        if length > MOST_HEADER_BYTES:\n", "        if False:\n",
           MALFORMED + f"'{FILES}'"),
    Mutant("inputs", "a tensor's bytes fit its shape", HEADER,
           "len(offsets) != 2 or offsets[1] - offsets[0] != expected or expected == 0",
           "len(offsets) != 2 or expected == 0", MALFORMED + f"'{FILES}'"),
    Mutant("inputs", "tensors do not overlap", HEADER,
           "        if entry.offset != end:\n", "        if entry.offset > end:\n",
           MALFORMED + f"'{FILES}'"),
    Mutant("inputs", "tensors leave no gap", HEADER,
           "        if entry.offset != end:\n", "        if entry.offset < end:\n",
           MALFORMED + f"'{FILES}'"),
    Mutant("inputs", "nothing lies behind the last tensor", HEADER,
           "    if end != size:\n", "    if end > size:\n", MALFORMED + f"'{FILES}'"),
    Mutant("inputs", "an index names plain files", CHECKPOINT,
           'plain = re.fullmatch(r"[\\w-][\\w.-]*", file, flags=re.ASCII) is not None',
           "plain = True", "tests/test_checkpoint.py -k index_names"),
    Mutant("inputs", "a file that changes under a read is noticed", CHECKPOINT,
           "            pread_into(descriptor, offset, into, file)\n"
           "            check_version(file, descriptor, self._versions[file])\n",
           "            pread_into(descriptor, offset, into, file)\n",
           "tests/test_checkpoint.py -k 'changed_file or changes_under'"),
    Mutant("inputs", "weights are finite", "pyneurons/model/source.py",
           "    if bool(least.isfinite() & greatest.isfinite()):\n", "    if True:\n",
           "tests/test_checkpoint.py -k not_finite"),
    Mutant("inputs", "a view of torch lies in its storage", TORCH,
           "            if end > storage.elements * DTYPE_BYTES[storage.dtype]:\n",
           "            if False:\n", PICKLED + " -k views"),
    Mutant("inputs", "a file of torch ends with its last storage", TORCH,
           "        if end != self.size:\n", "        if end > self.size:\n",
           PICKLED),
    Mutant("inputs", "checksums of a file of torch", TORCH,
           "        if member is not None:\n            zip_directory.check_crc",
           "        if False:\n            zip_directory.check_crc",
           PICKLED + " -k flipped_bit"),
    # -- corpus files
    Mutant("inputs", "an .npy file is as long as its header says", "pyneurons/corpus/id_files.py",
           "    if size != expected:\n", "    if size < expected:\n",
           "tests/test_corpus_errors.py -k 'npy or sources or damaged or id_files'"),
    Mutant("inputs", "ids are in the vocabulary", "pyneurons/corpus/documents.py",
           "or int(ids.max()) >= vocab_size)", "or False)",
           "tests/test_corpus_tokenise.py -k outside"),
    Mutant("inputs", "a compressed file expands a thousandfold at most",
           "pyneurons/corpus/bytestreams.py",
           "expanded > EXPANSION_FREE_BYTES and expanded > EXPANSION * size", "False",
           "tests/test_corpus_errors.py -k expands"),
    # -- native code
    Mutant("kernels", "ffn: words behind the last panel are cleared", "csrc/core/ffn.cpp",
           "for (std::int64_t word = panels;",
           "for (std::int64_t word = mask.strips * mask.strip_words + 0 * panels;",
           "tests/test_ffn.py", build=1),
    Mutant("kernels", "ffn_epilogue: neurons of the last word", "csrc/core/ffn_epilogue.inl",
           "fires = epilogue_tail(z + 32 * w, job.z_max + 32 * w, neurons, wrong);",
           "fires = epilogue_tail(z + 32 * w, job.z_max + 32 * w, 32, wrong);",
           "tests/test_ffn.py -k 'awkward or denormals or non_finite'", build=1),
    Mutant("kernels", "ngram_coverage: neurons of the last word", "csrc/core/ngram_coverage.inl",
           "        if (f < job.neurons) {\n", "        if (f >= 0) {\n",
           "tests/test_ngram_coverage.py", build=1),
    Mutant("kernels", "ffn: no bias behind the last neuron", "csrc/core/ffn.cpp",
           "std::vector<float> values(static_cast<std::size_t>(padded));",
           "std::vector<float> values(static_cast<std::size_t>(padded), 1.0F);",
           "tests/test_ffn.py", build=2),
    Mutant("kernels", "segment_counts: neurons of the last word", "csrc/core/segment_counts.inl",
           "const std::int64_t neurons = neurons_of(words, job.counts.cols);",
           "const std::int64_t neurons = 32 * (words.end - words.begin);",
           "tests/test_segment_counts.py", build=2),
    # -- engine
    Mutant("engine", "the last micro-batch", "pyneurons/engine/plan.py",
           "    if first < len(lengths):\n        yield", "    if first < 0:\n        yield",
           "tests/test_engine.py"),
    Mutant("engine", "a micro-batch ends before it is too long", "pyneurons/engine/plan.py",
           "        if i > first and tokens + length > most:\n",
           "        if i > first and tokens > most:\n", "tests/test_engine.py"),
    Mutant("engine", "compute waits for the copy of its layer", RING,
           "        self._compute.wait(self._copied[layer])\n", "", "tests/test_weight_ring.py"),
    Mutant("engine", "a copy waits for the slot to be free", RING,
           "                self._copy.wait(self._freed[layer - slots])\n",
           "                pass\n", "tests/test_weight_ring.py"),
    Mutant("engine", "a buffer is read into when its copy is done", RING,
           "                self._copied[layer - slots].wait_on_host()\n",
           "                pass\n", "tests/test_weight_ring.py"),
    # -- conservation laws
    Mutant("laws", "position fires add up", LAWS,
           'by_position + arrays["partial_fires"] != domain_fires', "domain_fires < 0",
           "tests/test_conservation.py"),
    Mutant("laws", "domain fires add up", LAWS,
           "domain_fires.sum(axis=0) != fires", "fires < 0",
           "tests/test_conservation.py"),
    Mutant("laws", "counts of n-grams add up", LAWS,
           "= held != ngram_fires\n", "= held < 0\n", "tests/test_conservation.py"),
    Mutant("laws", "a neuron fires when its z is above 0", LAWS,
           '(fires > 0) != (arrays["z_max"] > 0)', "fires < 0", "tests/test_conservation.py"),
    # -- merged runs
    Mutant("merge", "rows move to their place", PARTS,
           "places + moved[np.maximum(at, 0)]", "places", MERGE + "of_one_scan"),
    Mutant("merge", "domains go to their own place", PARTS,
           "return [self.domains.index(name) for name in self.opened[i].run.domains]",
           "return list(range(len(self.opened[i].run.domains)))", MERGE + "of_one_scan"),
    Mutant("merge", "parts have one order", PARTS,
           "where.sort(key=lambda entry: entry[0].sha256)", "pass", MERGE + "grouping"),
    Mutant("merge", "equal sequences are refused", PARTS,
           "if share > COMMON_SHARE:", "if share > 2:", MERGE + "refused"),
    Mutant("merge", "equal files are refused", PARTS,
           "                if sha256 in seen:", "                if False:", MERGE + "refused"),
    Mutant("merge", "checksums of runs are compared", PARTS,
           "        if wrong:\n", "        if False:\n", MERGE + "damaged"),
    Mutant("merge", "runs of other options are refused", "pyneurons/_merge.py",
           "    check_alike(opened)", "    pass", MERGE + "refused"),
    Mutant("merge", "sums do not wrap", "pyneurons/merging/counters.py",
           "(values > _LIMIT - summed).any()", "False", MERGE + "wrap"),
    Mutant("merge", "exact only where every run lists all", LISTS,
           "exact = np.logical_and.reduce", "exact = np.logical_or.reduce", MERGE + "scan"),
    Mutant("merge", "what a run does not list is bounded", LISTS,
           "unlisted = np.where(exact, 0, least)", "unlisted = np.where(exact, 0, least - 1)",
           MERGE + "bounds"),
    Mutant("merge", "bounds of listed n-grams add up", LISTS,
           "return neuron, ngram, fires, unlisted[neuron] + more",
           "return neuron, ngram, fires, fires", MERGE + "bounds"),
    Mutant("merge", "aligned counts are those of one neuron",
           "pyneurons/merging/histograms.py",
           "np.where((of[at] == owner) & (place[at] >= last), count[at], 0)", "count[at]",
           MERGE + "loop"),
    Mutant("merge", "examples have the least keys", "pyneurons/merging/examples.py",
           "np.lexsort((row, layout.keys.of_rows(row), neuron))", "np.lexsort((row, neuron))",
           MERGE + "examples"),
]
# fmt: on


def passes(tests: str) -> str:
    """Run tests; return ``SURVIVES`` where they pass, ``found`` where one fails or crashes."""
    command = f"'{sys.executable}' -m pytest -q -x -p no:cacheprovider -m 'not slow' {tests}"
    # The bytecode of a mutant must not be taken for that of the source.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["sh", "-c", f"exec {command}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode == 0:
        return "SURVIVES"
    if done.returncode == 1 or done.returncode < 0:
        return "found"
    return f"DOES NOT RUN ({done.returncode}): {done.stdout[-2000:]}"


def build() -> None:
    """Let the import of the package compile what has changed."""
    command = [sys.executable, "-c", "import pyneurons._core"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def tried(mutants: list[Mutant]) -> int:
    """Put mutants into the source, run the tests of each; return how many were not found."""
    sources = {mutant.file: mutant.source() for mutant in mutants}
    alive = 0
    try:
        for mutant in mutants:
            path = ROOT / mutant.file
            changed = path.read_text(encoding="utf-8").replace(mutant.text, mutant.becomes)
            path.write_text(changed, encoding="utf-8")
        if mutants[0].build:
            build()
        for mutant in mutants:
            began = time.monotonic()
            said = passes(mutant.tests)
            alive += said != "found"
            seconds = time.monotonic() - began
            print(f"{said:<9} {mutant.group:<8} {mutant.what} ({seconds:.0f} s)", flush=True)
    finally:
        for file, source in sources.items():
            (ROOT / file).write_text(source, encoding="utf-8")
    return alive


def main() -> None:
    """Try all of them, or those of some groups."""
    groups = list(dict.fromkeys(mutant.group for mutant in MUTANTS))
    chosen = sys.argv[1:] or groups
    if not set(chosen) <= set(groups):
        message = f"groups: {', '.join(groups)}"
        raise SystemExit(message)
    changes = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    if changes:
        message = f"the tree has changes of its own; commit them first:\n{changes}"
        raise SystemExit(message)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: the source is put back
    wanted = [mutant for mutant in MUTANTS if mutant.group in chosen]
    alive = 0
    for _, together in groupby(enumerate(wanted), key=lambda one: one[1].build or -1 - one[0]):
        alive += tried([mutant for _, mutant in together])
    if any(mutant.build for mutant in wanted):
        build()
    print(f"{len(wanted)} mutants, {alive} not found")
    sys.exit(alive > 0)


if __name__ == "__main__":
    main()
