"""Packing against a slow, obvious twin; limits; the order of domains and of a shuffle."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyneurons import corpus
from pyneurons.corpus import Corpus, packing
from pyneurons.errors import InputError, ResourceError

BOS = 2
V = 100

Documents = list[list[int]]


def made_up(seed: int, number: int, longest: int = 9) -> Documents:
    """Return random documents, some empty, that tell every token apart from its neighbours."""
    generator = np.random.default_rng(seed)
    return [
        generator.integers(3, V, size=generator.integers(0, longest + 1)).tolist()
        for _ in range(number)
    ]


def packed(documents: Documents, context: int) -> list[list[int]]:
    """Cut the joined stream; a separator that comes first or last of its stretch is dropped."""
    stream: list[int] = []
    for document in documents:
        if document:
            stream += [BOS, *document] if stream else document
    sequences = []
    while stream:
        if stream[0] == BOS:
            stream = stream[1:]
        stretch, stream = stream[: context - 1], stream[context - 1 :]
        if stretch[-1] == BOS:
            stretch = stretch[:-1]
        sequences.append([BOS, *stretch])
    return sequences


def by_document(documents: Documents, context: int) -> list[list[int]]:
    return [
        [BOS, *document[at : at + context - 1]]
        for document in documents
        for at in range(0, len(document), context - 1)
    ]


ORACLES = {"pack": packed, "document": by_document}


def sequences(made: Corpus) -> list[list[int]]:
    return [made.ids[a:b].tolist() for a, b in pairwise(made.starts)]


def read(documents: Any, context: int, **options: Any) -> Corpus:
    return corpus.read(documents, None, context=context, vocab_size=V, **options)


@pytest.mark.parametrize("mode", ["pack", "document"])
@pytest.mark.parametrize("context", [2, 3, 4, 5, 7, 16, 64])
def test_sequences_are_those_of_the_oracle(mode: str, context: int) -> None:
    for seed in range(20):
        # Long documents among short ones take the path of many sequences at once.
        documents = made_up(seed, 12) + made_up(seed + 100, 2, 100) + made_up(seed + 200, 5)
        made = read(documents, context, packing=mode)
        assert sequences(made) == ORACLES[mode](documents, context)


@pytest.mark.parametrize("mode", ["pack", "document"])
def test_every_token_is_run_once_and_everything_is_accounted_for(mode: str) -> None:
    for seed in range(20):
        documents = made_up(seed, 30)
        made = read(documents, 6, packing=mode)
        flat = [token for document in documents for token in document]
        assert made.ids[made.ids != BOS].tolist() == flat
        assert made.corpus_tokens == len(flat)
        assert made.tokens == made.bos_rows.size + made.separator_rows.size + made.corpus_tokens
        assert made.bos_rows.tolist() == made.starts[:-1].tolist()
        filled = sum(1 for document in documents if document)
        assert made.documents == filled
        assert made.left_out["empty_documents"] == len(documents) - filled
        dropped = made.left_out["dropped_separators"]
        assert dropped is not None
        joined = filled - 1 if mode == "pack" else 0
        assert made.separator_rows.size + dropped == joined


def test_no_separator_stands_first_or_last_and_lengths_tell_full_sequences() -> None:
    made = read(made_up(1, 200), 7)
    for sequence in sequences(made):
        assert sequence[0] == BOS
        assert sequence[1] != BOS
        assert sequence[-1] != BOS
    assert made.full.tolist() == [len(sequence) == 7 for sequence in sequences(made)]
    # One token short where a separator fell last; the tail is as long as it is.
    assert set(made.lengths[:-1].tolist()) == {6, 7}


def test_a_document_across_parts_is_one_document() -> None:
    # A flat stream is read in blocks; small blocks must not show.
    flat = [token for document in made_up(5, 40) for token in [*document, BOS]]
    documents = [document for document in made_up(5, 40) if document]
    made = read(np.array(flat), 8)
    assert sequences(made) == packed(documents, 8)


@pytest.mark.parametrize("mode", ["pack", "document"])
@pytest.mark.parametrize("context", [2, 5, 8])
def test_max_tokens_keeps_the_longest_run_of_whole_sequences(mode: str, context: int) -> None:
    documents = made_up(3, 25, 20)
    everything = ORACLES[mode](documents, context)
    lengths = np.cumsum([len(sequence) for sequence in everything])
    for limit in range(int(lengths[-1]) + 3):
        kept = int(np.searchsorted(lengths, limit, side="right"))
        if limit == 0 or kept == 0:
            with pytest.raises(InputError, match="max_tokens"):
                read(documents, context, packing=mode, max_tokens=limit)
            continue
        made = read(documents, context, packing=mode, max_tokens=limit)
        assert sequences(made) == everything[:kept]
        everything_kept = kept == len(everything)
        assert made.left_out["over_max_tokens:corpus"] == (0 if everything_kept else None)


def test_reading_stops_at_the_limit() -> None:
    taken = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield [5, 6, 7, 8]

    made = read(endless(), 5, max_tokens=1000)
    assert made.tokens == 1000
    assert len(taken) <= 252


def test_domains_follow_one_another_and_share_the_limit() -> None:
    domains = {name: made_up(seed, 60) for seed, name in enumerate(["b", "a", "c"])}
    oracle = {name: packed(documents, 6) for name, documents in domains.items()}
    made = read(domains, 6)
    assert made.domains == ("b", "a", "c")
    assert sequences(made) == [s for name in domains for s in oracle[name]]
    names = [made.domains[at] for at in made.sequence_domain]
    assert names == [name for name in domains for _ in oracle[name]]
    rows = {name: sum(map(len, oracle[name])) for name in domains}
    assert made.domain_tokens == rows
    assert made.domain_rows.tolist() == [0, *np.cumsum(list(rows.values())).tolist()]

    limited = read(domains, 6, max_tokens=200)  # 67, 67 and 66
    for name, share in zip(domains, (67, 67, 66), strict=True):
        assert share - 6 < limited.domain_tokens[name] <= share
    pairs = {name: [[5]] * 9 for name in domains}  # sequences of 2; shares of 4, 4 and 3
    shared = read(pairs, 6, packing="document", max_tokens=11)
    assert shared.domain_tokens == {"b": 4, "a": 4, "c": 2}
    by_name = read(domains, 6, max_tokens={"a": 50})
    assert 44 < by_name.domain_tokens["a"] <= 50
    assert by_name.domain_tokens["b"] == rows["b"]
    assert "over_max_tokens:b" not in by_name.left_out
    with pytest.raises(InputError, match="no domain 'x'; the corpus has b, a, c"):
        read(domains, 6, max_tokens={"x": 50})


def test_shuffle_is_a_drawn_order_of_whole_sequences() -> None:
    documents = made_up(4, 100)
    plain = sequences(read(documents, 6))
    one, same, other = (sequences(read(documents, 6, shuffle_seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one != plain
    assert sorted(one) == sorted(plain)
    # A limit takes the first of the same order, and says what it left.
    lengths = np.cumsum([len(sequence) for sequence in one])
    for limit in range(90, 110):
        made = read(documents, 6, shuffle_seed=1, max_tokens=limit)
        assert sequences(made) == one[: np.searchsorted(lengths, limit, side="right")]
        assert made.left_out["over_max_tokens:corpus"] == lengths[-1] - made.tokens
    # The order of a domain depends on its name and not on the domains beside it.
    two = read({"first": made_up(9, 20), "corpus": documents}, 6, shuffle_seed=1)
    assert sequences(two)[-len(one) :] == one


def test_the_drawn_order_is_that_of_every_version() -> None:
    made = read([[token] for token in range(3, 15)], 4, packing="document", shuffle_seed=0)
    # Ranks of the first twelve random() of random.Random("0:corpus").
    assert [sequence[1] for sequence in sequences(made)] == [
        3,
        11,
        8,
        10,
        7,
        12,
        13,
        5,
        14,
        4,
        6,
        9,
    ]


def test_rows_are_sequences() -> None:
    rows = np.array(
        [
            [2, 5, 6, 7],
            [5, 2, 6, 1],  # no BOS, and an id 2 inside
            [1, 1, 1, 1],
            [1, 5, 1, 1],  # only trailing padding is padding
            [9, 9, 9, 9],
        ]
    )
    made = read(rows, 8)
    assert made.packing == "rows"
    assert made.context == 4
    assert sequences(made) == [[2, 5, 6, 7], [5, 2, 6], [1, 5], [9, 9, 9, 9]]
    assert made.full.tolist() == [True, False, False, True]
    assert made.bos_rows.tolist() == [0]
    assert made.separator_rows.tolist() == [5]
    assert made.corpus_tokens == 11
    assert made.documents == 4
    assert made.left_out["padding"] == 7
    assert made.left_out["empty_documents"] == 1
    assert sequences(read(rows, 8, max_tokens=9)) == [[2, 5, 6, 7], [5, 2, 6], [1, 5]]
    assert sequences(read(rows, 8, max_tokens=8)) == [[2, 5, 6, 7], [5, 2, 6]]
    with pytest.raises(InputError, match="max_tokens"):
        read(rows, 8, max_tokens=3)
    shuffled = read(rows, 8, shuffle_seed=3)
    assert sorted(sequences(shuffled)) == sorted(sequences(made))


def test_blocks_of_rows_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyneurons.corpus import id_files

    rows = np.random.default_rng(0).integers(1, 4, size=(67, 5))
    expected = sequences(read(rows, 5))
    assert expected == [row for row in (trim(row) for row in rows.tolist()) if row]
    path = tmp_path / "rows.npy"
    np.save(path, rows.astype(np.int16))
    monkeypatch.setattr(id_files, "BLOCK_IDS", 15)
    monkeypatch.setattr(id_files, "CHUNK_BYTES", 40)
    assert sequences(read(rows, 5)) == expected
    assert sequences(read(path, 5)) == expected
    for limit in range(1, 40):
        kept = int(np.searchsorted(np.cumsum([len(s) for s in expected]), limit, side="right"))
        if kept:
            assert sequences(read(path, 5, max_tokens=limit)) == expected[:kept]


def trim(row: list[int]) -> list[int]:
    while row and row[-1] == 1:
        row = row[:-1]
    return row


def test_ids_are_as_narrow_as_the_vocabulary_allows() -> None:
    for vocab_size, dtype in ((65536, np.uint16), (65537, np.uint32)):
        made = corpus.read([[vocab_size - 1]], None, context=4, vocab_size=vocab_size)
        assert made.ids.dtype == dtype
        assert made.ids.tolist() == [2, vocab_size - 1]
        assert made.starts.dtype == np.int64
        assert made.sequence_domain.dtype == np.int32


def test_the_manifest_is_plain_json_and_tells_one_corpus_from_another() -> None:
    made = read(made_up(1, 30), 6, max_tokens=50)
    manifest = made.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["tokens"] == made.tokens
    assert manifest["attention_crosses_documents"] is True
    assert read([[5, 6]], 6, packing="document").manifest()["attention_crosses_documents"] is False
    assert manifest["bos"] + manifest["separators"] + manifest["corpus_tokens"] == made.tokens
    assert read(made_up(1, 30), 6, max_tokens=50).sha256 == made.sha256
    others = [
        read(made_up(2, 30), 6, max_tokens=50),
        read(made_up(1, 30), 7, max_tokens=50),
        read({"x": made_up(1, 30)}, 6, max_tokens=50),
    ]
    assert len({made.sha256, *(other.sha256 for other in others)}) == 4


def test_a_closed_corpus_has_no_ids_and_leaves_no_file(tmp_path: Path) -> None:
    with read([[5, 6]], 6, scratch=tmp_path) as made:
        assert made.ids.tolist() == [2, 5, 6]
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(AttributeError, match="ids"):
        _ = made.ids
    assert made.tokens == 3
    made.close()


def test_a_scratch_folder_that_cannot_hold_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResourceError, match="missing"):
        read([[5, 6]], 6, scratch=tmp_path / "missing")
    # Every write to /dev/full fails with ENOSPC.
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(packing.tempfile, "TemporaryFile", lambda **_: full)
        with pytest.raises(ResourceError, match=r"No space left.*scratch="):
            read([[5, 6]], 6, scratch=tmp_path)
