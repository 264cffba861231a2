"""The command line; the only place that prints."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from contextlib import contextmanager
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pyneurons import _merge, _scan
from pyneurons._foreign import no_memory
from pyneurons._stopping import Stopping, stopping
from pyneurons.errors import (
    DeviceError,
    IncompleteError,
    InputError,
    IntegrityError,
    PyneuronsError,
    ResourceError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from pyneurons._scanned import Scan

INTERRUPTED = 130
OUT_OF_MEMORY = ResourceError.exit_code
_NO_ROOM = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EROFS}
)

app = typer.Typer(
    name="pyneurons",
    help="On which tokens of a corpus does each feed-forward neuron of an OPT model fire?",
    epilog="Exit codes: 0 complete; 2 bad input or usage; 3 not finished, the command that began it "
    "continues it; 4 integrity failure; 5 out of memory or disk; 130 Ctrl-C, 143 SIGTERM.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        print(f"pyneurons {package_version('pyneurons-scan')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """Tell on which tokens of a corpus each feed-forward neuron of an OPT model fires."""


def _corpus(given: list[str]) -> Any:
    """Make the corpus argument of `scan`: ``name=path`` is a domain, the rest one corpus."""
    named: dict[str, Path] = {}
    plain: list[Path] = []
    for entry in given:
        name, equals, path = entry.partition("=")
        if equals and not Path(entry).exists():
            if not name or not path:
                message = f"corpus: {entry!r} is neither a path nor name=path"
                raise InputError(message)
            if name in named:
                message = (
                    f"corpus: the domain {name!r} is named twice; a glob may name several files"
                )
                raise InputError(message)
            named[name] = Path(path)
        else:
            plain.append(Path(entry))
    if named and plain:
        message = f"corpus: {plain[0]} has no domain, but others have; write name={plain[0]}"
        raise InputError(message)
    if named:
        return named
    if len(plain) == 1:
        return "demo" if str(plain[0]) == "demo" else plain[0]
    return plain


def _max_tokens(given: list[str] | None) -> int | dict[str, int] | None:
    if not given:
        return None
    try:
        if len(given) == 1 and "=" not in given[0]:
            return int(float(given[0]))
        return {name: int(float(number)) for name, number in (g.split("=", 1) for g in given)}
    except ValueError as error:
        message = f"--max-tokens: {' '.join(given)!r} is neither a number nor name=number"
        raise InputError(message) from error


def _numbers(text: str | None, option: str) -> list[int] | None:
    """Read ``0,2,4-6``."""
    if text is None:
        return None
    numbers: list[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last if dash else first) + 1)
    except ValueError as error:
        message = f"{option}: {text!r} is not a list such as 0,2,4-6"
        raise InputError(message) from error
    return numbers


def _finish(scan: Scan, *, figures: bool) -> None:
    from pyneurons.report import text

    console = Console()
    for block in text.summary(scan):
        console.print(block)
    if figures:
        written = scan.report()
        console.print(f"\n{len(written)} figures in {written[0].parent if written else '-'}")
    console.print(f"run in {scan.directory}")
    example = f"{scan.layers[0]}.0"
    detectors = scan.detectors(n=1).to_pylist() if 1 in scan.manifest["settings"]["ngrams"] else []
    detectors = [found for found in detectors if found["exact"]]
    if detectors:
        example = f"{detectors[0]['layer']}.{detectors[0]['neuron']}"
    console.print(Text(f"next: pyneurons show {scan.directory} {example}", style="dim"))


class _Stopped(PyneuronsError):
    """A signal ended a scan; the message says what is kept."""


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Say, when a scan stops, what of it is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _Stopped(_kept(out)) from stop
    except (ResourceError, DeviceError, MemoryError) as error:
        error.add_note(_kept(out))
        raise


def _kept(out: Path) -> str:
    from pyneurons._verify import standing

    there = standing(out)
    if there is None or not there.done:
        return "nothing was finished yet; what stands at --out was not touched"
    words = [word for word in sys.argv[1:] if word != "--overwrite"]
    kept = (
        f"{len(there.done)} of {len(there.layers)} layers are finished and kept; continue with\n  "
    )
    return kept + shlex.join(["pyneurons", *words])


def _stopped(out: Path) -> bool:
    """Whether a run that was stopped holds layers that one like it goes on from."""
    from pyneurons._verify import standing

    there = standing(out)
    return there is not None and bool(there.done)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Run directory; one that was stopped goes on, others are replaced.")
    ] = Path("runs/demo"),
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Random weights of the same shape, as a control.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(help="Positions to run; default the whole demo corpus.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Scan the embedded demo model on text that every Python brings along.

    [bold]pyneurons demo[/bold]               result and figures in runs/demo
    [bold]pyneurons demo --untrained[/bold]   the same with random weights
    """

    def scan(*, overwrite: bool) -> Scan:
        return _scan.scan(
            _scan.UNTRAINED if untrained else _scan.DEMO,
            _scan.DEMO,
            out=out,
            overwrite=overwrite,
            max_tokens=max_tokens,
            dtype=dtype,
            progress=progress,
        )

    with _resumable(out):
        try:
            scanned = scan(overwrite=not _stopped(out))
        except (InputError, IntegrityError):  # of a run of something else
            scanned = scan(overwrite=True)
    _finish(scanned, figures=True)


