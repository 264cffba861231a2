"""Streaming tokenisation gives the ids of the whole text, wherever the stream is cut."""

from __future__ import annotations

import json
import tracemalloc
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

import texts
from pyneurons import corpus
from pyneurons.corpus import bytestreams, tokenise
from pyneurons.corpus.documents import Part
from pyneurons.corpus.token_strings import byte_alphabet, token_strings
from pyneurons.corpus.tokenise import TextEncoder, cut_text, last_cut
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

V = 600


def parts_of(text: str, cuts: Random, largest: int, domain: str = "d") -> list[Part]:
    """Cut one document into parts of random sizes, 0 to ``largest``."""
    parts = []
    start = 0
    while start < len(text):
        end = start + cuts.randint(0, largest)
        parts.append(Part(text[start:end], False, domain, "here"))
        start = end
    return [*parts, Part("", True, domain, "here")]


def streamed(encoder: TextEncoder, parts: list[Part]) -> list[int]:
    return [int(token) for part in encoder.encode(parts) for token in part.content]


@pytest.mark.parametrize("largest", [1, 2, 5, 40])
@pytest.mark.parametrize("piece", [1, 2, 7, 50])
def test_any_cut_gives_the_ids_of_the_whole(largest: int, piece: int) -> None:
    encoder = TextEncoder(texts.tokenizer(), V, piece)
    assert encoder.cuts
    for seed in range(12):
        text = texts.nasty(seed, 300)
        cuts = Random(seed)
        assert streamed(encoder, parts_of(text, cuts, largest)) == texts.encode(text), seed


def test_text_is_cut_as_finely_as_it_can_be() -> None:
    # A cutter that never cuts would pass the test above.
    pieces = list(cut_text("one two,three 4five\n\n\nsix's 字。字", 1))
    assert pieces == ["one", " two,", "three", " 4", "five", "\n\n\nsix's", " 字。", "字"]
    assert "".join(cut_text("x" * 100, 7)) == "x" * 100


@pytest.mark.parametrize(
    ("text", "cut"),
    [("a ", 1), ("' ", 1), (".a", 1), ("1a", 1), ("字\n", 1), ("a\r\n", 0), ("a\t", 0)]
    # What one match may hold, or what nobody promises.
    + [(text, 0) for text in ("", "a", "it's", " a", " .", "ab", "12", "a1", "''", "'s", "\n\n")],
)
def test_where_text_may_be_cut(text: str, cut: int) -> None:
    assert last_cut(text, 0, len(text)) == cut


def test_the_last_cut_is_found_across_stretches() -> None:
    for before in (1, 510, 511, 512, 513, 1023, 1500):
        for after in (1, 511, 512, 513, 2000):
            text = "x" * before + " " + "y" * after
            assert last_cut(text, 0, len(text)) == before
            assert last_cut(text, before, len(text)) == before  # as its start: none found
            assert last_cut(text, 0, before + 1) == before
            assert last_cut(text, 0, before) == 0


def test_long_text_without_a_place_to_cut_is_held() -> None:
    encoder = TextEncoder(texts.tokenizer(), V, 8)
    text = "a" * 3000 + "\n" * 3000 + "'" * 100
    assert streamed(encoder, parts_of(text, Random(0), 100)) == texts.encode(text)


def test_documents_in_batches_keep_order_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "BATCH_CHARACTERS", 64)
    monkeypatch.setattr(tokenise, "BATCH_PIECES", 3)
    encoder = TextEncoder(texts.tokenizer(), V, 16)
    documents: list[str | list[int]] = [texts.nasty(seed, seed % 13) for seed in range(40)]
    documents[7] = [5, 6, 7]
    documents[8] = [8]
    parts = []
    for number, document in enumerate(documents):
        if isinstance(document, str):
            parts += parts_of(document, Random(number), 9, str(number))
        else:
            parts.append(Part(np.array(document, np.uint16), True, str(number), ""))
    got: dict[str, list[int]] = {}
    ended = []
    for part in encoder.encode(parts):
        assert part.domain not in ended
        got.setdefault(part.domain, []).extend(part.content.tolist())
        if part.last:
            ended.append(part.domain)
    assert ended == [str(number) for number in range(40)]
    expected = [texts.encode(d) if isinstance(d, str) else d for d in documents]
    assert [got[str(number)] for number in range(40)] == expected


def test_special_tokens_in_text_are_text() -> None:
    tokenizer = texts.tokenizer()
    tokenizer.encode_special_tokens = False
    assert tokenizer.encode("a</s>b").ids[1] == 2
    ids = streamed(TextEncoder(tokenizer, V), [Part("a</s><s><pad>b", True, "d", "")])
    assert ids == texts.encode("a</s><s><pad>b")
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.encode_special_tokens is False  # the caller's own is left as it is


