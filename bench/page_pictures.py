"""Pictures of a run's page: light and dark, wide and on a phone; those of the README.

`python bench/page_pictures.py RUN OUT` writes all of them into the folder OUT;
`python bench/page_pictures.py RUN --readme` the two of the README, in bench/plots. RUN is the demo's.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

import pyneurons

PLOTS = Path(__file__).resolve().parent / "plots"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def detector(scan: pyneurons.Scan) -> str:
    """The token detector with the most fires among those of several tokens."""
    rows = [row for row in scan.detectors(1).to_pylist() if row["exact"] and row["covering"] > 1]
    best = max(rows, key=lambda row: row["fires"])
    return f"{best['layer']}.{best['neuron']}"


def picture(page: Any, address: str, where: str, path: Path, *, whole: bool) -> None:
    page.goto("about:blank")
    page.goto(f"{address}#{where}")
    view = where.split("/", maxsplit=1)[0]
    page.locator(f"#view-{view}[data-state=ready]").wait_for()
    figures = page.locator(f"#view-{view} .figure")
    for i in range(figures.count() if whole else 0):
        figures.nth(i).scroll_into_view_if_needed()
        page.locator(f"#view-{view} .figure[data-state=drawn] >> nth={i}").wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.screenshot(path=path, full_page=whole)


def main() -> None:
    scan = pyneurons.load(sys.argv[1])
    readme = sys.argv[2] == "--readme"
    out = PLOTS if readme else Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    neuron = detector(scan)
    views = {
        "overview": "overview",
        "neurons": "neurons",
        "neuron": f"neuron/{neuron}",
        "layer": f"layers/{neuron.split('.')[0]}",
        "definitions": "definitions/detector",
    }
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        address = scan.report(Path(folder) / "page.html")[0].as_uri()
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        for scheme in ("light", "dark"):
            for size in (WIDE, PHONE):
                context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
                page = context.new_page()
                for name, where in views.items():
                    if readme:
                        if (scheme, size, name in {"neuron", "layer"}) != ("light", WIDE, True):
                            continue
                        path = out / f"page-{name}.png"
                        picture(page, address, where, path, whole=False)
                        with Image.open(path) as shot:
                            small = shot.convert("RGB").quantize(64, dither=Image.Dither.NONE)
                        small.save(path, optimize=True)
                    else:
                        path = out / f"{name}-{scheme}-{size['width']}.png"
                        picture(page, address, where, path, whole=True)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
