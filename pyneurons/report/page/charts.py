"""Vega-Lite specifications of the few kinds of charts that the figures are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyneurons.report.style import LINES, TYPE_COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

Rows = list[dict[str, Any]]
Spec = dict[str, Any]

# From dark to light and back would repeat; one hue that darkens is told apart in grey as well.
_STEPS: Final = {"scheme": "yellowgreenblue", "reverse": True}
_MAP_WIDTH: Final = 480  # pixels of a figure, about
_DASHES: Final = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


def _toggle(*fields: str) -> list[Spec]:
    """Return what makes a click on an entry of the legend show it alone."""
    return [
        {"name": f"shown_{field}", "select": {"type": "point", "fields": [field]}, "bind": "legend"}
        for field in fields
    ]


def _zoom(*axes: str) -> Spec:
    """Return zooming by the wheel with Ctrl, so that the page still scrolls; a double click resets."""
    wheel = "wheel![event.ctrlKey || event.metaKey]"
    select: Spec = {"type": "interval", "zoom": wheel, "encodings": list(axes or ("x", "y"))}
    return {"name": "zoom", "select": select, "bind": "scales"}


def _faded(*fields: str) -> Spec:
    test = {"and": [{"param": f"shown_{field}"} for field in fields]}
    return {"condition": {"test": test, "value": 1}, "value": 0.08}


def lines(
    rows: Rows,
    x: str,
    y: str,
    x_title: str,
    y_title: str,
    runs: Sequence[str],
    series: Sequence[str] | None = None,
) -> Spec:
    """Return lines: a colour for each of all ``runs``, the same in every figure; a dash for a series."""
    there = list(dict.fromkeys(row["series"] for row in rows))
    order = [name for name in series or there if name in there]
    order += [name for name in there if name not in order]
    published = [name for name in order if name.startswith("published")]
    own = [name for name in order if name not in published]
    dashes = {name: list(_DASHES[i % 3]) for i, name in enumerate(own)}
    dashes |= {name: list(_DASHES[3]) for name in published}
    several = len(order) > 1
    return {
        "width": "container",
        "height": 260,
        "data": {"values": rows},
        "params": [*_toggle("run", "series"), _zoom()],
        "mark": {"type": "line", "point": {"size": 28}, "tooltip": {"content": "data"}},
        "encoding": {
            "x": {
                "field": x,
                "type": "quantitative",
                "title": x_title,
                "axis": {"tickMinStep": 1 if x == "layer" else 0.1, "grid": False},
            },
            "y": {"field": y, "type": "quantitative", "title": y_title},
            "color": {
                "field": "run",
                "type": "nominal",
                "title": None,
                "scale": {
                    "domain": runs,
                    "range": [LINES[i % len(LINES)] for i in range(len(runs))],
                },
                "legend": {"orient": "bottom", "columns": 4} if len(runs) > 1 else None,
            },
            "strokeDash": {
                "field": "series",
                "type": "nominal",
                "title": None,
                "scale": {"domain": order, "range": [dashes[name] for name in order]},
                "legend": {"orient": "bottom", "columns": 4} if several else None,
            },
            "opacity": _faded("run", "series"),
        },
    }


def bars(
    rows: Rows, y: str, y_title: str, field: str, order: Sequence[str], *, ordered: bool
) -> Spec:
    """Return bars by layer, stacked by ``field``; ``ordered`` values get shades of one hue."""
    there = [name for name in order if any(row[field] == name for row in rows)]
    scale: Spec = {"domain": there}
    scale |= _STEPS if ordered else {"range": ["#9ecae1", "#3f88c5", "#0b3c6f"][: len(there)]}
    return {
        "width": "container",
        "height": 260,
        "data": {"values": rows},
        "params": _toggle(field),
        "mark": {"type": "bar", "tooltip": {"content": "data"}},
        "encoding": {
            "x": {
                "field": "layer",
                "type": "ordinal",
                "axis": {"labelAngle": 0, "labelOverlap": True},
            },
            "y": {"field": y, "type": "quantitative", "title": y_title},
            "order": {"field": "order", "type": "quantitative"},
            "color": {
                "field": field,
                "type": "ordinal" if ordered else "nominal",
                "title": field if ordered else None,
                "scale": scale,
                "sort": there,
                "legend": {"orient": "bottom", "columns": 4, "labelLimit": 260},
            },
            "opacity": _faded(field),
        },
    }


def panels(rows: Rows, kinds: Sequence[str], strengths: Sequence[str]) -> Spec:
    """Return curves by type, strong and weak by dash and shade, in one frame."""
    there = [kind for kind in kinds if any(row["type"] == kind for row in rows)]
    return {
        "width": "container",
        "height": 260,
        "data": {"values": rows},
        "params": [*_toggle("type", "strength"), _zoom()],
        "mark": {"type": "line", "tooltip": {"content": "data"}, "strokeWidth": 1.3},
        "encoding": {
            "x": {"field": "position", "type": "quantitative", "axis": {"grid": False}},
            "y": {
                "field": "frequency",
                "type": "quantitative",
                "title": "frequency",
                "scale": {"domain": [0, 1]},
            },
            "color": {
                "field": "type",
                "type": "nominal",
                "title": None,
                "scale": {"domain": there, "range": [TYPE_COLOURS[kind][0] for kind in there]},
                "legend": {"orient": "bottom", "columns": 4},
            },
            "strokeDash": {
                "field": "strength",
                "type": "nominal",
                "title": None,
                "scale": {"domain": list(strengths), "range": [[1, 0], [4, 3]]},
                "legend": {"orient": "bottom", "columns": 4},
            },
            "opacity": _faded("type", "strength"),
        },
    }


def map_of_types(rows: Rows, layers: Sequence[int]) -> Spec:
    """Return a circle for each neuron in the row of its layer; weak ones are pale."""
    keys = list(
        dict.fromkeys(f"{row['type']}, {row['strength']}" for row in sorted(rows, key=_type_order))
    )
    most = 1 + max([int(row["place"]) for row in rows], default=0)
    size = min(70, max(6, round(0.8 * (_MAP_WIDTH / most) ** 2)))
    colours = [TYPE_COLOURS[key.split(", ")[0]][key.endswith("weak")] for key in keys]
    return {
        "width": "container",
        "height": max(120, 13 * len(layers)),
        "data": {"values": rows},
        "transform": [{"calculate": "datum.type + ', ' + datum.strength", "as": "kind"}],
        "params": _toggle("kind"),
        "mark": {"type": "circle", "size": size, "opacity": 1, "tooltip": {"content": "data"}},
        "encoding": {
            "x": {
                "field": "place",
                "type": "quantitative",
                "axis": None,
                "scale": {"domainMin": -0.5, "nice": False},
            },
            "y": {
                "field": "layer",
                "type": "ordinal",
                "scale": {"domain": list(layers)},
                "axis": {"labelOverlap": True},
            },
            "color": {
                "field": "kind",
                "type": "nominal",
                "title": None,
                "scale": {"domain": keys, "range": colours},
                "legend": {"orient": "bottom", "columns": 4},
            },
            "opacity": _faded("kind"),
        },
    }


def _type_order(row: dict[str, Any]) -> tuple[int, str]:
    return list(TYPE_COLOURS).index(row["type"]), row["strength"]


def ranges(rows: Rows) -> Spec:
    """Return bars from the first position of a range to its last, one row a neuron."""
    neurons = list(dict.fromkeys(row["neuron"] for row in rows))
    colour = TYPE_COLOURS["oscillatory"]
    return {
        "width": "container",
        "height": max(60, 15 * len(neurons)),
        "data": {"values": rows},
        # A range ends with its last position: the bar ends where the next one begins.
        "transform": [{"calculate": "datum.end + 1", "as": "after"}],
        "params": [_zoom("x")],
        "mark": {"type": "bar", "height": {"band": 0.7}, "tooltip": {"content": "data"}},
        "encoding": {
            "x": {"field": "begin", "type": "quantitative", "title": "position"},
            "x2": {"field": "after"},
            "y": {"field": "neuron", "type": "nominal", "sort": neurons},
            "color": {
                "field": "series",
                "type": "nominal",
                "scale": {"domain": ["this run", "published"], "range": list(colour)},
                "legend": None,
            },
        },
    }
