"""The process in which ``pyneurons convert`` reads pickled weights: limits first, then files.

Reads one JSON object from standard input, writes JSON lines to standard output: ``{"total": bytes}``,
``{"written": bytes}`` as it goes on, at the end ``{"done": ...}`` or ``{"error": text, "code": n}``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyneurons import _env
from pyneurons.errors import InputError, PyneuronsError
from pyneurons.model.safetensors_writer import Described, in_file_order, write_file
from pyneurons.model.torch_file import MOST_STRIDED_BYTES, StoredTensor, TorchFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MEMORY_BYTES: Final = 512 << 20
"""Address space beyond what the process has when it begins: pickles, headers, pieces of tensors."""

_SAY_EVERY: Final = 64 << 20
_HEAD: Final = "lm_head.weight"
_EMBEDDINGS: Final = ("model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@dataclass(frozen=True)
class Job:
    """What to convert, and into which folder."""

    files: tuple[Path, ...]
    weight_map: Mapping[str, str] | None
    out: Path
    shard_bytes: int
    tied: bool


def set_limits(input_bytes: int, files: int) -> None:
    """Bound what this process may take, whatever the files say.

    Address space, processor time (a minute, and a second for each 5 MB), size of a written file, open
    files, no core dump. No new processes, where the system applies that limit to this user.
    """
    virtual = _env.virtual_bytes()
    if virtual is not None:
        # The soft limit is raised by `_read_all`, only when a strided tensor needs it.
        most = virtual + MEMORY_BYTES
        _limit(resource.RLIMIT_AS, most, most + 2 * MOST_STRIDED_BYTES)
    seconds = 60 + input_bytes // 5_000_000
    _limit(resource.RLIMIT_CPU, seconds, seconds + 5)
    _limit(resource.RLIMIT_FSIZE, 2 * input_bytes + (1 << 20))
    _limit(resource.RLIMIT_NOFILE, files + 32)
    _limit(resource.RLIMIT_CORE, 0)
    if hasattr(resource, "RLIMIT_NPROC"):
        _limit(resource.RLIMIT_NPROC, 0)


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit; one that is lower already stays."""
    hard = soft if hard is None else hard
    now_soft, now_hard = resource.getrlimit(kind)
    if now_hard != resource.RLIM_INFINITY:
        hard = min(hard, now_hard)
    if now_soft != resource.RLIM_INFINITY:
        soft = min(soft, now_soft)
    resource.setrlimit(kind, (min(soft, hard), hard))


def convert(job: Job, say: Callable[[dict[str, Any]], None]) -> None:
    """Write the tensors of torch files as safetensors; tells ``say`` how far it is.

    Raises
    ------
    InputError
        If a file is refused, a tensor is in two files, or the index and the files disagree.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(TorchFile(path)) for path in job.files]
        found = _by_name(files, job)
        aliases = _tied_head(found) if job.tied else ()
        for name in aliases:
            del found[name]
        total = sum(tensor.bytes for _, tensor in found.values())
        most = 2 * sum(file.size for file in files)
        if total > most:
            message = (
                f"{job.files[0]}: tensors of {total:,} bytes in all view storages of fewer than "
                f"{most // 2:,}; at most twice as many are written"
            )
            raise InputError(message)
        _allow_strided(tensor for _, tensor in found.values())
        say({"total": total})
        written = said = 0

        def pieces(described: Described) -> Iterator[bytes | memoryview]:
            nonlocal written, said
            file, tensor = found[described.name]
            for piece in file.read(tensor):
                yield piece
                written += len(piece)
                if written - said >= _SAY_EVERY or written == total:
                    said = written
                    say({"written": written})

        shards = _shards([(name, tensor) for name, (_, tensor) in found.items()], job.shard_bytes)
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            path = job.out / shard_name(number, len(shards))
            write_file(path, in_file_order(shard), pieces)
            weight_map |= dict.fromkeys((tensor.name for tensor in shard), path.name)
    done = {"tensors": len(found), "bytes": total, "files": len(shards), "tied": aliases}
    say({"done": done | {"weight_map": weight_map}})


def shard_name(number: int, count: int) -> str:
    """Return the name of a file of weights, as transformers names it."""
    if count == 1:
        return "model.safetensors"
    return f"model-{number:05}-of-{count:05}.safetensors"


def _by_name(files: Iterable[TorchFile], job: Job) -> dict[str, tuple[TorchFile, StoredTensor]]:
    found: dict[str, tuple[TorchFile, StoredTensor]] = {}
    for file in files:
        for name, tensor in file.tensors.items():
            if name in found:
                message = f"{file.path}: {name[:200]!r} is in {found[name][0].path.name} as well"
                raise InputError(message)
            found[name] = file, tensor
    if job.weight_map is not None:
        held = {(name, file.path.name) for name, (file, _) in found.items()}
        wrong = sorted(held ^ set(job.weight_map.items()))
        if wrong:
            named = ", ".join(f"{name[:200]!r} in {file}" for name, file in wrong[:10])
            message = (
                f"{job.files[0].parent}: the index does not agree with the files about "
                f"{len(wrong)} tensors: {named}"
            )
            raise InputError(message)
    return found


def _tied_head(found: Mapping[str, tuple[TorchFile, StoredTensor]]) -> tuple[str, ...]:
    """Return the head, where it is the very memory of the embeddings: a second copy says nothing."""
    for name in _EMBEDDINGS:
        if name in found and _HEAD in found:
            (file, tensor), (other, head) = found[name], found[_HEAD]
            if file is other and tensor.same_memory(head):
                return (_HEAD,)
    return ()


def _allow_strided(tensors: Iterable[StoredTensor]) -> None:
    """Raise the soft limit of the address space by what the largest strided tensor needs."""
    needed = max(
        (tensor.span + tensor.bytes for tensor in tensors if not tensor.contiguous), default=0
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if needed and soft != resource.RLIM_INFINITY:
        wanted = soft + needed
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _shards(tensors: list[tuple[str, StoredTensor]], most_bytes: int) -> list[list[Described]]:
    """Cut the list into files of at most ``most_bytes``; a larger tensor gets one for itself."""
    shards: list[list[Described]] = []
    filled = 0
    for name, tensor in tensors:
        if not shards or filled + tensor.bytes > most_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(Described(name, tensor.dtype, tensor.shape, tensor.bytes))
        filled += tensor.bytes
    return shards


def main() -> None:
    """Do the job on standard input, and say what became of it."""
    given = json.loads(sys.stdin.read())
    job = Job(
        files=tuple(Path(file) for file in given["files"]),
        weight_map=given["weight_map"],
        out=Path(given["out"]),
        shard_bytes=given["shard_bytes"],
        tied=given["tied"],
    )
    set_limits(given["input_bytes"], len(job.files))
    code = 0
    try:
        convert(job, _say)
    except PyneuronsError as error:
        code = error.exit_code
        _say({"error": str(error), "code": code})
    except MemoryError:
        code = 5
        limit = f"{MEMORY_BYTES >> 20} MiB"
        _say({"error": f"{job.files[0].parent}: reading takes more than {limit}", "code": code})
    sys.stdout.flush()
    # Nothing of this process is needed any more, least of all a collection of what was read.
    os._exit(code)


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
