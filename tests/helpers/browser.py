"""A real browser, without a network: what the page says and asks for is kept."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 10_000


def _missing() -> str:
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the package playwright is not installed"
    return "" if any(map(shutil.which, NAMES)) else "no Chromium is installed"


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium; skip where there is none, unless PYNEURONS_REQUIRE_BROWSER says that it must be."""
    why = _missing()
    if why:
        if os.environ.get("PYNEURONS_REQUIRE_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    found = next(path for path in map(shutil.which, NAMES) if path)
    # Its sandbox refuses to start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that is open, and what it must not do: speak up, ask for anything, open a dialog."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self._address = path.absolute().as_uri()
        self._context = browser.new_context(offline=True, accept_downloads=True, **options)
        self.page = self._context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, where: str = "overview") -> Any:
        """Load the page anew at a place; return when that is there."""
        self.page.goto("about:blank")
        self.page.goto(f"{self._address}#{where}")
        return self.there(where.rpartition(":")[2].split("/")[0])

    def go(self, where: str) -> Any:
        """Follow a link of the page to a place."""
        self.page.evaluate("where => { location.hash = where }", where)
        return self.there(where.removeprefix("#").rpartition(":")[2].split("/")[0])

    def there(self, view: str) -> Any:
        """Wait for a view; return it."""
        place = self.page.locator(f"#view-{view}[data-state=ready]:not([hidden])")
        place.wait_for()
        return place

    def close(self) -> None:
        self._context.close()
        outside = [url for url in self.asked if not url.startswith(("file:///", "about:blank"))]
        assert not outside, outside
        assert not self.wrong, self.wrong
