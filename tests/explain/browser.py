"""Open a page in a real browser: Debian's chromium, headless."""

import re
import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def opened(page, profile="profile", before=None, **options):
    """Open a file in a browser; a script error, a dialog or an outside request fails the test.

    Args:
        page: The file.
        profile: Folder where the browser keeps what the page stores.
        before: A script that runs before those of the page.
        options: Of playwright's context, such as ``viewport`` and ``color_scheme``.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"no browser is installed: {', '.join(names)}")
    with playwright.sync_playwright() as p:
        context = p.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            headless=True,
            args=["--no-sandbox"],  # chromium has no sandbox as root
            **options,
        )
        context.set_default_timeout(120_000)
        tab = context.new_page()
        if before:
            tab.add_init_script(before)
        wrong = []
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        tab.on(
            "request", lambda request: re.match("file:|data:|blob:", request.url) or wrong.append(request.url)
        )
        tab.goto(page.resolve().as_uri())
        yield tab
        context.close()
        assert wrong == []
