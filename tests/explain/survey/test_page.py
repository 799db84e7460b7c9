"""The survey page in a real browser: how people vote, and what it must hide from them."""

import base64
import json
import random
import re
from dataclasses import replace

import matplotlib as mpl
import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.explanations import Explanation
from cbam_lightning.explain.survey import count_votes
from cbam_lightning.explain.survey.page import write_survey
from cbam_lightning.explain.survey.votes import read_key
from tests.explain.browser import opened
from tests.explain.survey.voters import END, LABELS, READY, Voter, classes, explained


def test_clicking_to_the_end_with_the_page_closed_in_between(tmp_path):
    page, key = write_survey(explained(7), LABELS, classes(7), tmp_path)
    voter = Voter(key)
    picks = [LABELS[1], LABELS[1], None, LABELS[2], LABELS[0], LABELS[1], None]
    with opened(page) as tab:
        for network in picks[:3]:
            voter.click(tab, network)
        tab.wait_for_selector(READY)
        left_at = tab.text_content("#class")
    with opened(page) as tab:
        tab.wait_for_selector(READY)
        assert (tab.text_content("#place"), tab.text_content("#class")) == ("4 of 7", left_at)
        assert not tab.is_visible("#unsaved")
        for network in picks[3:]:
            voter.click(tab, network)
        content = voter.download(tab, tmp_path / "votes.json")
    assert list(voter.chosen.values()) == picks
    assert content["complete"] is True
    voter.assert_counted(key, tmp_path / "votes.json")


def test_voting_by_keys_going_back_changing_and_stopping(tmp_path):
    page, key = write_survey(explained(5), LABELS, classes(5), tmp_path)
    voter = Voter(key)
    with opened(page) as tab:
        for network in (LABELS[0], LABELS[0], None):
            voter.press(tab, network)
        for _ in range(2):
            tab.wait_for_selector(READY)
            tab.keyboard.press("ArrowLeft")
        tab.wait_for_selector(READY)
        assert tab.text_content("#place") == "2 of 5"
        pressed = f"#choices button >> nth={voter.place(tab, LABELS[0]) - 1}"
        assert tab.get_attribute(pressed, "aria-pressed") == "true"
        voter.press(tab, LABELS[2])
        tab.wait_for_selector(READY)
        tab.keyboard.press("ArrowRight")
        for key_that_is_none in ("9", "x", "Control+1"):
            tab.keyboard.press(key_that_is_none)
        tab.wait_for_selector(READY)
        assert tab.text_content("#place") == "4 of 5"
        tab.click("#stop")
        content = voter.download(tab, tmp_path / "partial.json")
        assert content["complete"] is False
        voter.assert_counted(key, tmp_path / "partial.json")
        tab.click("#resume")
        for network in (LABELS[1], LABELS[1]):
            voter.press(tab, network)
        voter.download(tab, tmp_path / "votes.json")
    assert list(voter.chosen.values()) == [LABELS[0], LABELS[2], None, LABELS[1], LABELS[1]]
    voter.assert_counted(key, tmp_path / "votes.json")
    assert "which answers 5, this one 3" in count_votes(key, tmp_path.glob("[pv]*.json")).rejected[0].reason


def test_a_double_click_is_one_answer(tmp_path):
    page, _ = write_survey(explained(3), LABELS, classes(3), tmp_path)
    with opened(page) as tab:
        tab.wait_for_selector(READY)
        tab.dblclick("#none")
        tab.wait_for_selector(READY)
        assert tab.text_content("#place") == "2 of 3"
        tab.keyboard.down("0")
        for _ in range(3):
            tab.wait_for_selector(READY)
            tab.keyboard.down("0")  # held down, so it repeats
        assert tab.text_content("#place") == "3 of 3"


