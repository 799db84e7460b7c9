"""The tests' own browser: Debian's chromium without a window."""

import shutil
from contextlib import contextmanager

import pytest

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no browser: apt-get install chromium")


@contextmanager
def browser_page(path, width=1280, scheme="light", folder=None):
    """Open a file in a browser; errors of its scripts fail the test.

    Args:
        path: The file.
        width: Of the window.
        scheme: ``light`` or ``dark``.
        folder: Where the browser keeps what the page stores; left out, nowhere.
    """
    from playwright.sync_api import sync_playwright

    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    # as root, chromium has no sandbox of its own
    launch = {"executable_path": EXECUTABLE, "args": ["--no-sandbox"]}
    errors = []
    with sync_playwright() as driver:
        if folder is None:
            browser = driver.chromium.launch(**launch)
            context = browser.new_context(**options)
        else:
            context = driver.chromium.launch_persistent_context(folder, **launch, **options)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(path.resolve().as_uri())
        yield page
        context.close()
    assert errors == []