@app.command("scan")
def scan_command(
    model: Annotated[str, typer.Argument(help="Checkpoint directory, Hugging Face id, or demo.")],
    corpus: Annotated[list[str], typer.Argument(help="Paths or globs; name=path makes a domain.")],
    out: Annotated[Path, typer.Option(help="Run directory, a new one.")],
    context: Annotated[int | None, typer.Option(help="Positions of a full sequence.")] = None,
    packing: Annotated[str, typer.Option(help="pack or document.")] = "pack",
    ngrams: Annotated[str, typer.Option(help="Orders, such as 1,2,3 or 1-4.")] = "1,2,3",
    layers: Annotated[str | None, typer.Option(help="Layers, such as 0,2,4-6.")] = None,
    max_tokens: Annotated[
        list[str] | None, typer.Option(help="Positions to run, or name=number for a domain.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Peak memory, such as 2GB.")] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Peak memory of a GPU, such as 40GiB. Default: what is free.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda (a GPU), or auto: the CPU.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, or on a GPU float16.")
    ] = "auto",
    backend: Annotated[str, typer.Option(help="auto, or a backend's name.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Default: all processors.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was begun at --out.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew; replace a run at --out.")
    ] = False,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(help="Between copies of the residual stream; 0: every layer, inf: none."),
    ] = _scan.CHECKPOINT_MINUTES,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
    text_field: Annotated[str, typer.Option(help="Column or JSON path of the text.")] = "text",
    domain_field: Annotated[
        str | None, typer.Option(help="Column or JSON path of the domain.")
    ] = None,
    document_separator: Annotated[
        str | None, typer.Option(help="Splits a .txt file into documents.")
    ] = None,
    shuffle_seed: Annotated[
        int | None, typer.Option(help="With --max-tokens: choose sequences at random.")
    ] = None,
    errors: Annotated[str, typer.Option(help="Invalid UTF-8: strict or replace.")] = "strict",
    allow_repeats: Annotated[
        bool, typer.Option("--allow-repeats", help="Count a file twice that is given twice.")
    ] = False,
    list_limit: Annotated[
        int, typer.Option(help="Covering number up to which all n-grams are listed.")
    ] = 200,
    flip_sample: Annotated[
        int, typer.Option(help="Tokens repeated in float32 to count flips; 0: none.")
    ] = _scan.FLIP_SAMPLE,
    projection: Annotated[str, typer.Option(help="dot, cosine or final_norm.")] = "dot",
    residual: Annotated[
        str | None, typer.Option(help="Keep the residual in memory or in a file.")
    ] = None,
    keep_bits: Annotated[bool, typer.Option("--keep-bits", help="Keep every bit.")] = False,
) -> None:
    """Scan a model over a corpus.

    [bold]pyneurons scan ./opt-125m wiki.txt --out runs/wiki[/bold]
    [bold]pyneurons scan ./opt-125m wiki='wiki/*.jsonl.zst' code=code.parquet --out runs/two --memory 4GB[/bold]
    [bold]pyneurons scan ./opt-125m pile.jsonl --domain-field meta.pile_set_name --max-tokens 5e6 --out runs/pile[/bold]

    A scan that was stopped, by whatever, goes on when the same command is given again.
    """
    with _resumable(out):
        scanned = _scan.scan(
            model,
            _corpus(corpus),
            out=out,
            context=context,
            packing=packing,
            ngrams=_numbers(ngrams, "--ngrams") or (),
            layers=_numbers(layers, "--layers"),
            max_tokens=_max_tokens(max_tokens),
            memory=memory,
            gpu_memory=gpu_memory,
            device=device,
            dtype=dtype,
            backend=backend,
            threads=threads,
            resume=resume,
            overwrite=overwrite,
            checkpoint_minutes=checkpoint_minutes,
            progress=progress,
            text_field=text_field,
            domain_field=domain_field,
            document_separator=document_separator,
            shuffle_seed=shuffle_seed,
            errors=errors,
            allow_repeats=allow_repeats,
            list_limit=list_limit,
            flip_sample=flip_sample,
            projection=projection,
            residual=residual,
            keep_bits=keep_bits,
        )
    _finish(scanned, figures=False)


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Runs of one model over disjoint corpora.")],
    out: Annotated[Path, typer.Option(help="Directory of the merged run, a new one.")],
    model: Annotated[
        str | None,
        typer.Option(help="The model of the runs: scores the triggers of the merged detectors."),
    ] = None,
    allow_repeats: Annotated[
        bool, typer.Option("--allow-repeats", help="Count text again that two runs have in common.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew; replace a finished run.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Default: all processors.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Join runs of one model over disjoint corpora into one run, without running the model.

    Fires by neuron, domain and position are those of one scan of all the text.
    So are n-gram statistics where the runs kept their bits, and of all neurons
    whose n-grams every run lists; others have bounds.

    [bold]pyneurons merge runs/jan runs/feb runs/mar --out runs/quarter[/bold]
    [bold]pyneurons merge runs/wiki runs/code --model ./opt-125m --out runs/both[/bold]
    """
    with _resumable(out):
        merged = _merge.merge(
            runs,
            out=out,
            model=model,
            allow_repeats=allow_repeats,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    _finish(merged, figures=False)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="Directory with pytorch_model.bin, or Hugging Face id.")
    ],
    out: Annotated[Path, typer.Argument(help="Directory of safetensors, a new one.")],
    shard_size: Annotated[str, typer.Option(help="Most bytes of one file of weights.")] = "5GB",
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Write pickled weights as safetensors, once; they are read as data and nothing in them is run.

    [bold]pyneurons convert facebook/opt-125m models/opt-125m[/bold]
    [bold]pyneurons convert ./opt-66b models/opt-66b --shard-size 2GB[/bold]
    """
    from pyneurons._progress import Progress
    from pyneurons.engine.quantity import size_of
    from pyneurons.model import convert as converting
    from pyneurons.model.checkpoint import resolve

    with Progress(enabled=progress) as shown:
        begun: list[int] = []

        def told(written: int, total: int) -> None:
            if not begun:
                begun.append(total)
                shown.begin("writing safetensors", total, unit="bytes")
            shown.reach(written, "writing safetensors")

        done = converting.convert(
            resolve(source, pickled=True),
            out,
            shard_bytes=size_of(shard_size, "--shard-size"),
            progress=told,
        )
    left_out = f", without {', '.join(done.tied)} (tied)" if done.tied else ""
    print(f"{done.tensors:,} tensors, {done.bytes:,} bytes in {done.files} files{left_out}")
    print(f"next: pyneurons scan {done.directory} CORPUS --out RUN")


@app.command()
def status(run: Annotated[Path, typer.Argument(help="The --out of a scan.")]) -> None:
    """Tell how far a run is: 0 finished, 3 not finished, 4 damaged.

    [bold]pyneurons status runs/wiki[/bold]
    """
    from pyneurons._verify import standing

    there = standing(run)
    if there is None:
        scanned = _scan.load(run)
        print(f"{run}: finished, {len(scanned.layers)} layers, {scanned.tokens:,} tokens")
        return
    if (run / "manifest.json").exists():
        print(f"{run}: a finished run, beside it one that is to replace it:")
    print(f"{run}: {len(there.done)} of {len(there.layers)} layers are finished")
    if there.plan is not None:
        corpus, numeric = there.plan.identity["corpus"], there.plan.identity["numeric"]
        print(f"model {there.plan.given['model']}, {corpus['tokens']:,} tokens, {numeric['mode']}")
    if there.done != there.layers:
        merged = there.plan is not None and "parts" in there.plan.identity["corpus"]
        print("" if merged else f"the forward pass goes on with layer {there.boundary}\n", end="")
    print(f"{there.owner} is writing it" if there.owner else "no process is writing it")
    for name, how in there.wrong.items():
        print(f"damaged: {name}: {how}; it will be computed again")
    raise typer.Exit(IntegrityError.exit_code if there.wrong else IncompleteError.exit_code)


@app.command()
def verify(run: Annotated[Path, typer.Argument(help="The --out of a scan.")]) -> None:
    """Check every checksum and every conservation law of a run; needs no model and no corpus.

    [bold]pyneurons verify runs/wiki[/bold]   0 whole; 3 whole as far as it goes; 4 damaged
    """
    from pyneurons._verify import verify as verified

    found = verified(run)
    for problem in found.problems:
        print(f"wrong: {problem}")
    what = f"{found.files} files, {found.statements} statements about their numbers"
    if found.problems:
        message = f"{run}: {len(found.problems)} of {what} do not hold"
        raise IntegrityError(message)
    print(f"{run}: {what}, all hold" + ("" if found.finished else "; the run is not finished"))
    if not found.finished:
        raise typer.Exit(IncompleteError.exit_code)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    neuron: Annotated[
        str | None, typer.Argument(help="LAYER.NEURON; without it the run's summary.")
    ] = None,
) -> None:
    """Print one neuron, or the summary of a run.

    [bold]pyneurons show runs/demo[/bold]
    [bold]pyneurons show runs/demo 3.104[/bold]
    """
    from pyneurons.report import text

    scanned = _scan.load(run)
    console = Console()
    blocks = text.summary(scanned) if neuron is None else text.neuron(scanned, neuron)
    for block in blocks:
        console.print(block)


@app.command()
def which(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    text: Annotated[str, typer.Argument(help="A token or n-gram as it is written, spaces count.")],
) -> None:
    """Print the neurons that detect a token or an n-gram.

    [bold]pyneurons which runs/demo ' import'[/bold]
    """
    from pyneurons.report import text as texts

    scanned = _scan.load(run)
    for block in texts.detecting(scanned, text):
        Console().print(block)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, drawn together.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the figures, or NAME.html; default RUN/figures."),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="A page without text of the corpus.")
    ] = False,
) -> None:
    """Draw the paper's figures of one or more runs, as PNG and SVG, or write a page to walk in.

    A page is one file that opens from disk; data beyond 20 MB go into a folder beside it.

    [bold]pyneurons report runs/demo --out demo.html[/bold]
    [bold]pyneurons report runs/125m runs/1.3b --out sizes.html --no-text[/bold]
    [bold]pyneurons report runs/125m runs/1.3b --out figures[/bold]
    """
    from pyneurons.report import write_figures
    from pyneurons.report.page import write_page

    scans = [_scan.load(run) for run in runs]
    place = out or runs[0] / "figures"
    if place.suffix.lower() == ".html":
        for path in write_page(scans, place, text=not no_text):
            print(path)
        return
    if no_text:
        message = "--no-text: figures have no text of the corpus; it is for a page, --out NAME.html"
        raise InputError(message)
    if place.suffix:
        message = f"--out: {place} has the name of a file; figures need a folder, a page NAME.html"
        raise InputError(message)
    written = write_figures(scans, place)
    print(f"{len(written)} files in {place}")


