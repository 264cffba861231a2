"""``scan`` wires the parts; ``load`` reads a finished run."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyneurons import _env
from pyneurons._foreign import told
from pyneurons._progress import Progress
from pyneurons._scanned import Scan
from pyneurons.errors import InputError
from pyneurons.ledger import Plan
from pyneurons.result import FORMAT, Run
from pyneurons.run_writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyneurons.engine.device import Device
    from pyneurons.model.source import WeightSource

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
DEMO = "demo"
UNTRAINED = "demo-untrained"
FLOAT32_ONLY = "torch"  # the backend
FLIP_SAMPLE = 16_384
CHECKPOINT_MINUTES = 10.0
LEAST_LIST_LIMIT = 50  # K of bigrams and trigrams: the default detectors need whole lists


def scan(
    model: str | Path | Any,
    corpus: Any,
    *,
    tokenizer: Any = None,
    context: int | None = None,
    packing: str = "pack",
    ngrams: Sequence[int] = (1, 2, 3),
    layers: Sequence[int] | None = None,
    max_tokens: int | Mapping[str, int] | None = None,
    memory: float | str | None = None,
    gpu_memory: float | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    progress: bool = True,
    text_field: str = "text",
    domain_field: str | None = None,
    document_separator: str | None = None,
    shuffle_seed: int | None = None,
    errors: str = "strict",
    allow_repeats: bool = False,
    list_limit: int = 200,
    flip_sample: int = FLIP_SAMPLE,
    projection: str = "dot",
    residual: str | None = None,
    keep_bits: bool = False,
    fc1_route: str = "auto",
    neuron_order: str = "auto",
) -> Scan:
    """Run a model over a corpus and count, exactly, what every feed-forward neuron does.

    A neuron fires at a position when ``z = fc1(x) + b1 > 0`` there.

    Parameters
    ----------
    model : str or Path
        A checkpoint directory, a Hugging Face id (local cache, or download), ``"demo"``, or
        ``"demo-untrained"`` (the demo's shape with random weights, as a control); or an OPT model
        of transformers, wherever its weights are: `pyneurons.model.loaded`.
    corpus
        A path or glob (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .npy, .bin), an iterable of
        str or of token-id lists, a ``datasets.Dataset``, a dict {domain: any of these}, or
        ``"demo"``. A 2-d .npy holds sequences as they are and is not mixed with documents. The
        boundary id (2) inside a list of ids ends a document there.
    tokenizer : path, tokenizers.Tokenizer or fast tokenizer of transformers, optional
        Of text. Default: the one in the checkpoint's directory; a model that is an object has none.
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
    gpu_memory : number of bytes or str, optional
        Peak memory of a scan on a GPU there. Default: what is free.
    device : {"auto", "cpu", "cuda"}
        ``"cuda"``: the first GPU that torch sees; layer by layer, weights streamed from disk, the
        residual stream and the bits in its memory, in the host's or in a file (`pyneurons plan` tells
        which). ``"auto"`` is the CPU: no GPU has run this program's tests yet.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Numeric mode; ``"auto"`` is bfloat16 where the processor multiplies it, else float32; on a GPU
        the checkpoint's where that has 16 bits, else bfloat16. float16 is for GPUs alone.
        float32 multiplies by parts of bfloat16 where the backend has AMX, as exactly as torch and
        faster; elsewhere, and with the backend ``"torch"``, torch multiplies. The manifest says
        which (``numeric.float32_products``).
    backend : str
        Of the ops: ``"auto"`` or a name of `pyneurons.backends.names`; ``"torch"`` multiplies
        float32 only.
    threads : int, optional
        Default: the processors this process may use. Results do not depend on it.
    out : path, optional
        Run directory. Default: a temporary one that lives as long as the result. With ``out`` a run
        that was stopped, by whatever, goes on when it is asked for again, layer by layer, to the
        same bits; one that is finished is returned.
    resume : bool
        False: refuse to go on with a run that was begun at ``out``.
    overwrite : bool
        Begin anew. A finished run at ``out`` is replaced only when the new one is complete.
    checkpoint_minutes : float
        Between two copies of the residual stream on disk, beside the counters of each finished layer:
        what a run that is stopped may have to repeat of the forward pass. 0: after each layer; inf: no
        copy.
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
    allow_repeats : bool
        Take a file that the corpus has already, by another name or as a copy.
    list_limit : int
        Neurons with a covering number up to this keep the list of all their n-grams, so that
        thresholds can be swept afterwards; at least 50.
    flip_sample : int
        Tokens repeated in float32 to count flipped bits when the mode is not float32; 0: none.
    projection : {"dot", "cosine", "final_norm"}
        How updates are projected onto the vocabulary.
    residual : {"memory", "file"}, optional
        Where the residual stream is kept. Default: as the memory allows.
    keep_bits : bool
        Keep the bits of every layer in the run (N * F / 8 bytes a layer).
    fc1_route : {"auto", "fused", "torch"}
        On a GPU: multiply by fc1 in one kernel with all that is kept of it, or by torch and pack after
        it. ``"auto"`` times both before the first layer; the manifest says which was the faster
        (``numeric.fc1_route``). Name one for runs that are to be equal to the bit; a run that goes on is
        refused where another one was faster this time.
    neuron_order : {"auto", "off"}
        On a GPU: whether a layer whose first micro-batch leaves many neurons silent is run with its
        neurons in the order of their fires there, so that fc2 skips more. Results are by neuron; fc2's
        sums have another order. The manifest names the layers (``numeric.neuron_order``). Off with
        ``keep_bits``.

    Returns
    -------
    Scan

    Raises
    ------
    InputError
        Bad arguments or files, before any compute; or a run of something else at ``out``, with each
        field that differs; or another process that writes there.
    ResourceError
        The memory given is predicted not to suffice, or there is less than was predicted, or the
        disk is full or fails. What is finished of a run with ``out`` is kept.
    MemoryError
        Where Python itself finds none.
    DeviceError
        The GPU failed. This process cannot use it any more; another one goes on.
    IntegrityError
        Non-finite values, counters that contradict each other, or files that changed since the run
        at ``out`` was begun.
    """
    from pyneurons import backends, demo
    from pyneurons import corpus as corpora
    from pyneurons.engine import device_run
    from pyneurons.engine.identity import identity
    from pyneurons.engine.plan import parse_memory
    from pyneurons.engine.quantity import size_of
    from pyneurons.engine.record import write_tokens
    from pyneurons.engine.run import Engine, Settings
    from pyneurons.model.checkpoint import load_tokenizer
    from pyneurons.model.tokenizer import identity as tokenizer_identity
    from pyneurons.model.tokenizer import tokenizer_of
    from pyneurons.observers.unembedding import PROJECTIONS

    began = time.time()
    _choice("device", device, DEVICES)
    _choice("dtype", dtype, DTYPES)
    _choice("projection", projection, PROJECTIONS)
    _choice("residual", residual, (None, "memory", "file"))
    _choice("fc1_route", fc1_route, ("auto", "fused", "torch"))
    _choice("neuron_order", neuron_order, ("auto", "off"))
    orders = _orders(ngrams)
    if list_limit < LEAST_LIST_LIMIT or flip_sample < 0 or (threads is not None and threads < 1):
        message = f"list_limit={list_limit}, flip_sample={flip_sample}, threads={threads}: "
        message += f"expected list_limit >= {LEAST_LIST_LIMIT}, flip_sample >= 0, threads >= 1"
        raise InputError(message)
    if not checkpoint_minutes >= 0:
        message = f"checkpoint_minutes: {checkpoint_minutes} is not 0 or more"
        raise InputError(message)
    memory_bytes = parse_memory(memory)
    gpu_bytes = None if gpu_memory is None else size_of(gpu_memory, "gpu_memory")
    own_tokenizer = None if tokenizer is None else tokenizer_of(tokenizer)
    hardware = open_device() if device == "cuda" else None
    chosen = backends.resolve(_backend(backend, device))

    with tempfile.TemporaryDirectory(prefix="pyneurons-") as scratch:
        checkpoint = open_model(model, Path(scratch))
        if own_tokenizer is None and checkpoint.directory is not None:
            own_tokenizer = load_tokenizer(checkpoint.directory)
        config = checkpoint.config
        mode = _mode(dtype, chosen.name, checkpoint if hardware is not None else None)
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
            told(_advice(hardware is not None)),
            Progress(enabled=progress) as shown,
            RunWriter(place, overwrite=overwrite, resume=resume, lasting=out is not None) as writer,
        ):
            tokens = corpora.read(
                demo.demo_corpus() if isinstance(corpus, str) and corpus == DEMO else corpus,
                own_tokenizer,
                context=context,
                packing=packing,
                vocab_size=config.vocab_size,
                text_field=text_field,
                domain_field=domain_field,
                document_separator=document_separator,
                max_tokens=max_tokens,
                shuffle_seed=shuffle_seed,
                errors=errors,
                allow_repeats=allow_repeats,
                progress=_reading(shown),
                scratch=Path(scratch),
            )
            route: dict[str, Any] = {}
            if hardware is not None:
                chosen_route = device_run.fc1_route(
                    fc1_route, config, tokens.context, mode, hardware
                )
                fc1_route = chosen_route["route"]
                route["fc1_route"] = chosen_route
            settings = Settings(
                layers=wanted,
                ngrams=orders,
                mode=mode,
                backend=chosen.name,
                float32_products=chosen.float32_products,
                threads=threads or _env.cpu_count(),
                memory_bytes=memory_bytes,
                list_limit=list_limit,
                flip_sample=flip_sample,
                keep_bits=keep_bits,
                projection=projection,
                residual=residual,
                gpu_memory=gpu_bytes,
                fc1_route=fc1_route,
                neuron_order=neuron_order,
                checkpoint_minutes=checkpoint_minutes,
            )
            if out is not None:
                made = identity(checkpoint, tokens, settings, hardware)
                checkpoint.expect(made["model"]["weights"])
                if tokenizer is not None and own_tokenizer is not None:
                    named = tokenizer_identity(own_tokenizer) or {}
                    made["model"] |= {"tokenizer": {}, "given_tokenizer": named["sha256"]}
                asked = {
                    "model": str(model),
                    "corpus": [source["path"] for source in tokens.sources],
                    "max_tokens": dict(max_tokens)
                    if isinstance(max_tokens, Mapping)
                    else max_tokens,
                    "shuffle_seed": shuffle_seed,
                    "text_field": text_field,
                    "domain_field": domain_field,
                    "document_separator": document_separator,
                    "errors": errors,
                }
                if writer.begin(Plan(made, asked)):
                    tokens.close()
                    return Scan(Run.open(place))
                for name, how in writer.set_aside.items():
                    shown.warn(f"{name}: {how}; it is computed again")
            given = (checkpoint, tokens, settings, writer, shown)
            engine = (
                Engine(*given) if hardware is None else device_run.DeviceEngine(hardware, *given)
            )
            outcome = engine.run()
            manifest = {
                "format": FORMAT,
                "pyneurons": version("pyneurons-scan"),
                "layers": list(wanted),
                "model": _model_entry(model, checkpoint, own_tokenizer),
                "corpus": tokens.manifest(),
                "settings": {
                    "context": tokens.context,
                    "packing": tokens.packing,
                    "ngrams": list(orders),
                    "list_limit": list_limit,
                    "projection": projection,
                    "flip_sample": flip_sample,
                    "keep_bits": keep_bits,
                    "shuffle_seed": shuffle_seed,
                    "max_tokens": max_tokens if max_tokens is None else _plain(max_tokens),
                },
                "numeric": {
                    "mode": settings.mode,
                    "float32_products": settings.float32_products,
                    "residual": "float32",
                    "flips": outcome["flips"],
                    **route,
                    **({"neuron_order": ordered} if (ordered := outcome["neuron_order"]) else {}),
                },
                "plan": outcome["plan"],
                "timing": outcome["timing"]
                | {"began_unix_s": began, "computed_again": sorted(writer.set_aside)},
                "environment": _environment(chosen.name, chosen.isa),
            }
            write_tokens(writer, tokens)
            partial = Scan(writer.view(manifest))
            writer.append("neurons", partial.neuron_table())
            manifest["timing"]["commit_s"] = writer.commit_s
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


def _advice(on_device: bool) -> str:
    """Return what to do where there is less memory than was planned for."""
    if on_device:
        return (
            "give gpu_memory= and memory= less than was free, and the plan keeps more elsewhere; "
            "nothing is made smaller unasked"
        )
    return "give memory= less than was free, and the plan keeps more in files; or lower threads="


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


def open_model(model: str | Path | Any, scratch: Path) -> WeightSource:
    """Return the weights of a model, named as for `scan`; what has to be made goes to ``scratch``."""
    from pyneurons import demo
    from pyneurons.model.checkpoint import Checkpoint, resolve
    from pyneurons.model.loaded import LoadedModel

    if not isinstance(model, (str, Path)):
        return LoadedModel(model)
    if model == DEMO:
        return Checkpoint(demo.model_directory())
    if model == UNTRAINED:
        return Checkpoint(demo.untrained_twin(scratch / "untrained"))
    return Checkpoint(resolve(model))


def open_device() -> Device[Any]:
    """Return the GPU.

    Raises
    ------
    BackendUnavailable
        If torch sees none.
    """
    from pyneurons.engine.device_cuda import CudaDevice

    return CudaDevice()


def _backend(backend: str, device: str) -> str | None:
    """Return the name of a backend: on a GPU CUDA's kernels where they are built, else Triton's."""
    from pyneurons import backends

    if backend != "auto":
        return backend
    if device != "cuda":
        return None
    return "cuda" if backends.why_not("cuda") is None else "triton"


def _mode(dtype: str, backend: str, on_device: WeightSource | None) -> str:
    if on_device is not None and dtype == "auto":
        stored = on_device.dtype
        return str(stored).removeprefix("torch.") if stored.itemsize == 2 else "bfloat16"
    if on_device is None and dtype == "float16":
        message = "dtype: float16 is for device='cuda'; on the CPU pass 'bfloat16' or 'float32'"
        raise InputError(message)
    if backend == FLOAT32_ONLY:
        if dtype == "bfloat16":
            message = f"backend: {backend!r} multiplies float32 only, not dtype {dtype!r}"
            raise InputError(message)
        return "float32"
    if dtype != "auto":
        return dtype
    return "bfloat16" if _env.multiplies_bfloat16() else "float32"


def _plain(max_tokens: int | Mapping[str, int]) -> int | dict[str, int]:
    return max_tokens if isinstance(max_tokens, int) else dict(max_tokens)


def _temporary_run(kept: ExitStack) -> Path:
    """Make a directory that goes when ``kept`` is closed; return the run's place in it."""
    home = tempfile.mkdtemp(prefix="pyneurons-run-")
    # It runs when the result is collected, or at exit, where an error would reach nobody.
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


def _model_entry(model: object, checkpoint: WeightSource, tokenizer: Any) -> dict[str, Any]:
    from pyneurons.model.tokenizer import identity

    config, directory = checkpoint.config, checkpoint.directory
    given = str(model) if isinstance(model, (str, Path)) else f"{type(model).__name__} object"
    named = given in (DEMO, UNTRAINED)
    return {
        "name": checkpoint.name if directory is None else given if named else Path(given).name,
        "given": given,
        "directory": None if directory is None else str(directory),
        "fingerprint": checkpoint.fingerprint(),
        "weights_sha256": checkpoint.weights_sha256(),
        "not_read": list(checkpoint.extra),
        "tokenizer": identity(tokenizer),
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
