"""The HTML document: scripts, styles and data in one file; what comes from a run is never markup."""

from __future__ import annotations

import html
import json
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.report import words
from pyneurons.report.page.definitions import DEFINITIONS, PAPER
from pyneurons.report.page.neurons import DETAILS, UNKNOWN
from pyneurons.report.style import LINES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyneurons.report.page.figure_spec import FigureSpec

_LIBRARIES: Final = ("vega", "vega-lite", "vega-embed")
_SCRIPTS: Final = (
    "blocks", "format", "charts", "grid", "detectors", "table", "neuron", "layers", "overview", "router",
)  # fmt: skip

# Vega compiles expressions; nothing else may be loaded than scripts of the page's own folder.
_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'{own}; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def compose(
    facts: Sequence[Mapping[str, Any]],
    figures: Sequence[FigureSpec],
    blocks: Mapping[str, str],
    *,
    data: str,
) -> str:
    """Return the page.

    Parameters
    ----------
    facts : of each run, `pyneurons.report.page.overview.run_facts`
    figures : the overview's
    blocks : dict of str
        Those that lie in the page itself.
    data : str
        Where the other blocks lie, relative to the page; empty when all are in the page.
    """
    about = {
        "version": version("pyneurons-scan"),
        "data": data,
        "details": DETAILS,
        "unknown": UNKNOWN,
        "templates": words.TEMPLATES,
        "ngram_names": {n: words.ngram_name(n) for n in range(1, 9)},
        "most_ngrams": words.MOST_NGRAMS,
        "colours": list(LINES),
        "runs": list(facts),
        "figures": [_slim(asdict(figure)) for figure in figures],
    }
    licences = "\n\n".join(f"{name}\n\n{_asset(f'vendor/{name}.LICENSE')}" for name in _LIBRARIES)
    parts = {
        "title": html.escape(", ".join(dict.fromkeys(str(run["name"]) for run in facts))),
        "policy": _POLICY.format(own=" 'self' file:" if data else ""),
        "style": _asset("page.css"),
        "definitions": _definitions(),
        "licences": html.escape(licences),
        "about": script_json(about),
        "blocks": "\n".join(
            f'<script type="text/plain" id="block:{name}">{block}</script>'
            for name, block in blocks.items()
        ),
        "libraries": "\n".join(f"<script>{_library(name)}</script>" for name in _LIBRARIES),
        "scripts": "\n".join(f"<script>{_asset(f'{name}.js')}</script>" for name in _SCRIPTS),
    }
    # Split once, so that nothing that is put in is taken for a place to put something.
    pieces = _asset("page.html").split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def deferred_block(name: str, block: str) -> str:
    """Return the script that hands a block to the page; a page from disk may load nothing else."""
    return f'pyneurons.arrived("{name}","{block}");\n'


def script_json(value: Any) -> str:
    """Return JSON that stands in a script element whatever strings it holds.

    ``<`` and its like are escaped, so that no ``</script>`` and no comment can begin.
    """
    text = json.dumps(_plain(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """Return a value without NumPy types and without NaN, which JSON has not: null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _slim(figure: dict[str, Any]) -> dict[str, Any]:
    """Leave out rows that the specification holds already."""
    inline = figure["spec"].get("data")
    if isinstance(inline, dict) and inline.get("values") == figure["rows"]:
        return {**figure, "rows": None}
    return figure


def _definitions() -> str:
    entries = "".join(
        f'<dt id="definition-{name}" tabindex="-1">{html.escape(title)}</dt><dd>{html.escape(text)}</dd>'
        for name, (title, text) in DEFINITIONS.items()
    )
    return f"<p>After {html.escape(PAPER)}.</p><dl>{entries}</dl>"


def _library(name: str) -> str:
    # Without its last line, which asks developer tools for a file that is not there.
    code = _asset(f"vendor/{name}.min.js")
    return "\n".join(line for line in code.splitlines() if not line.startswith("//# sourceMapping"))


def _asset(name: str) -> str:
    return (files("pyneurons.report.page") / "assets" / name).read_text(encoding="utf-8")
