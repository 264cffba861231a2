"""Every form of input gives the documents that it holds."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import texts
from pyneurons import corpus
from pyneurons.corpus import Corpus, bytestreams, readers
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V = 600
CONTEXT = 4096

TEXTS = ["One document.", "字 and été\r\nnext line", "", " leading space", "it's 3.14!"]


def read(source: Any, *, tokenizer: bool = True, **options: Any) -> Corpus:
    options = {"context": CONTEXT, "vocab_size": V, "packing": "document"} | options
    return corpus.read(source, texts.tokenizer() if tokenizer else None, **options)


def documents(made: Corpus, domain: str | None = None) -> list[list[int]]:
    """Return the ids of every document (each in one sequence), without BOS."""
    wanted = None if domain is None else made.domains.index(domain)
    return [
        made.ids[a + 1 : b].tolist()
        for (a, b), at in zip(pairwise(made.starts), made.sequence_domain, strict=True)
        if wanted is None or at == wanted
    ]


def encoded(*documents: str) -> list[list[int]]:
    return [texts.encode(document) for document in documents if document]


class Dataset:
    """What `datasets.Dataset` shows of itself."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records
        self.column_names = list(records[0]) if records else []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._records)


def write_zst(path: Path, data: bytes) -> None:
    import zstandard

    middle = len(data) // 2  # two frames, as parallel compressors write
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(data[:middle]) + compress(data[middle:]))


WRITERS: dict[str, Callable[[Path, bytes], object]] = {
    ".jsonl": Path.write_bytes,
    ".jsonl.gz": lambda path, data: path.write_bytes(gzip.compress(data)),
    ".jsonl.zst": write_zst,
}


def as_lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


# ----- files -------------------------------------------------------------------------------------


def test_a_text_file_is_one_document_with_its_line_ends(tmp_path: Path) -> None:
    text = "one\r\ntwo\n\n三\rfour "
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    made = read(path)
    assert documents(made) == encoded(text)
    assert made.domains == ("corpus",)
    assert made.documents == 1
    assert documents(read(str(path))) == encoded(text)
    source = {
        "domain": "corpus",
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256(text.encode()).hexdigest(),
    }
    assert made.sources == [source]
    assert made.strings[4 + 0] is not None


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1 << 20])
@pytest.mark.parametrize("separator", ["\n\n", "<|end|>", "aa"])
def test_a_separator_cuts_a_text_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, separator: str
) -> None:
    monkeypatch.setattr(bytestreams, "CHUNK_BYTES", chunk)
    text = separator.join(["one", "été 字", "", "a", "baa", "\n", "last"])
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    made = read(path, document_separator=separator)
    parts = text.split(separator)
    assert documents(made) == encoded(*parts)
    assert made.left_out["empty_documents"] == parts.count("")


@pytest.mark.parametrize("suffix", sorted(WRITERS))
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_json_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, chunk: int
) -> None:
    monkeypatch.setattr(bytestreams, "CHUNK_BYTES", chunk)
    path = tmp_path / f"a{suffix}"
    records = [{"text": text, "meta": {"n": 1}} for text in TEXTS]
    data = as_lines(records).replace(b"\n", b"\r\n", 1) + b"\n  \n"  # CRLF, blank lines
    WRITERS[suffix](path, data)
    made = read(path)
    assert documents(made) == encoded(*TEXTS)
    assert made.left_out["empty_documents"] == 1
    assert made.sources[0]["sha256"] == sha256(path.read_bytes()).hexdigest()


def test_the_last_json_line_needs_no_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "two"}')
    assert documents(read(path)) == encoded("one", "two")


