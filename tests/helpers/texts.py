"""A small byte-level tokenizer, trained here, and text that is awkward to cut."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

FRAGMENTS = (
    *("a", "B", "ab", "word", "Straße", "naïve", "été", "жук", "字", "漢字かな", "한국어"),
    *(" ", "  ", "   ", "     ", "\n", "\n\n", "\r\n", "\r", "\t", " \n ", "\n ", "\x0b", "\x1c"),
    *("\u00a0", "\u2003", "\u3000", "\u0085", "\u200b", "\u180e", "\ufeff", "\x00"),
    *("'s", "'t", "'re", "'ll", "'", "''", "I'm", "can't", "o'clock", "'S", "\u2019s", "'。a"),
    *("1", "12", "3.14", "1,000", "x2", "2x", "²", "½", "٣", "Ⅷ"),
    *(
        ".",
        ",",
        "...",
        "?!",
        "--",
        "_a_",
        "(b)",
        "[c]",
        "$5",
        "a.b",
        "http://e.x/?q=1",
        "。",
        "、a",
    ),
    *(
        "e\u0301",
        "\u0301",
        "a\u0308\u0323",
        "👍",
        "👩‍👩‍👧",
        "🏳️‍🌈",
        "\U0001f1e9\U0001f1ea",
        "\ufffd",
    ),
    *("</s>", "<s>", "<pad>", "<unk>", "</s", "s>"),
)
"""Runs of white space of many kinds, contractions, scripts, combining marks, special tokens."""


def nasty(seed: int, pieces: int) -> str:
    """Return random text of so many fragments."""
    draw = Random(seed)
    return "".join(draw.choice(FRAGMENTS) for _ in range(pieces))


@lru_cache(maxsize=1)
def description() -> str:
    """Return a byte-level BPE of 600 tokens as JSON, trained on the fragments."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((nasty(seed, 50) for seed in range(200)), trainer)
    return tokenizer.to_str()


def tokenizer() -> Tokenizer:
    """Return a new copy of the trained tokenizer; its special tokens have the ids 0 to 3."""
    made = Tokenizer.from_str(description())
    made.encode_special_tokens = True
    return made


def encode(text: str) -> list[int]:
    """Return the ids of a whole text."""
    ids: list[int] = tokenizer().encode(text, add_special_tokens=False).ids
    return ids
