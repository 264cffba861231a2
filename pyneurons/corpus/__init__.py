"""Text or token ids in, sequences of token ids out, and the index of their n-grams."""

from __future__ import annotations

from pyneurons.corpus.assemble import read
from pyneurons.corpus.corpus import Corpus

__all__ = ["Corpus", "read"]