def test_byte_order_marks_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone \ufefftwo".encode())
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "three"}\n')
    made = read([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    assert documents(made) == encoded("one \ufefftwo", "three")
    assert made.left_out["byte_order_marks"] == 2


def test_fields_are_names_or_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [
        {"doc": {"body": "one"}, "meta": {"set": "Books"}},
        {"doc": {"body": "two"}, "meta": {"set": "ArXiv"}},
        {"doc.body": "three", "doc": 5, "meta": {"set": "Books"}},  # a whole name comes first
    ]
    path.write_bytes(as_lines(records))
    made = read(path, text_field="doc.body", domain_field="meta.set")
    assert made.domains == ("Books", "ArXiv")
    assert documents(made, "Books") == encoded("one", "three")
    assert documents(made, "ArXiv") == encoded("two")
    assert made.sequence_domain.tolist() == [0, 0, 1]
    limited = read(path, text_field="doc.body", domain_field="meta.set", max_tokens={"Books": 7})
    assert documents(limited, "Books") == encoded("one")
    assert documents(limited, "ArXiv") == encoded("two")
    assert limited.left_out["over_max_tokens:Books"] == len(encoded("three")[0]) + 1


def test_a_domain_begins_with_its_first_token() -> None:
    records = [("a", ""), ("b", "one"), ("a", "two"), ("c", ""), ("b", "")]
    made = read([{"text": t, "d": d} for d, t in records], domain_field="d")
    assert made.domains == ("b", "a")
    assert made.documents == 2
    assert made.left_out["empty_documents"] == 3
    with pytest.raises(InputError, match="no token in it"):
        read([{"text": "", "d": "c"}], domain_field="d")


def test_ids_in_a_column_are_read_where_there_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [
        {"tokens": [5, 6]},
        {"input_ids": [7], "attention_mask": [1]},
        {"text": "word", "tokens": [8]},
        {"tokens": [2, 9, 10]},
    ]
    path.write_bytes(as_lines(records))
    made = read(path)
    assert documents(made) == [[5, 6], [7], *encoded("word"), [9, 10]]
    assert made.left_out["boundary_ids"] == 1
    assert documents(read(path, text_field="tokens", tokenizer=False, max_tokens=3)) == [[5, 6]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType) -> None:
    monkeypatch.setattr(readers, "PARQUET_ROWS", 2)
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "text": pa.array(TEXTS, pa.string()).cast(kind),
            "meta": [{"set": "b"}, {"set": "a"}, {"set": "a"}, {"set": "b"}, {"set": "a"}],
            "unused": list(range(5)),
        }
    )
    parquet.write_table(table, path)
    made = read(path, domain_field="meta.set")
    assert documents(made, "b") == encoded(TEXTS[0], TEXTS[3])
    assert documents(made, "a") == encoded(TEXTS[1], TEXTS[4])
    assert made.sources[0]["sha256"] == sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.uint16())])
