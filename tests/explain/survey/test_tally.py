"""The tally of hand-made votes, compared with SciPy and known values, and files that must not be counted."""

import csv
import json
import math
import zlib

import pytest
from scipy import stats

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.survey import count_votes, draw, markdown, save, terminal
from cbam_lightning.explain.survey.tally import holm
from cbam_lightning.explain.survey.votes import read_key
from tests.explain.survey.vote_files import votes, write, write_key


def counted(*counts, questions=10):
    key = write_key(".", questions)
    files = [
        write(f"v{i}.json", votes(f"voter{i}", *one, questions=questions)) for i, one in enumerate(counts)
    ]
    return count_votes(key, files)


def test_several_voters_are_the_units():
    found = counted((2, 7, 1, 0), (3, 5, 1, 1), (1, 6, 2, 1))
    base, cbam, se = found.networks
    assert [row.votes for row in found.rows] == [6, 18, 4, 2]
    assert cbam.shares == (0.7, 0.5, 0.6)
    assert cbam.share == pytest.approx(0.6)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # 97.5 % quantile of t, 2 degrees of freedom
    assert (cbam.low, cbam.high) == pytest.approx((0.6 - half, 0.6 + half))
    p = {name: stats.ttest_rel(row.shares, base.shares).pvalue for name, row in (("cbam", cbam), ("se", se))}
    assert (cbam.test, se.test) == ("t", "t")
    assert (cbam.p, se.p) == pytest.approx((p["cbam"], p["se"]))
    assert p["cbam"] < p["se"]
    assert cbam.p_holm == pytest.approx(2 * p["cbam"])
    assert (base.p, found.no_difference.p) == (None, None)


def test_intervals_end_at_0_and_1():
    found = counted((0, 10, 0, 0), (9, 1, 0, 0))
    assert [(row.low, row.high) for row in found.networks[:2]] == [(0, 1), (0, 1)]


def test_one_voter_gives_wilson_and_binomial():
    found = counted((1, 7, 2, 0))
    cbam = found.networks[1]
    z = stats.norm.ppf(0.975)
    centre, half = (
        (0.7 + z * z / 20) / (1 + z * z / 10),
        z / (1 + z * z / 10) * math.sqrt(0.021 + z * z / 400),
    )
    assert (cbam.low, cbam.high) == pytest.approx((centre - half, centre + half))
    assert cbam.test == "binomial"
    assert cbam.p == pytest.approx(2 * (1 + 8) / 2**8)  # at least 7 of 8 votes for the same one
    assert "Wilson" in markdown(found)
    assert counted((0, 0, 0, 10)).networks[1].p == 1


def test_without_spread_the_interval_is_wilsons_and_the_sign_test_takes_over():
    # 0.5 - 0.2 and 0.4 - 0.1 are not the same number in floating point
    found = counted((2, 5, 2, 1), (1, 4, 2, 3), (2, 5, 2, 1))
    _, cbam, se = found.networks
    assert (cbam.test, cbam.p) == ("sign", 0.25)
    wilson = stats.binomtest(6, 30).proportion_ci(method="wilson")
    assert (se.low, se.high) == pytest.approx((wilson.low, wilson.high))
    assert "all voters have the same share: Wilson" in markdown(found)
    same = counted((4, 4, 1, 1), (3, 3, 3, 1))
    assert same.networks[1].p == 1


def test_holm_against_numbers_worked_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1, 1]
    assert holm([0.2]) == [0.2]


def test_a_clear_preference_is_found_and_none_is_not():
    clear = counted((1, 8, 1, 0), (2, 7, 1, 0), (1, 9, 0, 0), (0, 8, 1, 1), (1, 7, 2, 0))
    assert [clear.verdict(row) for row in clear.rows] == ["", "more", "unresolved", ""]
    worse = counted((8, 1, 1, 0), (7, 2, 1, 0), (9, 1, 0, 0), (8, 0, 1, 1))
    assert worse.verdict(worse.networks[1]) == "fewer"


def test_incomplete_votes_count_and_are_told_of():
    found = counted((2, 2, 0, 0), (3, 5, 1, 1))
    assert found.answered == (4, 10)
    assert found.networks[1].shares == (0.5, 0.5)
    assert "1 of 2 did not answer all 10 questions, but 4." in markdown(found)


