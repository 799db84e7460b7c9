"""The files of a survey: the key, which stays with the organiser, and the votes, which come back."""

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
_MAX_BYTES = 5_000_000  # an answer takes about 50


@dataclass(frozen=True)
class Question:
    """The question about one image.

    Attributes:
        image: Name of the image.
        class_name: The class that the maps explain.
        options: The network behind each token, in the order of the page.
    """

    image: str
    class_name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class SurveyKey:
    """Which network each token of a survey stands for.

    Attributes:
        survey: Random name of the survey.
        networks: Labels; the first is the baseline.
        questions: By their random names.
    """

    survey: str
    networks: tuple[str, ...]
    questions: dict[str, Question]

    def to_json(self) -> str:
        """Return the content of a file that ``read_key`` reads."""
        questions = {
            name: {"picture": question.image, "class": question.class_name, "options": question.options}
            for name, question in self.questions.items()
        }
        content = {"format": FORMAT, "survey": self.survey, "networks": self.networks, "questions": questions}
        return json.dumps(content, indent=1) + "\n"


@dataclass(frozen=True)
class Votes:
    """The votes of one person.

    Attributes:
        voter: Random name that the page made up.
        answers: For each answered question the label of a network, or ``None`` for no difference.
    """

    voter: str
    answers: Mapping[str, str | None]


def read_key(path: str | Path) -> SurveyKey:
    """Read a key.

    Raises:
        UsageError: The file cannot be read, or is not a complete key of this format.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        if content["format"] == FORMAT:
            return _as_key(content)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}; give the key.json that `survey` wrote."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not the key of a survey, or damaged; give the key.json that `survey` wrote."
        ) from error
    raise UsageError(f"{path} has format {content['format']!r}; this version reads {FORMAT}.")


def _as_key(content: Any) -> SurveyKey:
    questions = {
        name: Question(question["picture"], question["class"], dict(question["options"].items()))
        for name, question in content["questions"].items()
    }
    key = SurveyKey(content["survey"], tuple(content["networks"]), questions)
    labels = sorted(key.networks)
    complete = (
        isinstance(key.survey, str)
        and len(set(labels)) == len(labels) >= 2
        and len(questions) > 0
        and all(sorted(question.options.values()) == labels for question in questions.values())
    )
    if not complete:
        raise ValueError("networks and options do not match")
    return key


def read_votes(path: str | Path, key: SurveyKey) -> Votes:
    """Read the votes of one person.

    Raises:
        UsageError: They cannot be counted. The message is the reason alone, without the name of the file.
    """
    survey, voter, complete, tokens = _load(Path(path))
    if survey != key.survey:
        raise UsageError(f"votes of another survey, {_brief(survey)}; the key is for {_brief(key.survey)}")
    answers = {question: _network(key, question, token) for question, token in tokens.items()}
    if not answers:
        raise UsageError("no question is answered")
    if complete != (len(answers) == len(key.questions)):
        claim = "complete" if complete else "incomplete"
        raise UsageError(
            f"claims to be {claim} with {len(answers)} of {len(key.questions)} questions answered"
        )
    return Votes(voter, answers)


def checksum(survey: str, voter: str, complete: bool, answers: Mapping[str, str]) -> str:
    """Return the CRC-32 of votes as eight hexadecimal digits, as ``pages/survey.js`` does.

    It reveals damage in transit, not forgery.
    """
    lines = [str(FORMAT), survey, voter, "complete" if complete else "incomplete"]
    lines += sorted(f"{question} {token}" for question, token in answers.items())
    text = "\n".join(lines).encode(errors="surrogatepass")
    return f"{zlib.crc32(text):08x}"


def _load(path: Path) -> tuple[str, str, bool, dict[str, str]]:
    """Return survey, voter, whether the votes are complete, and the token for each question."""
    content = _parse(path)
    if not isinstance(content, dict) or not {"format", "voter", "checksum"} <= content.keys():
        raise UsageError("not a vote file")
    if content["format"] != FORMAT:
        raise UsageError(f"format {_brief(content['format'])}; this version reads {FORMAT}")
    match [content.get(name) for name in ("survey", "voter", "complete", "answers")]:
        case [str(survey), str(voter), bool(complete), dict(tokens)] if (
            all(isinstance(token, str) for token in tokens.values())
            and checksum(survey, voter, complete, tokens) == content["checksum"]
        ):
            return survey, voter, complete, tokens
    raise UsageError("damaged: its checksum does not match its content")


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise UsageError(f"larger than {_MAX_BYTES // 1_000_000} MB, which no vote file is")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError("not valid JSON: truncated, damaged or another kind of file") from error


def _network(key: SurveyKey, question: str, token: str) -> str | None:
    if question not in key.questions:
        raise UsageError(f"answers a question that the survey does not have, {_brief(question)}")
    options = key.questions[question].options
    if token != NO_DIFFERENCE and token not in options:
        raise UsageError(
            f"answers question {_brief(question)} with an option that it does not have, {_brief(token)}"
        )
    return options.get(token)


def _brief(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