def test_what_is_drawn_under_a_token_is_the_map_of_its_network(tmp_path):
    page, key = write_survey(explained(1), LABELS, classes(1), tmp_path)
    options = next(iter(read_key(key).questions.values())).options
    turbo = mpl.colormaps["turbo"]
    canvases = "[...document.querySelectorAll('#choices canvas')]"
    corners = "[[5, 5], [5, 421], [506, 5]]"  # one per network: bottom left is the second's
    pixel = "([x, y]) => [...c.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
    with opened(page) as tab:
        tab.wait_for_selector(READY)
        assert tab.evaluate(f"{canvases}.map(c => [c.width, c.height])") == [[512, 427]] * 4
        plain, *drawn = torch.tensor(tab.evaluate(f"{canvases}.map(c => {corners}.map({pixel}))"))
    for label, found in zip(options.values(), drawn, strict=True):
        for n in range(3):
            colour = torch.tensor(turbo(255 if LABELS[n] == label else 0, bytes=True)[:3])
            expected = (plain[n] + colour) / 2
            assert (found[n] - expected).abs().max() <= 3


def test_without_storage_it_works_and_says_so(tmp_path):
    page, key = write_survey(explained(2), LABELS, classes(2), tmp_path)
    denied = "{get() { throw new DOMException('denied', 'SecurityError'); }}"
    refuse = f"Object.defineProperty(window, 'localStorage', {denied})"
    voter = Voter(key)
    with opened(page, before=refuse) as tab:
        tab.wait_for_selector(READY)
        assert tab.is_visible("#unsaved")
        voter.press(tab, LABELS[0])
        voter.press(tab, None)
        voter.download(tab, tmp_path / "votes.json")
        tab.click("#copy")
        tab.wait_for_selector("#done:has-text('is copied')")
    voter.assert_counted(key, tmp_path / "votes.json")


def test_two_tabs_share_the_answers(tmp_path):
    page, _ = write_survey(explained(3), LABELS, classes(3), tmp_path)
    with opened(page) as tab:
        other = tab.context.new_page()
        other.goto(tab.url)
        other.wait_for_selector(READY)
        other.keyboard.press("1")
        tab.wait_for_selector("#place:has-text('2 of 3')")
        tab.wait_for_selector(READY)
        tab.keyboard.press("0")
        other.wait_for_selector("#place:has-text('3 of 3')")


def test_narrow_and_in_both_colour_schemes(tmp_path):
    labels = [f"n{i}" for i in range(6)]
    page, _ = write_survey(explained(1, labels), labels, ["x" * 3000], tmp_path)
    backgrounds = []
    for scheme in ("light", "dark"):
        options = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
        with opened(page, f"profile-{scheme}", **options) as tab:
            tab.wait_for_selector(READY)
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390
            lefts = tab.eval_on_selector_all(
                "#choices button", "all => all.map(x => x.getBoundingClientRect().left)"
            )
            assert len(set(lefts)) == 2
            backgrounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            tab.click("#stop")
            tab.wait_for_selector(END)
            assert tab.is_disabled("#download")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 20, 23)"]


HOSTILE = (
    "</script><script>document.title='hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "<!-- <script>",
    "&lt;b&gt; \"double\" 'single' `tick` ${document.title='hacked'} \\u003c",
    "line\u2028and\u2029paragraph",
    "\u202egnp.exe",
    "javascript:alert(1)",
    "long " * 400,
)


def test_hostile_names_are_text_and_never_run(tmp_path):
    labels = [f"{text}{i}" for i, text in enumerate(HOSTILE)]
    made = explained(len(HOSTILE), labels, name=HOSTILE[0] + "{}" + HOSTILE[1])
    page, key = write_survey(made, labels, HOSTILE, tmp_path)
    seen = []
    with opened(page) as tab:
        for _ in HOSTILE:
            tab.wait_for_selector(READY)
            seen.append(tab.text_content("#class"))
            assert tab.evaluate("document.querySelectorAll('#class *, img').length") == 0
            assert tab.evaluate("document.getElementById('class').localName") == "bdi"  # isolates bidi text
            tab.keyboard.press("1")
        tab.wait_for_selector(END)
        assert tab.evaluate("document.scripts.length") == 2 + len(HOSTILE)  # data, items and our script
        assert tab.title() == "Survey: which map marks it best?"
    assert sorted(seen) == sorted(HOSTILE)
    assert read_key(key).networks == tuple(labels)
    assert {one.class_name for one in read_key(key).questions.values()} == set(HOSTILE)


