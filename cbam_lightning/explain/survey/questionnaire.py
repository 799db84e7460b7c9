"""A survey: people say which map marks the object best (the user preference of the CBAM paper).

Whoever votes gets one page that knows no network, only tokens; what they stand for is in a second file.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.looking import Looked
from cbam_lightning.explain.page import as_bytes, as_data_url, colour_map, write_page
from cbam_lightning.explain.survey.ballots import FORMAT, NO_DIFFERENCE, Key, Question
from cbam_lightning.files import atomic_write, check_unwritten

_CELLS = 56  # of the longer side of every map, whatever the network's own resolution


def write_survey(
    looked: Iterable[Looked],
    labels: Sequence[str],
    class_names: Sequence[str],
    folder: str | Path,
    seed: int | None = None,
) -> list[Path]:
    """Write ``survey.html``, for those who vote, and ``key.json``, which they must not see.

    Args:
        looked: A question each.
        labels: Of the networks, in the order of ``looks``; the first is the baseline of the tally.
        class_names: Of all classes.
        folder: Where both files go.
        seed: For tests: whoever knows it can tell the networks. Left out, the order is drawn by the system.

    Returns:
        The page and the key.

    Raises:
        UsageError: There are fewer than two networks, two of one label, or no image; the networks explain
            different classes of an image; or one of the files is already there.
        OSError: The folder or a file cannot be written.
    """
    page, secret = (Path(folder) / name for name in ("survey.html", "key.json"))
    check_unwritten(page, secret)
    _check(labels)
    rng = random.SystemRandom() if seed is None else random.Random(seed)
    key = Key(_token(rng), tuple(labels), {})
    data = {"format": FORMAT, "survey": key.survey, "none": NO_DIFFERENCE, "colours": colour_map("turbo")}
    with atomic_write(page) as file, atomic_write(secret) as secret_file:
        # a lone surrogate, from a name that is no UTF-8, becomes the escape that it has in JSON
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="\n")
        write_page(
            text,
            "survey",
            "Survey: which map marks it best?",
            lambda: data,
            _items(looked, class_names, key, rng),
        )
        text.detach()
        if not key.questions:
            message = "a survey of no images was asked for; give at least one."
            raise UsageError(message)
        secret_file.write(key.to_json().encode())
    return [page, secret]


def _check(labels: Sequence[str]) -> None:
    if len(labels) < 2:
        message = f"a survey of {len(labels)} networks was asked for; give two or more to choose from."
        raise UsageError(message)
    if twice := [label for label in labels if labels.count(label) > 1]:
        message = f"two networks are called {twice[0]!r}; give one another label, as in other={twice[0]}."
        raise UsageError(message)


def _items(
    looked: Iterable[Looked], class_names: Sequence[str], key: Key, rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Return what the page knows of each question, and note in the key what it does not."""
    for one in looked:
        class_name = class_names[_target(one)]
        rows, columns = _grid(one.picture.image)
        options = [
            (_token(rng), label, _prepare(look.map, (rows, columns)))
            for label, look in zip(key.networks, one.looks, strict=True)
        ]
        rng.shuffle(options)
        name = _token(rng)
        behind = {token: label for token, label, _ in options}
        key.questions[name] = Question(one.picture.name, class_name, behind)
        yield {
            "id": name,
            "class": class_name,
            "image": as_data_url(one.picture.image),
            "rows": rows,
            "columns": columns,
            "options": [{"token": token, "map": values} for token, _, values in options],
        }


def _target(one: Looked) -> int:
    targets = {look.target for look in one.looks}
    if len(targets) > 1:
        message = (
            f"the networks explain different classes of {one.picture.name!r}, {sorted(targets)}; people can "
            "be asked of one only: give images with labels, or one target for all."
        )
        raise UsageError(message)
    return targets.pop()


def _grid(image: Tensor) -> tuple[int, int]:
    height, width = image.shape[1:]
    scale = _CELLS / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _prepare(values: Tensor, grid: tuple[int, int]) -> str:
    large = enlarge(values.float()[None], grid)[0]
    return as_bytes(large, float(large.max()))


def _token(rng: random.Random) -> str:
    return f"{rng.getrandbits(64):016x}"
