"""The files of a survey: the key, which stays with whoever asks, and the votes, which come back."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbam_lightning.errors import UsageError

FORMAT = 1
NO_DIFFERENCE = "none"  # instead of a token
_LARGEST_BYTES = 5_000_000  # an answer takes some 50


@dataclass(frozen=True)
class Question:
    """What was asked of one image.

    Attributes:
        picture: Name of the image.
        class_name: The class that the maps explain.
        options: The network behind each token, in the order of the page.
    """

    picture: str
    class_name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Key:
    """Which network stands behind each token of a survey.

    Attributes:
        survey: Random name of the survey.
        networks: Labels; the first is the baseline.
        questions: By their random names.
    """

    survey: str
    networks: tuple[str, ...]
    questions: dict[str, Question]

    def to_json(self) -> str:
        """Return what ``read_key`` reads."""
        questions = {
            name: {"picture": one.picture, "class": one.class_name, "options": dict(one.options)}
            for name, one in self.questions.items()
        }
        content = {
            "format": FORMAT,
            "survey": self.survey,
            "networks": list(self.networks),
            "questions": questions,
        }
        return json.dumps(content, indent=1) + "\n"


@dataclass(frozen=True)
class Ballot:
    """The votes of one person.

    Attributes:
        voter: Random name that the page made up.
        answers: For each answered question the label of a network, or ``None`` for no difference.
    """

    voter: str
    answers: Mapping[str, str | None]


def read_key(path: str | Path) -> Key:
    """Read a key.

    Raises:
        UsageError: The file cannot be read, or is not a whole key of this format.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        version = content["format"]
        if version == FORMAT:
            key = _as_key(content)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}; give the key.json that `survey` wrote."
        raise UsageError(message) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"{path} is not the key of a survey, or damaged; give the key.json that `survey` wrote."
        raise UsageError(message) from error
    if version != FORMAT:
        message = f"{path} has format {version!r}; this version reads {FORMAT}."
        raise UsageError(message)
    return key


def _as_key(content: Any) -> Key:
    questions = {
        name: Question(one["picture"], one["class"], dict(one["options"].items()))
        for name, one in content["questions"].items()
    }
    key = Key(content["survey"], tuple(content["networks"]), questions)
    labels = sorted(key.networks)
    whole = (
        isinstance(key.survey, str)
        and len(set(labels)) == len(labels) >= 2
        and len(questions) > 0
        and all(sorted(one.options.values()) == labels for one in questions.values())
    )
    if not whole:
        message = "networks and options do not fit together"
        raise ValueError(message)
    return key


def read_ballot(path: str | Path, key: Key) -> Ballot:
    """Read the votes of one person.

    Raises:
        UsageError: They cannot be counted. The message is the reason alone, without the name of the file.
    """
    content = _load(Path(path))
    if not isinstance(content, dict) or not {"format", "voter", "checksum"} <= content.keys():
        message = "no vote file"
        raise UsageError(message)
    if content["format"] != FORMAT:
        message = f"format {_brief(content['format'])}; this version reads {FORMAT}"
        raise UsageError(message)
    survey, voter, complete, answers = _undamaged(content)
    if survey != key.survey:
        message = f"votes of another survey, {_brief(survey)}; the key is of {_brief(key.survey)}"
        raise UsageError(message)
    chosen = {name: _network(key, name, token) for name, token in answers.items()}
    if not chosen:
        message = "no question is answered"
        raise UsageError(message)
    if complete != (len(chosen) == len(key.questions)):
        said = "complete" if complete else "incomplete"
        message = f"says to be {said} with {len(chosen)} of {len(key.questions)} questions answered"
        raise UsageError(message)
    return Ballot(voter, chosen)


def checksum(survey: str, voter: str, complete: bool, answers: Mapping[str, str]) -> str:
    """Return the CRC-32 of votes as eight hexadecimal digits, as ``pages/survey.js`` does.

    It tells of damage on the way, not of forgery.
    """
    lines = [str(FORMAT), survey, voter, "complete" if complete else "incomplete"]
    lines += sorted(f"{question} {token}" for question, token in answers.items())
    text = "\n".join(lines).encode(errors="surrogatepass")
    return f"{zlib.crc32(text):08x}"


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise UsageError(message) from error
    if len(content) > _LARGEST_BYTES:
        message = f"larger than {_LARGEST_BYTES // 1_000_000} MB, which no vote file is"
        raise UsageError(message)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        message = "not valid JSON: cut off, damaged or another kind of file"
        raise UsageError(message) from error


def _undamaged(content: Mapping[str, Any]) -> tuple[str, str, bool, dict[str, str]]:
    survey, voter, complete, answers = (content.get(x) for x in ("survey", "voter", "complete", "answers"))
    if (
        isinstance(survey, str)
        and isinstance(voter, str)
        and isinstance(complete, bool)
        and isinstance(answers, dict)
        and all(isinstance(token, str) for token in answers.values())
        and checksum(survey, voter, complete, answers) == content["checksum"]
    ):
        return survey, voter, complete, answers
    message = "damaged: its checksum does not fit what is in it"
    raise UsageError(message)


def _network(key: Key, name: str, token: str) -> str | None:
    if name not in key.questions:
        message = f"answers a question that the survey does not have, {_brief(name)}"
        raise UsageError(message)
    options = key.questions[name].options
    if token != NO_DIFFERENCE and token not in options:
        message = f"gives question {_brief(name)} an answer that it does not have, {_brief(token)}"
        raise UsageError(message)
    return options.get(token)


def _brief(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
