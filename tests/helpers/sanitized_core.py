"""Puts the extension that PYNEURONS_SANITIZED names in the place of the installed one.

A plugin of pytest (``-p sanitized_core``), see tests/sanitize.sh. As a program it reads past the end of
a mask, through the extension alone: `pyneurons.ops` would refuse the order.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import numpy as np


def put() -> None:
    path = os.environ["PYNEURONS_SANITIZED"]
    spec = importlib.util.spec_from_file_location("pyneurons._core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # `from pyneurons import _core` looks here before it looks for a file.
    sys.modules["pyneurons._core"] = module
    import pyneurons

    pyneurons._core = module  # type: ignore[attr-defined]


def read_past_the_end() -> None:
    from pyneurons import _core

    mask = np.zeros((100, 64), dtype=np.uint32)
    order = np.array([100], dtype=np.int32)
    segments = np.array([0, 1], dtype=np.int64)
    _core.segment_counts(mask, order, segments, np.zeros((1, 2048), dtype=np.int64), "scalar", 1)


def pytest_report_header() -> str:
    from pyneurons import _core

    assert _core.__file__ == os.environ["PYNEURONS_SANITIZED"]
    return f"extension: {_core.__file__}"


put()

if __name__ == "__main__":
    read_past_the_end()