def test_parquet_of_ids(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"input_ids": pa.array([[5, 6], [], [7]], kind)}), path)
    made = read(path, tokenizer=False)
    assert documents(made) == [[5, 6], [7]]
    assert made.left_out["empty_documents"] == 1
    assert made.strings == []


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "u1", "<u2"])
def test_arrays_of_ids(tmp_path: Path, dtype: str) -> None:
    rows = np.array([[2, 5, 6], [7, 8, 1]], dtype)
    flat = np.array([2, 5, 6, 2, 2, 7, 2], dtype)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "flat.npy", flat)
    for source in (tmp_path / "rows.npy", rows):
        made = read(source, tokenizer=False)
        assert made.packing == "rows"
        assert made.ids.tolist() == [2, 5, 6, 7, 8]
        assert made.context == 3
    for source in (tmp_path / "flat.npy", flat):
        made = read(source, tokenizer=False)
        assert documents(made) == [[5, 6], [7]]
        assert made.left_out["boundary_ids"] == 4
        assert made.left_out["empty_documents"] == 0
    assert read(rows).strings[3] == "<unk>"  # strings, where there is a tokenizer all the same


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "<u2"), (65537, "<u4")])
def test_a_bin_file_is_a_flat_stream(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(np.array([5, 6, 2, vocab_size - 1], dtype).tobytes())
    made = read(path, tokenizer=False, vocab_size=vocab_size)
    assert documents(made) == [[5, 6], [vocab_size - 1]]
    assert made.sources[0]["sha256"] == sha256(path.read_bytes()).hexdigest()


def test_globs_and_lists_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub.txt").mkdir()  # a folder that the pattern matches is no file
    for name in ("b.txt", "a.txt", "c.txt", ".hidden.txt", "sub.txt/d.txt"):
        (tmp_path / name).write_text(name)
    by_name = encoded("a.txt", "b.txt", "c.txt")
    assert documents(read(tmp_path / "*.txt")) == by_name
    assert documents(read(str(tmp_path / "[ab].txt"))) == by_name[:2]
    assert documents(read(tmp_path / "**/*.txt")) == [*by_name, *encoded("sub.txt/d.txt")]
    monkeypatch.chdir(tmp_path)
    assert documents(read("*.txt")) == by_name
    several = [Path("c.txt"), Path("[ab].txt")]
    assert documents(read(several)) == [by_name[2], *by_name[:2]]
    assert documents(read(iter(several))) == [by_name[2], *by_name[:2]]
    Path("x[1].txt").write_text("brackets")  # the name itself before the pattern
    assert documents(read("x[1].txt")) == encoded("brackets")


# ----- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [list, tuple, iter])
def test_iterables_of_texts_and_ids(form: Callable[[Any], Any]) -> None:
    assert documents(read(form(TEXTS))) == encoded(*TEXTS)
    ids = [[5, 6], (7,), np.array([8, 9]), []]
    made = read(form(ids), tokenizer=False)
    assert documents(made) == [[5, 6], [7], [8, 9]]
    assert made.sources == [{"domain": "corpus", "path": "<corpus>", "bytes": None, "sha256": None}]


def test_a_bos_that_ids_already_have_is_not_run_twice() -> None:
    made = read([[2, 5, 6], [2], [7, 2, 8], [9, 2]], tokenizer=False)
    assert documents(made) == [[5, 6], [7], [8], [9]]
    assert made.documents == 4
    assert made.left_out["boundary_ids"] == 4
    assert made.left_out["empty_documents"] == 1


def test_datasets_and_records() -> None:
    records = [{"text": text, "source": "ab"[at % 2]} for at, text in enumerate(TEXTS)]
    for source in (Dataset(records), records, iter(records)):
        made = read(source, domain_field="source")
        assert made.domains == ("a", "b")
        assert documents(made, "a") == encoded(TEXTS[0], TEXTS[4])
        assert documents(made, "b") == encoded(TEXTS[1], TEXTS[3])
    assert documents(read(Dataset([{"tokens": np.array([5, 6])}]), tokenizer=False)) == [[5, 6]]


def test_a_dict_of_anything(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("file")
    np.save(tmp_path / "flat.npy", np.array([5, 6]))
    made = read(
        {
            "file": tmp_path / "*.txt",
            "texts": ["one", "two"],
            "ids": tmp_path / "flat.npy",
            "data": Dataset([{"text": "three"}]),
            "generator": (text for text in ["four"]),
        }
    )
    assert made.domains == ("file", "texts", "ids", "data", "generator")
    assert documents(made, "file") == encoded("file")
    assert documents(made, "texts") == encoded("one", "two")
    assert documents(made, "ids") == [[5, 6]]
    assert documents(made, "data") == encoded("three")
    assert documents(made, "generator") == encoded("four")
    assert [source["domain"] for source in made.sources] == list(made.domains)


def test_invalid_unicode_is_replaced_on_demand_and_counted(tmp_path: Path) -> None:
    bad = b"one\xff two\xe5\xad three \xef\xbf\xbd"  # two bad places and one honest U+FFFD
    (tmp_path / "a.txt").write_bytes(bad)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "' + bad + b'"}\n{"text": "x\\ud800y"}\n')
    made = read([tmp_path / "a.txt", tmp_path / "b.jsonl"], errors="replace")
    mended = bad.decode(errors="replace")
    assert documents(made) == encoded(mended, mended, "x\ufffdy")
    assert made.left_out["replaced_characters"] == 5
    assert documents(read(["x\udc80y", "字"], errors="replace")) == encoded("x\ufffdy", "字")
    column = pa.array([bad], pa.binary()).view(pa.string())  # arrow does not look
    parquet.write_table(pa.table({"text": column}), tmp_path / "c.parquet")
    assert documents(read(tmp_path / "c.parquet", errors="replace")) == encoded(mended)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_characters_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(bytestreams, "CHUNK_BYTES", chunk)
    text = texts.nasty(1, 100)
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert documents(read(path)) == encoded(text.removeprefix("\ufeff"))
    bad = b"ab\xe5\xad\xf0\x9f\x91cd\xed\xa0\x80\xff"
    path.write_bytes(bad)
    mended = bad.decode(errors="replace")
    made = read(path, errors="replace")
    assert documents(made) == encoded(mended)
    assert made.left_out["replaced_characters"] == mended.count("\ufffd")


def test_nasty_text_is_the_same_in_every_form(tmp_path: Path) -> None:
    several = [texts.nasty(seed, 60) for seed in range(6)]
    several = [text.removeprefix("\ufeff") for text in several]
    (tmp_path / "a.jsonl").write_bytes(as_lines([{"text": text} for text in several]))
    raw = [json.dumps({"text": text}, ensure_ascii=False) for text in several]
    (tmp_path / "b.jsonl").write_text("\n".join(raw), encoding="utf-8", newline="")
    (tmp_path / "c.txt").write_text("<<>>".join(several), encoding="utf-8", newline="")
    parquet.write_table(pa.table({"text": several}), tmp_path / "d.parquet")
    expected = encoded(*several)
    assert documents(read(several)) == expected
    assert documents(read(tmp_path / "a.jsonl")) == expected
    assert documents(read(tmp_path / "b.jsonl")) == expected
    assert documents(read(tmp_path / "c.txt", document_separator="<<>>")) == expected
    assert documents(read(tmp_path / "d.parquet")) == expected


def test_progress_comes_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytestreams, "CHUNK_BYTES", 100)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"{name[0]} words " * 50)
    calls: list[tuple[int, int | None, int]] = []

    def progress(done_bytes: int, total_bytes: int | None, tokens: int) -> None:
        calls.append((done_bytes, total_bytes, tokens))

    made = read(tmp_path / "*.txt", progress=progress)
    assert calls[-1] == (800, 800, made.tokens)
    assert calls == sorted(calls)
    read(["in memory"], progress=progress)
    assert calls[-1][1] is None

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        read(tmp_path / "*.txt", progress=stop)


def test_an_early_stop_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(np.full(3_000_000, 5, "<u2").tobytes())
    made = read(path, tokenizer=False, context=10, max_tokens=100)
    assert made.tokens == 100
    assert made.sources[0]["sha256"] is None
    with pytest.raises(InputError, match="first whole sequence"):
        read(path, tokenizer=False, context=200, max_tokens=100)