@app.command()
def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A size such as 66b, a directory with config.json, that file, or demo."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="The eight published sizes.")] = False,
    tokens: Annotated[str, typer.Option(help="Positions to run.")] = "5M",
    context: Annotated[
        int | None, typer.Option(help="Positions of a sequence; default the model's maximum.")
    ] = None,
    ngrams: Annotated[str, typer.Option(help="Orders, such as 1,2,3; '' for none.")] = "1,2,3",
    gpu_memory: Annotated[
        str | None, typer.Option(help="Of the card; default what the first has free, or 80GiB.")
    ] = None,
    host_memory: Annotated[
        str | None,
        typer.Option(help="Of the process; default what is free beside a card, or 64GiB."),
    ] = None,
    disk_space: Annotated[str, typer.Option(help="For scratch files and the run.")] = "1TB",
    disk_bandwidth: Annotated[str, typer.Option(help="Of the drive.")] = "3GB/s",
    pcie_bandwidth: Annotated[str, typer.Option(help="Of each direction.")] = "50GB/s",
    gpu_bandwidth: Annotated[str, typer.Option(help="Of device memory.")] = "3000GB/s",
    gemm_tflops: Annotated[float, typer.Option(help="Of dense 16-bit products.")] = 790,
    attention_tflops: Annotated[float, typer.Option(help="Of causal attention.")] = 400,
    kernel_share: Annotated[
        float, typer.Option(help="Of the rates of the card, what kernels reach.")
    ] = 0.85,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, bytes and seconds.")] = False,
) -> None:
    """Tell what a scan on one GPU would need and take, from config.json alone: no weights, no GPU.

    Where a GPU is visible, the memory that it and the host have free is the default.

    Arithmetic, not a measurement: the rates that it assumes are in its last table.

    [bold]pyneurons plan --all[/bold]
    [bold]pyneurons plan 66b --tokens 5M --gpu-memory 80GiB --host-memory 64GiB --disk-bandwidth 3GB/s[/bold]
    [bold]pyneurons plan ./opt-6.7b --tokens 20M --gpu-memory 24GiB --json[/bold]
    """
    from pyneurons import demo as demo_model
    from pyneurons.engine import device_plan, plan_text
    from pyneurons.engine.quantity import number_of, rate_of, size_of
    from pyneurons.model.checkpoint import find_config
    from pyneurons.model.config import PUBLISHED
    from pyneurons.model.device_memory import device_memory

    if (model is None) != every:
        message = "plan: name a model, or ask for --all" + (", not both" if every else "")
        raise InputError(message)
    number = number_of(tokens, "--tokens")
    usual = device_plan.Budgets()
    free = device_memory() if gpu_memory is None or host_memory is None else {}
    if gpu_memory is None:
        gpu_memory = str(free.get("gpu", usual.gpu_memory))
    if host_memory is None:
        host_memory = str(free.get("host", usual.host_memory))
    budgets = device_plan.Budgets(
        gpu_memory=size_of(gpu_memory, "--gpu-memory"),
        host_memory=size_of(host_memory, "--host-memory"),
        disk_space=size_of(disk_space, "--disk-space"),
    )
    rates = device_plan.Assumptions(
        gemm_tflops=gemm_tflops,
        attention_tflops=attention_tflops,
        kernel_share=kernel_share,
        gpu_bandwidth=rate_of(gpu_bandwidth, "--gpu-bandwidth"),
        pcie_bandwidth=rate_of(pcie_bandwidth, "--pcie-bandwidth"),
        disk_bandwidth=rate_of(disk_bandwidth, "--disk-bandwidth"),
    )
    orders = _numbers(ngrams, "--ngrams") or []

    def planned(config: Any) -> device_plan.DevicePlan:
        return device_plan.make_device_plan(
            config, number, context=context, ngrams=orders, budgets=budgets, assumptions=rates
        )

    if model is not None:
        config = find_config(demo_model.model_directory() if model == _scan.DEMO else model)
        found = planned(config)
        if as_json:
            print(json.dumps({"model": model} | found.as_dict(), indent=2))
        else:
            _print(plan_text.one(model, found, config))
        return
    plans: dict[str, device_plan.DevicePlan | ResourceError] = {}
    for name, config in PUBLISHED.items():
        try:
            plans[name] = planned(config)
        except ResourceError as error:
            plans[name] = error
    if as_json:
        entries = {
            name: {"short": str(one)} if isinstance(one, ResourceError) else one.as_dict()
            for name, one in plans.items()
        }
        print(json.dumps(entries, indent=2))
    else:
        _print(plan_text.several(plans, number, budgets, rates))


