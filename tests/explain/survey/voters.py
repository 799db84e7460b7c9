"""Surveys of random images, and a voter in a real browser."""

import json
import re

import torch

from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.explain.survey import count_votes
from cbam_lightning.explain.survey.votes import read_key

LABELS = ("resnet20-secret-a", "resnet20-secret-b", "vgg-secret-c")
READY = "#question[aria-busy=false]"
END = "#end:not([hidden])"
SIZES = ((4, 4), (7, 7), (80, 96))  # of the networks' maps


def explained(count, labels=LABELS, targets=None, name="hidden-{}.png"):
    """Return random images, each of its own class; network n marks only the nth corner."""
    draw = torch.Generator().manual_seed(3)
    images = []
    for i in range(count):
        image = torch.randint(0, 256, (3, 20, 24), generator=draw, dtype=torch.uint8)
        explanations = []
        for n in range(len(labels)):
            values = torch.zeros(SIZES[n % len(SIZES)])
            height, width = (side // 4 for side in values.shape)
            rows = (slice(height), slice(-height, None))[n % 2]
            columns = (slice(width), slice(-width, None))[n // 2 % 2]
            values[rows, columns] = 0.1 + float(torch.rand((), generator=draw))
            explanations.append(Explanation(targets[n] if targets else i, 0.123456, 0, 0.654321, values))
        images.append(ExplainedImage(name.format(i), image, i, explanations=tuple(explanations)))
    return images


def classes(count):
    return [f"class {i}" for i in range(count)]


class Voter:
    """Votes in a tab, and remembers the votes."""

    def __init__(self, key):
        self.key = read_key(key)
        self.by_class = {one.class_name: one for one in self.key.questions.values()}
        self.chosen = {}

    def place(self, tab, network):
        """Return the number of the network's map in the current question; 0 for no difference."""
        tab.wait_for_selector(READY)
        name = tab.text_content("#class")
        self.chosen[name] = network
        return [None, *self.by_class[name].options.values()].index(network)

    def click(self, tab, network):
        place = self.place(tab, network)
        tab.click(f"#choices button >> nth={place - 1}" if place else "#none")

    def press(self, tab, network):
        tab.keyboard.press(str(self.place(tab, network)))

    def download(self, tab, path):
        tab.wait_for_selector(END)
        with tab.expect_download() as waiting:
            tab.click("#download")
        waiting.value.save_as(path)
        assert re.fullmatch(r"votes-[0-9a-f]{8}\.json", waiting.value.suggested_filename)
        assert path.read_text() == tab.input_value("#votes")
        return json.loads(path.read_text())

    def assert_counted(self, key, path):
        found = count_votes(key, [path])
        assert not found.rejected
        assert found.answered == (len(self.chosen),)
        chosen = list(self.chosen.values())
        assert [row.votes for row in found.networks] == [chosen.count(label) for label in LABELS]
        assert found.no_difference.votes == chosen.count(None)
