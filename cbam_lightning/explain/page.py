"""HTML pages in one file: our own script and style, and data that nothing interprets as either.

Data stand in ``<script type="application/json">`` elements, where a browser runs nothing, with every ``<``
escaped, so that no text ends the element. Our script reads them, and writes text as text only. A content
security policy lets no other script run, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any, TextIO

import matplotlib
from PIL import Image
from torch import Tensor

_LOSSLESS_UP_TO_PX = 64  # of the longer side; beyond, JPEG is a tenth of PNG and no worse to look at
_JPEG_QUALITY = 90
# U+2028 and U+2029 end a line in a script of old; the others end an element, or begin a comment
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_page(
    file: TextIO, name: str, title: str, data: Callable[[], dict[str, Any]], items: Iterable[Any] = ()
) -> None:
    """Write a page of ``explain/pages``.

    Args:
        file: Open for text in UTF-8.
        name: Of the page: ``NAME.html`` is its body, ``NAME.js`` its script, ``NAME.css`` its style after
            ``page.css``, which is for all.
        title: Of the page, plain text.
        data: Returns, after the last item, what the script finds in the element ``data``, as JSON.
        items: Further data, written one by one as they come, in elements of the class ``item``.
    """
    script = _asset(f"{name}.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    file.write(
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_asset('page.css')}{_asset(f'{name}.css')}</style>\n</head>\n<body>\n"
        f"{_asset(f'{name}.html')}"
    )
    for item in items:
        file.write(f'<script type="application/json" class="item">{as_json(item)}</script>\n')
    file.write(f'<script type="application/json" id="data">{as_json(data())}</script>\n')
    file.write(f"<script>{script}</script>\n</body>\n</html>\n")


def as_json(value: Any) -> str:
    """Return JSON that can stand inside an HTML element: no ``<``, ``>`` or ``&``."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_ESCAPED)


def as_data_url(image: Tensor) -> str:
    """Return an image as text that a page can show.

    Args:
        image: uint8 (C, H, W) with one or three channels.
    """
    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    lossless = max(picture.size) <= _LOSSLESS_UP_TO_PX
    content = io.BytesIO()
    picture.save(content, "PNG" if lossless else "JPEG", **({} if lossless else {"quality": _JPEG_QUALITY}))
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{encoded}"


def as_bytes(values: Tensor, largest: float) -> str:
    """Return values as base64 of a byte each, 0 for 0 and 255 for ``largest`` and above.

    Args:
        values: At least 0, of any shape; rows follow one another.
        largest: What becomes 255; where it is 0, everything becomes 0.
    """
    scaled = (values * (255 / largest) if largest > 0 else values * 0).round().clamp(0, 255)
    return base64.b64encode(scaled.byte().numpy().tobytes()).decode()


def colour_map(name: str) -> str:
    """Return the 256 colours of a map of matplotlib's as base64 of red, green and blue, a byte each."""
    colours = matplotlib.colormaps[name](range(256), bytes=True)[:, :3]  # (256, 3)
    return base64.b64encode(colours.tobytes()).decode()


def _asset(name: str) -> str:
    return files("cbam_lightning.explain").joinpath("pages", name).read_text(encoding="utf-8")
