"""HTML pages in a single file: our script and style, and data that a browser never interprets as either.

The data is in ``<script type="application/json">`` elements, in which a browser runs nothing. Every ``<`` is
escaped, so that no text can end the element. Our script reads the data and inserts it as text only. A content
security policy forbids every other script and all requests.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, TextIO

import matplotlib
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from cbam_lightning.files import atomic_write

_POLICY = (
    "default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_LOSSLESS_UP_TO_PX = 64  # longer side; above, JPEG is a tenth of PNG and looks the same
_JPEG_QUALITY = 90
# old scripts end a line at U+2028 and U+2029; the others end an element or begin a comment
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@contextmanager
def atomic_text(path: str | Path) -> Iterator[TextIO]:
    """Open a UTF-8 file that appears only when complete, as ``atomic_write`` does.

    A lone surrogate, from a file name that is not UTF-8, is written as the escape that it has in JSON.
    """
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="\n")
        yield text
        text.flush()
        text.detach()


def write_page(
    file: TextIO, name: str, title: str, data: Mapping[str, Any], items: Iterable[Any] = ()
) -> None:
    """Write a page of ``explain/pages``.

    Args:
        file: Open for writing text in UTF-8.
        name: Of the page: ``NAME.html`` is its body; ``NAME.js`` and ``NAME.css`` add to ``page.js`` and
            ``page.css``.
        title: Of the page, plain text.
        data: What the script finds in the element ``data``. It is written after the last item, so that
            ``items`` may still add to it.
        items: Further data, written one by one as it arrives, in elements of the class ``item``.
    """
    script = _asset("page.js") + _asset(f"{name}.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head, tail = _asset("page.html").split("<!-- data -->\n")
    file.write(
        Template(head).substitute(
            policy=_POLICY.format(digest=digest),
            title=html.escape(title),
            style=_asset("page.css") + _asset(f"{name}.css"),
            body=_asset(f"{name}.html"),
        )
    )
    for item in items:
        file.write(f'<script type="application/json" class="item">{as_json(item)}</script>\n')
    file.write(f'<script type="application/json" id="data">{as_json(data)}</script>\n')
    file.write(Template(tail).substitute(script=script))


def as_json(value: Any) -> str:
    """Return JSON that is safe inside an HTML element: without ``<``, ``>`` and ``&``."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=asdict)
    return text.translate(_ESCAPED)


def as_data_url(image: Tensor) -> str:
    """Return an image as a data URL.

    Args:
        image: uint8 (C, H, W) with one or three channels.
    """
    picture = to_pil_image(image)
    format_ = "png" if max(picture.size) <= _LOSSLESS_UP_TO_PX else "jpeg"
    content = io.BytesIO()
    picture.save(content, format_, quality=_JPEG_QUALITY)  # PNG ignores the quality
    return f"data:image/{format_};base64,{base64.b64encode(content.getvalue()).decode()}"


def as_bytes(values: Tensor, largest: float) -> str:
    """Return values as base64 with one byte each: 0 for 0, and 255 for ``largest`` and above.

    Args:
        values: At least 0, of any shape, in row-major order.
        largest: Becomes 255; if it is 0, everything becomes 0.
    """
    scaled = (values * (255 / largest) if largest > 0 else values * 0).round().clamp(0, 255)
    return base64.b64encode(scaled.byte().numpy().tobytes()).decode()


def colour_map(name: str) -> str:
    """Return the 256 colours of a matplotlib colour map as base64 of red, green and blue bytes."""
    colours = matplotlib.colormaps[name](range(256), bytes=True)[:, :3]  # (256, 3)
    return base64.b64encode(colours.tobytes()).decode()


def _asset(name: str) -> str:
    return files("cbam_lightning.explain").joinpath("pages", name).read_text(encoding="utf-8")
