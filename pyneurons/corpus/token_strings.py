"""What each token id stands for, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def byte_alphabet() -> dict[str, int]:
    """Return the byte of each character with which a byte-level vocabulary writes bytes.

    Printable bytes of Latin-1 stand for themselves, the other 68 for U+0100 and on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + at): byte for at, byte in enumerate(others)}


def token_strings(tokenizer: Tokenizer, vocab_size: int) -> list[str | None]:
    """Return the text of every token id below ``vocab_size``; None where there is no token.

    A token of a byte-level vocabulary is bytes; where they are no whole characters, U+FFFD stands
    for what is cut. Added tokens and tokens of another kind of vocabulary are given as written.
    """
    alphabet = byte_alphabet()
    added = tokenizer.get_added_tokens_decoder()
    strings: list[str | None] = [None] * vocab_size
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if index >= vocab_size:
            continue
        if index in added or not all(character in alphabet for character in token):
            strings[index] = token
        else:
            data = bytes(alphabet[character] for character in token)
            strings[index] = data.decode("utf-8", errors="replace")
    return strings
