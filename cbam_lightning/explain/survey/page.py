"""The page that asks people which map marks the object best (the user preference study of the CBAM paper).

Voters get one page that contains random tokens instead of network names. A second file, the key, says which
network each token stands for.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.explanations import ExplainedImage
from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.gradcam_figure import COLOUR_MAP
from cbam_lightning.explain.html_page import as_bytes, as_data_url, atomic_text, colour_map, write_page
from cbam_lightning.explain.networks import require_distinct
from cbam_lightning.explain.survey.votes import FORMAT, NO_DIFFERENCE, Question, SurveyKey
from cbam_lightning.files import atomic_write, check_unwritten

_CELLS = 56  # on the longer side of every map, so that the resolution does not reveal the network


def write_survey(
    images: Iterable[ExplainedImage],
    labels: Sequence[str],
    class_names: Sequence[str],
    folder: str | Path,
    seed: int | None = None,
) -> list[Path]:
    """Write ``survey.html`` for the voters, and ``key.json``, which they must not see.

    Args:
        images: One question each.
        labels: Names of the networks, in the order of the explanations; the first is the baseline of the
            tally.
        class_names: Names of all classes.
        folder: Where to write both files.
        seed: For tests only, because it reveals the networks. Default: the system's randomness.

    Returns:
        The page and the key.

    Raises:
        UsageError: There are fewer than two networks, two with the same label, or no image; the networks
            explain different classes of an image; or one of the files already exists.
        OSError: The folder or a file cannot be written.
    """
    page, key_file = (Path(folder) / name for name in ("survey.html", "key.json"))
    check_unwritten(page, key_file)
    if len(labels) < 2:
        raise UsageError(
            f"a survey of {len(labels)} networks was asked for; give two or more to choose from."
        )
    require_distinct(labels)
    rng = random.SystemRandom() if seed is None else random.Random(seed)
    key = SurveyKey(_token(rng), tuple(labels), {})
    data = {"format": FORMAT, "survey": key.survey, "none": NO_DIFFERENCE, "colours": colour_map(COLOUR_MAP)}
    with atomic_text(page) as text, atomic_write(key_file) as file:
        questions = _ask(images, class_names, key, rng)
        write_page(text, "survey", "Survey: which map marks it best?", data, questions)
        if not key.questions:
            raise UsageError("a survey of no images was asked for; give at least one.")
        file.write(key.to_json().encode())
    return [page, key_file]


def _ask(
    images: Iterable[ExplainedImage], class_names: Sequence[str], key: SurveyKey, rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Yield what the page knows of each question, and add the rest to the key."""
    for image in images:
        class_name = class_names[_target(image)]
        rows, columns = _grid(image.image)
        options = [
            (_token(rng), label, _encode(explanation.map, rows, columns))
            for label, explanation in zip(key.networks, image.explanations, strict=True)
        ]
        rng.shuffle(options)
        question = _token(rng)
        networks = {token: label for token, label, _ in options}
        key.questions[question] = Question(image.name, class_name, networks)
        yield {
            "id": question,
            "class": class_name,
            "image": as_data_url(image.image),
            "rows": rows,
            "columns": columns,
            "options": [{"token": token, "map": encoded} for token, _, encoded in options],
        }


def _target(image: ExplainedImage) -> int:
    targets = {explanation.target for explanation in image.explanations}
    if len(targets) > 1:
        raise UsageError(
            f"the networks explain different classes of {image.name!r}, {sorted(targets)}, but a question "
            "asks about one class; give images with labels, or one target for all."
        )
    return targets.pop()


def _grid(image: Tensor) -> tuple[int, int]:
    """Return the rows and columns of the maps over an image (C, H, W)."""
    height, width = image.shape[1:]
    scale = _CELLS / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _encode(map_: Tensor, rows: int, columns: int) -> str:
    large = enlarge(map_.float()[None], (rows, columns))[0]
    return as_bytes(large, float(large.max()))


def _token(rng: random.Random) -> str:
    return f"{rng.getrandbits(64):016x}"
