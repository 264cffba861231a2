"""The tokenizer beside a checkpoint, as a plain map from text to token ids."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyneurons.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


CANARY: Final = "The 3 caf\u00e9s' prices, isn't it?\n  \u65e5\u672c\u8a9e </s>"
"""Text whose ids tell tokenizers apart: a capital, digits, accents, marks, spaces, a special token."""


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """Return the tokenizer of a checkpoint directory, or None where there is none.

    tokenizer.json is taken first, then vocab.json with merges.txt (a byte-level BPE, as OPT's).
    Nothing is added, cut or padded: no BOS, no template, no truncation. Special tokens written in
    a text are ordinary text.

    Raises
    ------
    InputError
        If a file is there and cannot be read as what it is named.
    """
    whole = directory / "tokenizer.json"
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    if not whole.is_file() and not (vocabulary.is_file() and merges.is_file()):
        return None
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # The tokenizers library raises plain Exception for every kind of bad file.
    if whole.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(whole))
        except Exception as error:
            message = f"{whole}: not a tokenizer ({error})"
            raise InputError(message) from error
    else:
        try:
            model = models.BPE.from_file(str(vocabulary), str(merges))
        except Exception as error:
            message = f"{vocabulary}, {merges.name}: not a byte-level BPE ({error})"
            raise InputError(message) from error
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    return _plain(tokenizer)


def tokenizer_of(given: object) -> Tokenizer:
    """Return a tokenizer that was given instead of a directory's, as `load_tokenizer` returns them.

    Parameters
    ----------
    given : str, Path, tokenizers.Tokenizer or a fast tokenizer of transformers
        A directory, or an object, which is copied.

    Raises
    ------
    InputError
        If it is none of these, or a directory without a tokenizer.
    """
    from tokenizers import Tokenizer

    if isinstance(given, (str, Path)):
        found = load_tokenizer(Path(given).expanduser())
        if found is None:
            message = (
                f"tokenizer: {given} holds neither tokenizer.json nor vocab.json and merges.txt"
            )
            raise InputError(message)
        return found
    inner = getattr(given, "backend_tokenizer", given)
    if not isinstance(inner, Tokenizer):
        message = f"tokenizer: a {type(given).__name__} is neither a directory, nor a "
        message += "tokenizers.Tokenizer, nor a fast tokenizer of transformers"
        raise InputError(message)
    try:
        return _plain(Tokenizer.from_str(inner.to_str()))
    except Exception as error:
        message = f"tokenizer: cannot be copied, so it has parts written in Python: {error}"
        raise InputError(message) from error


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """Take from a tokenizer all that adds, cuts or pads."""
    tokenizer.post_processor = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def identity(tokenizer: Tokenizer | None) -> dict[str, Any] | None:
    """Return what tells this tokenizer from others: a SHA-256 of all it does, and the canary's ids."""
    if tokenizer is None:
        return None
    return {
        "sha256": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "canary": CANARY,
        "canary_ids": tokenizer.encode(CANARY, add_special_tokens=False).ids,
    }