def test_truncation_padding_and_post_processor_are_not_in_force() -> None:
    tokenizer = texts.tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50, pad_id=1)
    text = "many words in one short document"
    assert streamed(TextEncoder(tokenizer, V), [Part(text, True, "d", "")]) == texts.encode(text)


def other_tokenizers() -> dict[str, Tokenizer]:
    """Return tokenizers for which the argument about cuts does not hold."""
    made = {name: texts.tokenizer() for name in ("normalised", "prefixed", "word", "bare", "space")}
    made["normalised"].normalizer = normalizers.NFKC()
    made["prefixed"].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made["word"].add_tokens([AddedToken("two words", special=False)])
    made["bare"].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made["space"].add_tokens([AddedToken("q", special=False, rstrip=True)])
    return made


@pytest.mark.parametrize("name", sorted(other_tokenizers()))
def test_other_tokenizers_get_whole_documents(name: str) -> None:
    tokenizer = other_tokenizers()[name]
    tokenizer.encode_special_tokens = True
    encoder = TextEncoder(tokenizer, 1000, 4)
    assert not encoder.cuts
    text = "a two words q ﬁ½ " + texts.nasty(3, 100)
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert streamed(encoder, parts_of(text, Random(1), 5)) == expected


def test_an_added_token_without_white_space_leaves_cuts_allowed() -> None:
    tokenizer = texts.tokenizer()
    tokenizer.add_tokens([AddedToken("zzz", special=False)])
    encoder = TextEncoder(tokenizer, 1000, 3)
    assert encoder.cuts
    text = "a zzz zzzz,zzz b" * 20
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert streamed(encoder, parts_of(text, Random(1), 4)) == expected


def test_a_tokenizer_with_dropout_is_refused() -> None:
    state = json.loads(texts.description())
    state["model"]["dropout"] = 0.1
    with pytest.raises(InputError, match="dropout"):
        TextEncoder(Tokenizer.from_str(json.dumps(state)), V)


def test_ids_outside_the_vocabulary_name_document_and_token() -> None:
    text = "a 漢字"
    largest = max(texts.encode(text))
    parts = [Part("a", True, "d", "x.jsonl:1"), Part(text, True, "d", "x.jsonl:2")]
    assert streamed(TextEncoder(texts.tokenizer(), largest + 1), parts)
    with pytest.raises(InputError, match=rf"x\.jsonl:2: .*token id {largest} .* of {largest}"):
        streamed(TextEncoder(texts.tokenizer(), largest), parts)


def test_text_that_gives_the_boundary_id_is_refused() -> None:
    vocabulary = {character: at for at, character in enumerate(sorted(byte_alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reserved = tokenizer.id_to_token(2)
    with pytest.raises(InputError, match="kept for </s>"):
        streamed(TextEncoder(tokenizer, V), [Part("a" + reserved, True, "d", "x.txt")])


def test_token_strings() -> None:
    tokenizer = texts.tokenizer()
    tokenizer.add_tokens([AddedToken("Ġä new", special=False)])
    strings = token_strings(tokenizer, V + 10)
    assert strings[:4] == list(texts.SPECIAL)
    assert strings[V] == "Ġä new"  # as written, not decoded
    assert strings[V + 1 :] == [None] * 9
    assert len(token_strings(tokenizer, 10)) == 10
    text = "It's 字 and été\n"
    assert (
        "".join(str(strings[token]) for token in texts.encode("It's a word\n")) == "It's a word\n"
    )
    data = b"".join(
        bytes(byte_alphabet()[c] for c in tokenizer.id_to_token(token))
        for token in texts.encode(text)
    )
    assert data.decode() == text
    # Half a character.
    half = tokenizer.token_to_id(next(c for c, byte in byte_alphabet().items() if byte == 0xE5))
    assert strings[half] == "\ufffd"


def test_byte_alphabet_is_that_of_the_tokenizers_library() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    decoder = decoders.ByteLevel()
    for character, byte in alphabet.items():
        if byte < 0x80:
            assert decoder.decode([character]) == chr(byte)


def test_memory_does_not_grow_with_a_text_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.txt"
    path.write_text("The quick brown fox doesn't jump over 13 lazy dogs.\n" * 160_000)
    size = path.stat().st_size
    assert size > 8e6
    # What the Rust side holds is bounded by the same batches.
    monkeypatch.setattr(bytestreams, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(tokenise, "BATCH_CHARACTERS", 1 << 16)
    tokenizer = texts.tokenizer()
    tracemalloc.start()
    with corpus.read(path, tokenizer, context=512, vocab_size=V) as made:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.tokens > size / 5
    assert peak < 4e6


def test_memory_does_not_grow_with_a_file_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "long.bin"
    with path.open("wb") as file:
        for _ in range(30):
            np.full(500_000, 5, "<u2").tofile(file)
    assert path.stat().st_size == 30e6
    tracemalloc.start()
    with corpus.read(path, None, context=512, vocab_size=V) as made:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.corpus_tokens == 15e6
    assert peak < 10e6