UNUSABLE = {
    "not valid JSON": '{"format": 1, "vot',
    "not valid JSON: ": "[" * 100_000,
    "not a vote file": "[1, 2]",
    "format 2": votes("v", 1, 1, 1, 0, format=2),
    "another survey": votes("v", 1, 1, 1, 0, survey="s1"),
    "damaged": votes("v", 1, 1, 1, 0) | {"voter": "w"},
    "damaged: ": votes("v", 1, 1, 1, 0) | {"answers": {"q0": "q0-cbam", "q1": "q1-cbam", "q2": "q2-cbam"}},
    "damaged: its": votes("v", 1, 1, 1, 0) | {"answers": {"q0": 1}},
    "a question that the survey does not have": votes("v", 0, 0, 0, 0, answers={"q99": "none"}),
    "an option that it does not have": votes("v", 0, 0, 0, 0, answers={"q0": "q1-cbam"}),
    "no question is answered": votes("v", 0, 0, 0, 0),
    "claims to be complete with 3 of 10": votes("v", 1, 1, 1, 0, complete=True),
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_what_cannot_be_counted_is_listed_with_the_reason(reason):
    key, good = write_key("."), write("good.json", votes("good", 2, 5, 2, 1))
    bad = write("bad.json", UNUSABLE[reason])
    found = count_votes(key, [bad, good])
    assert found.answered == (10,)
    assert [one.path for one in found.rejected] == [bad]
    assert reason.strip() in found.rejected[0].reason
    assert "bad.json" in terminal(found)
    with pytest.raises(UsageError, match="no vote file can be counted"):
        count_votes(key, [bad])


def test_files_that_cannot_be_read_or_are_too_large():
    key, good = write_key("."), write("good.json", votes("good", 2, 5, 2, 1))
    large = write("large.json", json.dumps(votes("v", 1, 1, 1, 0)) + " " * 5_000_000)
    found = count_votes(key, [good, large, "absent.json", "."])
    reasons = [one.reason for one in found.rejected]
    assert ["larger than 5 MB" in reasons[0], *("cannot be read" in one for one in reasons[1:])] == [True] * 3
    with pytest.raises(UsageError, match="none was given"):
        count_votes(key, [])


def test_a_voter_counts_once():
    key = write_key(".")
    few, all_of_them = votes("v", 1, 1, 1, 0), votes("v", 2, 5, 2, 1)
    other = votes("v", 5, 2, 2, 1)
    paths = [
        write(name, content) for name, content in (("a", few), ("b", few), ("c", all_of_them), ("d", other))
    ]
    found = count_votes(key, paths)
    assert [row.votes for row in found.rows] == [2, 5, 2, 1]
    assert [(one.path.name, one.reason) for one in found.rejected] == [
        ("b", "duplicate: the same votes as a"),
        ("a", "other votes of the same voter as c, which answers 10, this one 3"),
        ("d", "other votes of the same voter as c, which came first and also answers 10"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"cbam"', '"base"', 1),
        lambda text: json.dumps(json.loads(text) | {"questions": {}}),
        lambda text: json.dumps(json.loads(text) | {"questions": {"q": {"options": []}}}),
        lambda text: "[]",
        lambda text: "\x00",
    ],
)
def test_a_damaged_key_is_a_mistake_of_the_user(change):
    key, good = write_key("."), write("good.json", votes("good", 2, 5, 2, 1))
    key.write_text(change(key.read_text()))
    with pytest.raises(UsageError, match="not the key of a survey, or damaged"):
        count_votes(key, [good])


def test_other_keys_that_cannot_be_used():
    key = write_key(".")
    with pytest.raises(UsageError, match="cannot be read"):
        count_votes("absent.json", [])
    key.write_text(json.dumps(json.loads(key.read_text()) | {"format": 7}))
    with pytest.raises(UsageError, match="format 7"):
        read_key(key)


def test_the_checksum_is_that_of_the_page():
    text = "1\ns0\nv\nincomplete\nq0 q0-base\nq1 q1-cbam"
    assert votes("v", 1, 1, 0, 0)["checksum"] == f"{zlib.crc32(text.encode()):08x}"


def test_files_are_written_once_and_hold_the_figures():
    found = counted((2, 7, 1, 0), (3, 5, 1, 1), (1, 6, 2, 1))
    paths = save(found, "out")
    assert [path.name for path in paths] == ["tally.md", "tally.csv", "tally.png"]
    rows = list(csv.DictReader(paths[1].open()))
    assert [row["network"] for row in rows] == ["base", "cbam", "se", "(no difference)"]
    assert float(rows[1]["p_holm"]) == found.networks[1].p_holm
    assert "| cbam | 18 | 60.0 |" in paths[0].read_text()
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    paths[0].unlink()
    with pytest.raises(UsageError, match=r"tally\.csv already exists"):
        save(found, "out")
    assert not paths[0].exists()


def test_hostile_names_stay_text():
    names = ("a|b<script>", "$\\frac{", "x\x1b[2J\n\u202e" + "y" * 500)
    key = write_key(".", 1, names)
    content = votes("v", 0, 0, 0, 1, questions=1)
    found = count_votes(key, [write("v.json", content), write("bad\x1b[2J|.json", "{")])
    text, table = terminal(found), markdown(found)
    assert "\x1b" not in text + table
    assert "\u202e" not in text + table
    assert "a\\|b\\<script\\>" in table
    assert all(line.count("|") - line.count("\\|") == 8 for line in table.splitlines()[:6])
    draw(found).canvas.draw()
    with save(found, "hostile")[1].open(newline="", encoding="utf-8") as file:
        assert {row["network"] for row in csv.DictReader(file)} == {row.label for row in found.rows}
