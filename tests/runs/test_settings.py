"""Configurations are read back as they were, and compared by what they mean."""

from functools import partial

import pytest
import yaml
from jsonargparse import ArgumentParser
from jsonargparse._loaders_dumpers import loaders

from cbam_lightning.runs.settings import dump_yaml, read_word, same_value

NUMBERS = ("1e3", "1e-3", "12e03", "1.5e3", "-.5e+2", "1.10", "010", "1:30", "2026-11-26")
WORDS = (*NUMBERS, "no", "on", "# 1", "a: b", "ä")


@pytest.mark.parametrize("word", WORDS)
def test_a_word_in_a_file_stays_a_word(word, tmp_path, monkeypatch):
    monkeypatch.setitem(loaders, "yaml", partial(read_word, read=loaders["yaml"]))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--name", type=str | None)
    parser.add_argument("--names", type=list[str])
    (tmp_path / "a.yaml").write_text(dump_yaml({"name": word, "names": [word, word]}))
    read = parser.parse_path(tmp_path / "a.yaml")
    assert (read.name, read.names) == (word, [word, word])
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["name"] == word


def test_numbers_stay_numbers():
    values = {"a": 0.001, "b": 1e-9, "c": 3, "d": [1e20, float("inf")], "e": True, "f": None}
    assert yaml.safe_load(dump_yaml(values)) == values


def test_a_word_that_starts_like_a_comment_is_a_word():
    assert read_word("#1", yaml.safe_load) == "#1"
    assert read_word("# a file of comments\n", yaml.safe_load) is None
    assert read_word("1 # one", yaml.safe_load) == 1


@pytest.mark.parametrize(
    ("written", "resolved", "same"),
    [
        ("no", False, True),
        ("True", True, True),
        ("yes", False, False),
        ("1", True, False),
        ("no", "no", True),
        ("1e-3", 0.001, True),
        ("Classifier", "cbam_lightning.tasks.Classifier", True),
        (2, 3, False),
    ],
)
def test_a_setting_is_compared_by_its_meaning(written, resolved, same):
    assert same_value(written, resolved) is same