def items(page):
    text = page.read_bytes().decode()
    return [
        json.loads(x)
        for x in re.findall(r'<script type="application/json" class="item">(.*?)</script>', text)
    ]


def test_the_page_tells_nothing_of_the_networks(tmp_path):
    page, key = write_survey(explained(12), LABELS, classes(12), tmp_path)
    text = page.read_text()
    for secret in (*LABELS, "secret", "hidden-", ".png", "0.123456", "0.654321"):
        assert secret not in text
    known = read_key(key)
    tokens = [token for one in known.questions.values() for token in one.options]
    assert len(set(tokens)) == 36
    assert all(re.fullmatch("[0-9a-f]{16}", token) for token in tokens)
    for item in items(page):
        assert item.keys() == {"id", "class", "image", "rows", "columns", "options"}
        for option in item["options"]:
            assert option.keys() == {"token", "map"}
            values = base64.b64decode(option["map"])
            assert len(values) == item["rows"] * item["columns"] == 47 * 56
            assert max(values) == 255  # each scaled to its own maximum
        assert [o["token"] for o in item["options"]] == list(known.questions[item["id"]].options)
    orders = {tuple(one.options.values()) for one in known.questions.values()}
    assert len(orders) > 1


def test_the_order_is_drawn_evenly_and_a_seed_repeats_it(tmp_path):
    one, same, other = (tmp_path / x for x in ("one", "same", "other"))
    made = explained(200)
    files = [
        write_survey(made, LABELS, classes(200), folder, seed)
        for folder, seed in ((one, 1), (same, 1), (other, 2))
    ]
    assert files[0][0].read_bytes() == files[1][0].read_bytes()
    assert files[0][1].read_bytes() == files[1][1].read_bytes() != files[2][1].read_bytes()
    key = read_key(files[0][1])
    for place in range(3):
        first = [list(x.options.values())[place] for x in key.questions.values()]
        assert all(45 <= first.count(label) <= 90 for label in LABELS)  # 200/3 within 3 standard deviations


def test_what_survey_refuses(tmp_path):
    with pytest.raises(UsageError, match="1 networks was asked for"):
        write_survey(explained(1, LABELS[:1]), LABELS[:1], classes(1), tmp_path)
    with pytest.raises(UsageError, match="two networks are called 'a'"):
        write_survey(explained(1, "aa"), ["a", "a"], classes(1), tmp_path)
    with pytest.raises(UsageError, match=r"different classes of 'hidden-0\.png'"):
        write_survey(explained(1, targets=[0, 1, 0]), LABELS, classes(2), tmp_path)
    with pytest.raises(UsageError, match="survey of no images"):
        write_survey(iter([]), LABELS, [], tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "key.json").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        write_survey(explained(1), LABELS, classes(1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]
    assert (tmp_path / "key.json").read_text() == "mine"


def test_a_name_that_is_no_utf8_and_an_empty_map(tmp_path):
    (one,) = explained(1, name="\udcff{}")
    maps = tuple(Explanation(0, 0.5, 0, 0.5, torch.zeros(3, 3)) for _ in LABELS)
    empty = replace(one, explanations=maps)
    page, key = write_survey([empty], LABELS, ["a\udcffb"], tmp_path)
    (item,) = items(page)
    assert item["class"] == "a\udcffb"
    assert set(base64.b64decode(item["options"][0]["map"])) == {0}
    assert next(iter(read_key(key).questions.values())).image == "\udcff0"


def test_images_of_any_shape_have_at_most_56_cells_a_side(tmp_path):
    shapes = [(1, 500, 3), (3, 1, 1), (1, 28, 28), (3, 97, 224)]
    (one,) = explained(1)
    made = [replace(one, image=torch.zeros(shape, dtype=torch.uint8)) for shape in shapes]
    page, _ = write_survey(made, LABELS, ["c"], tmp_path, seed=random.randrange(100))
    assert [(x["rows"], x["columns"]) for x in items(page)] == [(56, 1), (56, 56), (56, 56), (24, 56)]
