"""The demo corpus: text that every machine with Python has, in three domains.

- ``code``: the sources of the running Python's standard library, docstrings cut out.
- ``prose``: the documentation topics of ``pydoc_data.topics`` and the docstrings that were cut out
  of the code.
- ``arithmetic``: questions and answers about numbers, generated from fixed seeds.

Nothing is downloaded and nothing but the standard library is imported. ``code`` and ``prose``
follow the version of the running Python; ``arithmetic`` is the same everywhere.

A document is *held out* (never shown to the demo model in training) when a hash of its name says
so, about one in ten. A module's code and its docstrings share one name, hence one side. The
documentation topics are never held out: they quote one another at length, so that a held-out topic
would have been half seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sysconfig
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Split = Literal["all", "train", "held_out"]

DOMAINS: Final = ("code", "prose", "arithmetic")
"""The domains, in the order of every answer of this module."""

ARITHMETIC_DOCUMENTS: Final = 6000
"""How many documents the domain ``arithmetic`` has."""

ARITHMETIC_LINES: Final = 40
"""How many questions one document of the domain ``arithmetic`` asks."""

SCAN_CHARACTERS: Final = {"code": 700_000, "prose": 690_000, "arithmetic": 600_000}
"""Characters per domain in `demo_corpus`: about 200,000 tokens each with the demo tokenizer."""

EXCERPT: Final = 12_000
"""Longest excerpt of one document in `demo_corpus`, in characters.

Without a bound a few huge modules would be most of a domain.
"""

HELD_OUT_IN: Final = 10
"""One document in so many is held out."""

SKIPPED_FOLDERS: Final = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",  # tables of code points
        "idle_test",
        "lib2to3",
        "pydoc_data",  # its topics are prose
        "site-packages",
        "test",
        "tests",
    }
)
SKIPPED_PREFIXES: Final = ("_sysconfigdata", "config-", "lib-dynload", "test_")
# No hand-written module of the library is near this size; generated tables are.
LARGEST_SOURCE: Final = 400_000


def documents(domain: str, split: Split = "all") -> Iterator[str]:
    """Yield the documents of one domain.

    Parameters
    ----------
    domain : str
        ``"code"``, ``"prose"`` or ``"arithmetic"``.
    split : {"all", "train", "held_out"}
        All documents, those the demo model was trained on, or those it has never seen.

    Yields
    ------
    str
        One document, always in the same order on the same Python.

    Raises
    ------
    ValueError
        For an unknown domain or split.
    RuntimeError
        If this Python comes without the sources of its standard library.
    """
    read = _reader(domain)
    for name in _names(domain, split):
        text = read(name)
        if text:
            yield text


def demo_corpus(
    characters_per_domain: int | None = None, split: Split = "all"
) -> dict[str, list[str]]:
    """Return the corpus that the demo scans.

    Documents are taken in the order of a hash of their names, so that they are spread over the
    whole library, and each is cut to an excerpt of at most `EXCERPT` characters that ends with a
    line. With ``split="all"`` training and held-out documents share each domain half and half;
    where there is less held-out text than that, training text fills the rest.

    Parameters
    ----------
    characters_per_domain : int, optional
        About how many characters of each domain. The default is `SCAN_CHARACTERS`: about 200,000
        tokens of the demo tokenizer per domain, at least 500,000 in all.
    split : {"all", "train", "held_out"}
        Where the documents come from.

    Returns
    -------
    dict of str to list of str
        The documents of each domain.

    Raises
    ------
    ValueError
        For a number of characters below 1 or an unknown split.
    RuntimeError
        If this Python comes without the sources of its standard library.

    Examples
    --------
    >>> list(demo_corpus(1000))
    ['code', 'prose', 'arithmetic']
    """
    if characters_per_domain is not None and characters_per_domain < 1:
        message = f"characters_per_domain must be at least 1, got {characters_per_domain}"
        raise ValueError(message)
    corpus = {}
    for domain in DOMAINS:
        wanted = SCAN_CHARACTERS[domain] if characters_per_domain is None else characters_per_domain
        if split == "all":
            held_out = _excerpts(domain, "held_out", wanted // 2)
            train = _excerpts(domain, "train", wanted - sum(map(len, held_out)))
            corpus[domain] = _interleaved(train, held_out)
        else:
            corpus[domain] = _excerpts(domain, split, wanted)
    return corpus


def held_out_corpus(characters_per_domain: int | None = None) -> dict[str, list[str]]:
    """Return `demo_corpus` with nothing but documents that the demo model has never seen.

    Parameters
    ----------
    characters_per_domain : int, optional
        About how many characters of each domain, fewer where there is less held-out text. The
        default is `SCAN_CHARACTERS`.

    Returns
    -------
    dict of str to list of str
        The documents of each domain.
    """
    return demo_corpus(characters_per_domain, "held_out")


def _excerpts(domain: str, split: Split, characters: int) -> list[str]:
    """Excerpts of one domain in the order of their names' hashes, until there is enough."""
    read = _reader(domain)
    taken: list[str] = []
    missing = characters
    for name in sorted(_names(domain, split), key=lambda name: (_hash("order", name), name)):
        if missing <= 0:
            break
        text = _head(read(name), EXCERPT)
        if text:
            taken.append(text)
            missing -= len(text)
    return taken


