r"""Tokenisation of a stream of text in bounded memory, equal to that of each whole document.

Where text may be cut. A byte-level tokenizer (GPT-2's, which OPT uses) first splits text with

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

and encodes every match by itself. The classes L (letters), N (numbers), S (white space) and O (the
rest) partition all characters, so the matches lie end to end, found from left to right without
looking back. Suppose no match can contain the two neighbours ``ab`` in this order. Then in the
whole text one match ends after ``a`` and the next begins at ``b``. The matches up to ``a`` are those
of the text cut after ``a``: a match looks at most one character past its end, and only white space
does (``\s+(?!\S)``), so if ``a`` is no white space nothing before the cut looks past it. The matches
from ``b`` on never look back. So the two sides encoded apart give the ids of the whole. Such pairs:

- ``a`` no white space, ``b`` white space: white space stands only first in a match, or the match is
  nothing but white space.
- ``a`` in O except the apostrophe, ``b`` in L or N; ``a`` in N, ``b`` in L: of the alternatives with
  more than one class, one begins with white space and the others with an apostrophe.

`_CUT` names pairs of these kinds by characters whose class no version of Unicode disputes. Text
without such a pair (a long run of one letter, or of spaces) is held until one comes.

Any other tokenizer gets whole documents.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from pyneurons.corpus.documents import BOUNDARY_ID, Ids, Part, check_ids
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from tokenizers import Tokenizer

PIECE_CHARACTERS: Final = 1 << 15
"""Text longer than this is cut, so that one document is encoded on all threads."""

BATCH_CHARACTERS: Final = 1 << 20
BATCH_PIECES: Final = 1 << 13
"""Bounds of what is encoded in one call: about 100 bytes of memory a token meanwhile."""

# Letters and digits of one class since Unicode 1.1: Latin, Cyrillic, kana, Chinese, Hangul (2.0).
_LETTERS: Final = "A-Za-zА-яあ-んア-ン一-龥가-힣"  # noqa: RUF001
_MARKS: Final = r"!-&(-/:-@\[-`{-~。、！？；：」』）"  # noqa: RUF001
_CUT: Final = re.compile(
    rf"\S(?=[ \n])|[{_MARKS}](?=[{_LETTERS}0-9])|[0-9](?=[{_LETTERS}])",
)

# Cuts are looked for backwards, in stretches of this many characters.
_STRETCH: Final = 512


class _Piece(NamedTuple):
    """Text that is encoded by itself; ``last`` ends its document."""

    text: str
    last: bool
    domain: str
    where: str


def last_cut(text: str, start: int, end: int) -> int:
    """Return the last place in (start, end) where text may be cut; ``start`` if there is none."""
    high = end
    while high > start:
        low = max(start, high - _STRETCH)
        cut = start
        for match in _CUT.finditer(text, low, high):
            cut = match.end()
        if cut > start:
            return cut
        # One character of overlap: a pair may lie across the border.
        high = low + 1 if low > start else start
    return start


def cut_text(text: str, size: int) -> Iterator[str]:
    """Cut text at allowed places into pieces of at most ``size`` characters, where it can be."""
    start = 0
    while len(text) - start > size:
        cut = last_cut(text, start, start + size)
        if cut == start:
            match = _CUT.search(text, start + size - 1)
            if match is None:
                break
            cut = match.end()
        yield text[start:cut]
        start = cut
    yield text[start:]


class TextEncoder:
    """Encodes parts of documents with a private copy of a tokenizer.

    Special tokens written in the text are ordinary text, none is added, and neither truncation nor
    padding of the tokenizer's file is in force.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Left as it is.
    vocab_size : int
        Ids of text must be below.
    piece_characters : int
        Where longer text is cut.

    Raises
    ------
    InputError
        If the tokenizer drops merges at random, or cannot be copied.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, piece_characters: int = PIECE_CHARACTERS
    ) -> None:
        from tokenizers import Tokenizer  # token ids need none

        try:
            description = tokenizer.to_str()
        except Exception as error:  # the Rust side raises plain Exception
            message = f"tokenizer: cannot be copied, so it has parts written in Python: {error}"
            raise InputError(message) from error
        self._tokenizer = Tokenizer.from_str(description)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        state = json.loads(description)
        if state["model"].get("dropout"):
            message = "tokenizer: its model drops merges at random; set dropout to null"
            raise InputError(message)
        self.cuts = _may_cut(state)
        self._vocab_size = vocab_size
        self._piece_characters = piece_characters

    def encode(self, parts: Iterable[Part]) -> Generator[Part, None, None]:
        """Yield the parts with ids in place of text, in the same order.

        Raises
        ------
        InputError
            For an id outside the vocabulary, or text that gives the boundary id.
        """
        batch: list[_Piece] = []
        characters = 0
        for piece in self._pieces(parts):
            if isinstance(piece, Part):
                yield from self._flush(batch)
                batch, characters = [], 0
                yield piece
                continue
            batch.append(piece)
            characters += len(piece.text)
            if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_PIECES:
                yield from self._flush(batch)
                batch, characters = [], 0
        yield from self._flush(batch)

    def _pieces(self, parts: Iterable[Part]) -> Iterator[_Piece | Part]:
        """Cut text at allowed places only; parts that are ids pass through."""
        held: list[str] = []
        for part in parts:
            text = part.content
            if not isinstance(text, str):
                yield part
                continue
            if not part.last:
                # Up to the last cut the text is ready; one character before it tells the first.
                before = held[-1][-1:] if held else ""
                seen = before + text
                cut = last_cut(seen, 0, len(seen)) if self.cuts else 0
                if cut == 0:
                    if text:
                        held.append(text)
                    continue
                ready = "".join([*held, text[: cut - len(before)]])
                held = [text[cut - len(before) :]]
            else:
                ready = "".join([*held, text])
                held = []
            *pieces, final = cut_text(ready, self._piece_characters) if self.cuts else (ready,)
            for piece in pieces:
                yield _Piece(piece, False, part.domain, part.where)
            yield _Piece(final, part.last, part.domain, part.where)

    def _flush(self, batch: list[_Piece]) -> Iterator[Part]:
        if not batch:
            return
        texts = [piece.text for piece in batch]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        lists = [encoding.ids for encoding in encodings]
        ends = list(accumulate(map(len, lists)))
        raw = np.fromiter(chain.from_iterable(lists), np.uint32, ends[-1])

        def where(at: int) -> str:
            piece = batch[int(np.searchsorted(ends, at, side="right"))]
            return f"{piece.where}: {self._tokenizer.id_to_token(int(raw[at]))!r}"

        ids: Ids = check_ids(raw, self._vocab_size, where)
        reserved = np.flatnonzero(ids == BOUNDARY_ID)
        if reserved.size:
            message = (
                f"{where(int(reserved[0]))}: text gives token id {BOUNDARY_ID}, which is kept for "
                "</s>; this is not the model's tokenizer"
            )
            raise InputError(message)
        start = 0
        for piece, end in zip(batch, ends, strict=True):
            yield Part(ids[start:end], piece.last, piece.domain, piece.where)
            start = end


def _may_cut(state: dict[str, Any]) -> bool:
    """Tell from a tokenizer's description whether the argument above holds for it."""
    split = state["pre_tokenizer"] or {}
    return (
        state["normalizer"] is None
        and split.get("type") == "ByteLevel"
        and not split.get("add_prefix_space")
        and bool(split.get("use_regex", True))
        # An added token is cut out of the text before the split. One that is not special stays
        # so; if it holds or eats no white space and no pair of `_CUT`, no cut goes through it.
        and all(
            token["special"]
            or not (
                token["lstrip"]
                or token["rstrip"]
                or token["single_word"]
                or re.search(r"\s", token["content"])
                or _CUT.search(token["content"])
            )
            for token in state["added_tokens"]
        )
    )