def _print(blocks: list[RenderableType]) -> None:
    console = Console()
    for block in blocks:
        console.print(block, highlight=False)


def _printable(text: str) -> str:
    """Escape what a file's names could do to a terminal, and what it could not encode."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _guarded(run: Callable[[], None], stop: Stopping) -> int:
    def say(first: str, *then: str) -> None:
        Console(stderr=True).print(Text.assemble((first, "bold red"), *then), soft_wrap=True)

    try:
        run()
    except _Stopped as stopped:
        say("stopped: ", str(stopped))
        return stop.exit_code
    except PyneuronsError as error:
        say("error: ", _printable("\n".join([str(error), *getattr(error, "__notes__", [])])))
        return error.exit_code
    except OSError as error:
        say("error: ", str(error))
        return ResourceError.exit_code if error.errno in _NO_ROOM else InputError.exit_code
    except Exception as error:
        if not no_memory(error):
            raise
        said = f" ({error})" if str(error) else ""
        advice = f"out of memory{said}; lower memory=, threads= or max_tokens="
        say("error: ", _printable("\n".join([advice, *getattr(error, "__notes__", [])])))
        return OUT_OF_MEMORY
    except SystemExit as ended:
        # typer turns a KeyboardInterrupt into this code, without a word.
        if ended.code == INTERRUPTED:
            say("stopped")
            return stop.exit_code if stop.signal else INTERRUPTED
        raise
    return 0


def main() -> None:
    """Run the command line and exit with a documented code."""
    with stopping() as stop:
        code = _guarded(lambda: app(standalone_mode=True), stop)
    sys.exit(code)