def _head(text: str, characters: int) -> str:
    """At most so many characters of a text, cut behind a line where one ends."""
    if len(text) <= characters:
        return text
    return text[: text.rfind("\n", 0, characters) + 1] or text[:characters]


def _interleaved(first: list[str], second: list[str]) -> list[str]:
    """Both lists in one, in turn, so that a prefix of the corpus holds both splits."""
    shorter = min(len(first), len(second))
    mixed = [text for pair in zip(first, second, strict=False) for text in pair]
    return mixed + first[shorter:] + second[shorter:]


def _reader(domain: str) -> Callable[[str], str]:
    readers: dict[str, Callable[[str], str]] = {
        "code": _code,
        "prose": _prose,
        "arithmetic": _arithmetic,
    }
    if domain not in readers:
        message = f"unknown domain {domain!r}; the demo corpus has {', '.join(DOMAINS)}"
        raise ValueError(message)
    return readers[domain]


def _names(domain: str, split: Split) -> list[str]:
    """Names of the documents of one domain and split, in order."""
    if split not in get_args(Split):
        message = f"unknown split {split!r}; use one of {', '.join(get_args(Split))}"
        raise ValueError(message)
    if domain == "code":
        names = _modules()
    elif domain == "prose":
        names = [*(f"topic:{topic}" for topic in sorted(_topics())), *_modules()]
    else:
        names = [f"arithmetic:{number}" for number in range(ARITHMETIC_DOCUMENTS)]
    if split == "all":
        return names
    return [name for name in names if _is_held_out(name) == (split == "held_out")]


