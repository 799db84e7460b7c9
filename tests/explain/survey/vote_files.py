"""A hand-made key and hand-made votes."""

import json
from pathlib import Path

from cbam_lightning.explain.survey.votes import FORMAT, Question, SurveyKey, checksum

NETWORKS = ("base", "cbam", "se")


def write_key(folder, questions=10, networks=NETWORKS, survey="s0"):
    """Write a key in which the token of network n in question q is ``q-n``."""
    made = {
        f"q{i}": Question(f"{i}.png", "shirt", {f"q{i}-{name}": name for name in networks})
        for i in range(questions)
    }
    path = Path(folder) / "key.json"
    path.write_text(SurveyKey(survey, tuple(networks), made).to_json())
    return path


def votes(voter, *counts, questions=10, survey="s0", **changed):
    """Return votes: counts for the first network, the second, ..., and last for no difference."""
    names = [name for name, count in zip((*NETWORKS, None), counts, strict=True) for _ in range(count)]
    answers = {f"q{i}": f"q{i}-{name}" if name else "none" for i, name in enumerate(names)}
    content = {
        "format": FORMAT,
        "survey": survey,
        "voter": voter,
        "complete": len(answers) == questions,
        "answers": answers,
    } | changed
    crc = checksum(content["survey"], content["voter"], content["complete"], content["answers"])
    return content | {"checksum": crc}


def write(path, content):
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content))
    return Path(path)
