"""The reference as a backend: every op on one thread, whatever `threads` says."""

from __future__ import annotations

from typing import Any

from pyneurons import reference
from pyneurons.backends import Backend, Op


def load(name: str) -> Backend:
    """Return the backend; it runs everywhere."""
    return Backend(
        name=name,
        isa=None,
        segment_counts=_one_thread(reference.segment_counts),
        firing_rows=_one_thread(reference.firing_rows),
        first_segments=_one_thread(reference.first_segments),
        ngram_keys=_one_thread(reference.ngram_keys),
        ngram_coverage=_one_thread(reference.ngram_coverage),
        ngram_triggers=_one_thread(reference.ngram_triggers),
        layer_norm=_one_thread(reference.layer_norm),
        ffn=_one_thread(reference.ffn),
        attention=_one_thread(reference.attention),
        linear=_one_thread(reference.linear),
        float32_products="torch",
        float16=True,
    )


def _one_thread(op: Op) -> Op:
    def run(*arguments: Any, threads: int) -> None:  # noqa: ARG001
        op(*arguments)

    return run