def _hash(purpose: str, name: str) -> int:
    """Return a number that depends on the name alone; hash() changes with every process."""
    digest = hashlib.sha256(f"{purpose}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _is_held_out(name: str) -> bool:
    return not name.startswith("topic:") and _hash("split", name) % HELD_OUT_IN == 0


# --- code and prose -------------------------------------------------------------------------------


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _modules() -> list[str]:
    """Paths of the library's hand-written modules relative to its folder, sorted."""
    library = _library()
    names = []
    for folder, subfolders, files in _walk(library):
        subfolders[:] = [name for name in subfolders if not _is_skipped(name)]
        names += [
            (folder / name).relative_to(library).as_posix()
            for name in files
            if name.endswith(".py") and not _is_skipped(name)
        ]
    if not names:
        message = (
            f"no sources of the standard library in {library}: this Python cannot make the demo "
            "corpus, pass a corpus of your own"
        )
        raise RuntimeError(message)
    return sorted(names)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Path.walk, which Python has from 3.12 on."""
    folders = [root]
    while folders:
        folder = folders.pop()
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        subfolders = [entry.name for entry in entries if entry.is_dir()]
        yield folder, subfolders, [entry.name for entry in entries if entry.is_file()]
        folders += [folder / name for name in subfolders]


def _is_skipped(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith(SKIPPED_PREFIXES)


@lru_cache(maxsize=4096)
def _split_source(name: str) -> tuple[str, str]:
    """Split a module into code and docstrings; two empty texts if it is not a source in UTF-8."""
    try:
        source = (_library() / name).read_text(encoding="utf-8")
        if len(source) > LARGEST_SOURCE:
            return "", ""
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return "", ""
    lines = source.splitlines(keepends=True)
    # splitlines() also ends lines at form feeds, which ast does not count.
    if len(lines) != len(source.split("\n")) - source.endswith("\n"):
        lines = [f"{line}\n" for line in source.split("\n")]
    prose = []
    spans = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        spans.append(node.body[0])
        # The text of a one-word docstring says nothing.
        prose.append((node.body[0].lineno, text if " " in text else ""))
    for statement in sorted(spans, key=lambda statement: -statement.lineno):
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        # ast counts columns in bytes.
        before = lines[first].encode()[: statement.col_offset].decode()
        after = lines[last].encode()[statement.end_col_offset :].decode()
        rest = before + after.lstrip(";")
        lines[first : last + 1] = [rest] if rest.strip() else []
    code = "".join(lines)
    return (code if code.strip() else ""), "\n\n".join(text for _, text in sorted(prose) if text)


def _code(name: str) -> str:
    return _split_source(name)[0]


def _prose(name: str) -> str:
    kind, _, topic = name.partition(":")
    return _topics()[topic] if kind == "topic" else _split_source(name)[1]


def _topics() -> dict[str, str]:
    """Return the documentation topics of help(); some builds of Python leave them out."""
    try:
        module = importlib.import_module("pydoc_data.topics")
    except ModuleNotFoundError:
        return {}
    return dict(module.topics)


# --- arithmetic -----------------------------------------------------------------------------------

_ONES: Final = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS: Final = (
    "",
    "",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
)
_THINGS: Final = ("apples", "books", "coins", "marbles", "letters", "stamps", "chairs", "pencils")
_PEOPLE: Final = ("Ada", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo")


class _Dice:
    """Draws that are the same in every version of Python.

    Only `Random.random` is promised to stay as it is; `choice`, `randrange` and `shuffle` are not.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def whole(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def one(self, things: tuple[str, ...]) -> str:
        return things[self.whole(0, len(things) - 1)]


def _words(number: int) -> str:
    """Write a whole number below a million in words."""
    if number < 0:
        return f"minus {_words(-number)}"
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    count, rest = divmod(number, size)
    tail = "" if not rest else f" and {_words(rest)}" if size == 100 else f" {_words(rest)}"
    return f"{_words(count)} {name}{tail}"


def _sum(dice: _Dice) -> str:
    top = int(10 ** dice.whole(1, 4))
    a, b = dice.whole(0, top), dice.whole(0, top)
    form = dice.one(("What is {a} + {b}?", "Add {a} and {b}.", "Calculate {a} + {b}."))
    return f"{form.format(a=a, b=b)} {a + b}"


def _difference(dice: _Dice) -> str:
    top = int(10 ** dice.whole(1, 4))
    a, b = dice.whole(0, top), dice.whole(0, top)
    form = dice.one(("What is {a} - {b}?", "Subtract {b} from {a}.", "Calculate {a} - {b}."))
    return f"{form.format(a=a, b=b)} {a - b}"


def _product(dice: _Dice) -> str:
    a, b = dice.whole(0, 12), dice.whole(0, 99)
    form = dice.one(("What is {a} * {b}?", "Multiply {a} and {b}.", "What is {a} times {b}?"))
    return f"{form.format(a=a, b=b)} {a * b}"


def _division(dice: _Dice) -> str:
    a, b = dice.whole(1, 12), dice.whole(0, 99)
    form = dice.one(("Divide {c} by {a}.", "What is {c} / {a}?", "What is {c} divided by {a}?"))
    return f"{form.format(a=a, c=a * b)} {b}"


def _remainder(dice: _Dice) -> str:
    a, b = dice.whole(2, 20), dice.whole(0, 500)
    return f"What is the remainder when {b} is divided by {a}? {b % a}"


def _comparison(dice: _Dice) -> str:
    a, b = dice.whole(-99, 999), dice.whole(-99, 999)
    if dice.whole(0, 1):
        sign = "<" if a < b else ">" if a > b else "="
        return f"Put the right sign between {a} and {b}. {a} {sign} {b}"
    kind, truth = dice.one(("less", "greater")), a < b
    right = truth if kind == "less" else a > b
    return f"Is {a} {kind} than {b}? {right}"


def _sequence(dice: _Dice) -> str:
    start, step, kind = dice.whole(-20, 99), dice.whole(1, 12), dice.whole(0, 1)
    terms = [start + step * place if kind else start - step * place for place in range(6)]
    shown = ", ".join(map(str, terms[:5]))
    return f"What comes next: {shown}? {terms[5]}"


def _sorting(dice: _Dice) -> str:
    numbers = [dice.whole(-50, 99) for _ in range(dice.whole(3, 6))]
    down = dice.whole(0, 1)
    order = "decreasing" if down else "increasing"
    answer = ", ".join(map(str, sorted(numbers, reverse=bool(down))))
    return f"Sort {', '.join(map(str, numbers))} in {order} order. {answer}"


def _spelling(dice: _Dice) -> str:
    number = dice.whole(0, int(10 ** dice.whole(1, 5)) - 1)
    if dice.whole(0, 1):
        return f"Write {number} in words. {_words(number)}"
    return f"Write {_words(number)} in digits. {number}"


def _spoken_sum(dice: _Dice) -> str:
    a, b = dice.whole(0, 99), dice.whole(0, 99)
    return f"What is {_words(a)} plus {_words(b)}? {_words(a + b)}"


def _story(dice: _Dice) -> str:
    who, things = dice.one(_PEOPLE), dice.one(_THINGS)
    a, b = dice.whole(2, 60), dice.whole(2, 60)
    if dice.whole(0, 1):
        return f"{who} has {a} {things} and gets {b} more. How many {things} are there? {a + b}"
    a, b = max(a, b), min(a, b)
    return f"{who} has {a} {things} and gives {b} away. How many {things} are left? {a - b}"


def _equation(dice: _Dice) -> str:
    a, x, b = dice.whole(2, 12), dice.whole(-12, 12), dice.whole(0, 50)
    letter = dice.one(("x", "y", "n", "k"))
    return f"Solve {a}*{letter} + {b} = {a * x + b} for {letter}. {x}"


def _divisor(dice: _Dice) -> str:
    a, b = dice.whole(2, 12), dice.whole(1, 300)
    return f"Is {b} a multiple of {a}? {b % a == 0}"


_QUESTIONS: Final[tuple[Callable[[_Dice], str], ...]] = (
    _sum,
    _difference,
    _product,
    _division,
    _remainder,
    _comparison,
    _sequence,
    _sorting,
    _spelling,
    _spoken_sum,
    _story,
    _equation,
    _divisor,
)


def _arithmetic(name: str) -> str:
    """One document of questions; half of the documents keep to one kind, as exercises do."""
    number = int(name.partition(":")[2])
    dice = _Dice(number)
    kind = dice.whole(0, 2 * len(_QUESTIONS) - 1)
    lines = []
    for _ in range(ARITHMETIC_LINES):
        other = dice.whole(0, len(_QUESTIONS) - 1)
        lines.append(_QUESTIONS[kind if kind < len(_QUESTIONS) else other](dice))
    return "\n".join(lines) + "\n"
