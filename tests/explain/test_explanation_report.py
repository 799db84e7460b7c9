"""The explanation report: its numbers, its figure, and its page in a real browser."""

import json
import tracemalloc
from dataclasses import replace

import pytest
import torch
from PIL import Image

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.explanation_report import write_report
from cbam_lightning.explain.explanations import InputImage, explain_images
from cbam_lightning.explain.gradcam import GradCAM, enlarge
from cbam_lightning.explain.networks import ExplainedNetwork
from cbam_lightning.weights import Header
from tests.explain.browser import opened
from tests.explain.test_gradcam import small_resnet

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
CLASSES = ("cat", "dog", HOSTILE, "bird\u2028\u202e", "fox & 'hen'")


def classifiers(*labels):
    header = Header(
        "resnet20", "cbam", 5, 3, class_names=CLASSES, size_px=24, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    networks = [small_resnet("cbam").float(), small_resnet("none").float(), small_resnet("se").float()]
    return [
        ExplainedNetwork(label, network, header, GradCAM(network, example=(1, 3, 24, 24)))
        for label, network in zip(labels, networks, strict=False)
    ]


def pictures(count, labels=range(5), masks=False):
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randint(256, (3, 24, 24), dtype=torch.uint8, generator=generator) for _ in range(count)]
    mask = torch.arange(24).expand(24, 24) < 12 if masks else None
    return [
        InputImage(f"photos/{HOSTILE}/{i}.jpg", image, labels[i % len(labels)], mask)
        for i, image in enumerate(draw)
    ]


def written(networks, images, steps=3, **options):
    return write_report(networks, explain_images(networks, images, steps=steps), "out", **options)


def test_json_holds_what_the_networks_say():
    networks, images = classifiers("plain", HOSTILE), pictures(4, masks=True)
    (figure, _, numbers), summary = written(networks, images)
    found = json.loads(numbers.read_text())
    assert [image["image"] for image in found["images"]] == [picture.name for picture in images]
    for k, network in enumerate(networks):
        normalised = (torch.stack([p.image for p in images]) / 255 - 0.5) / 0.25
        with torch.no_grad():
            probabilities = network.network.eval()(normalised).softmax(1)
        for i, image in enumerate(found["images"]):
            seen = image["networks"][network.label]
            assert (image["class"], seen["target"]) == (CLASSES[i], CLASSES[i])
            assert seen["probability"] == pytest.approx(float(probabilities[i, i]), rel=1e-4)
            assert seen["predicted"] == CLASSES[int(probabilities[i].argmax())]
            assert torch.tensor(seen["map"]).shape == (6, 6)
            assert 0 <= seen["deletion"] <= 1
            assert 0 <= seen["insertion"] <= 1
            large = enlarge(torch.tensor(seen["map"])[None], images[i].image.shape[1:])[0]
            assert seen["extent"] == pytest.approx(float((large > large.max() / 2).float().mean()), abs=0.02)
            assert len(seen["gates"]) == (3 if k == 0 else 0)
        mean = found["networks"][k]["figures"]["probability"]["mean"]
        assert mean == pytest.approx(float(probabilities.diag().mean()), rel=1e-4)
        assert summary.estimates(k)["probability"].mean == mean
    with Image.open(figure) as picture:
        assert picture.height > picture.width > 500


def test_an_image_without_a_class_is_explained_for_what_each_network_says():
    networks = classifiers("a", "b", "c")
    for one in explain_images(networks, pictures(3, labels=[-1])):
        assert all(seen.target == seen.predicted for seen in one.explanations)
    for one in explain_images(networks, pictures(2), target=2):
        assert all(seen.target == 2 for seen in one.explanations)
    for one in explain_images(networks, pictures(3), target=-1):
        for seen in one.explanations:
            assert (seen.target, seen.probability) == (seen.predicted, seen.confidence)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_sorts_filters_and_runs_nothing_of_its_data(width, scheme):
    networks, images = classifiers("plain", HOSTILE), pictures(30)
    (_, path, numbers), _ = written(networks, images)
    values = [one["networks"]["plain"]["probability"] for one in json.loads(numbers.read_text())["images"]]
    with opened(path, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.locator(".maps canvas").nth(47).wait_for()
        assert page.locator(".maps canvas").count() == 48
        assert page.title() == "What the networks look at"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("script:not([type])").count() == 1
        assert page.locator(".image h2 .muted").first.text_content() == images[0].name
        assert HOSTILE in page.locator("#summary").text_content()
        page.select_option("#sort", label="P: plain")
        page.select_option("#order", "-1")
        best = images[max(range(30), key=values.__getitem__)]
        assert page.locator(".image h2 .muted").first.text_content() == best.name
        page.click("#more")
        assert page.locator(".image").count() == 30
        page.select_option("#class", label=HOSTILE)
        assert page.locator(".image").count() == 6
        page.locator("details summary").first.click()
        page.locator(".gates figure").nth(2).wait_for()
        assert page.locator(".gates figure").count() == 3
        drawn = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 3"
        for canvas in page.locator(".maps canvas, .gates canvas").all()[:9]:
            assert canvas.evaluate(drawn), "a picture is empty"
        assert page.title() == "What the networks look at"


def test_self_attention_is_told_apart_from_gates():
    networks = classifiers("plain")
    network = small_resnet("sagan").float()
    networks[0] = replace(networks[0], network=network, cam=GradCAM(network, example=(1, 3, 24, 24)))
    (_, path, numbers), _ = written(networks, pictures(1), steps=0)
    (image,) = json.loads(numbers.read_text())["images"]
    gates = image["networks"]["plain"]["gates"]
    assert len(gates) == 2  # after every stage but the last
    for statistics in gates.values():
        assert list(statistics) == ["attention"]
        assert statistics["attention"]["mean"] == pytest.approx(1, abs=1e-5)
    with opened(path, viewport={"width": 1280, "height": 900}) as page:
        page.locator("details summary").first.click()
        page.locator(".gates figure").nth(1).wait_for()
        largest = [statistics["attention"]["max"] for statistics in gates.values()]
        texts = page.locator(".gates figcaption").all_text_contents()
        for text, value in zip(texts, largest, strict=True):
            shown = float(text.rpartition("attention up to ")[2].removesuffix(", mean 1"))
            assert shown == pytest.approx(value, rel=0.2)  # the picture has at most 28 cells along each side
        drawn = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 3"
        assert all(canvas.evaluate(drawn) for canvas in page.locator(".gates canvas").all())


FOLDER = "/data/long/folder"
# what is cut off: pages, tables and cells wider than their place, and anything beyond the window
CUT_OFF = """() => {
  const width = document.documentElement.clientWidth;
  const inside = (e) => e.getBoundingClientRect().left >= 0 && e.getBoundingClientRect().right <= width;
  const elements = [...document.querySelectorAll("html, #summary, #summary *, .image, .image *, select, p")];
  const shown = elements.filter((e) => e.getBoundingClientRect().width);
  const cut = (e) => e.tagName !== "SELECT" && e.clientWidth && e.scrollWidth > e.clientWidth + 1;
  return shown.filter((e) => !inside(e) || cut(e))
    .map((e) => `${e.tagName}: ${e.textContent.slice(0, 80)}`);
}"""


def test_every_number_is_seen_at_every_width():
    networks = classifiers(
        *(f"{FOLDER}/resnet50_cbam_imagenet_seed_{seed}.safetensors" for seed in (17, 18, 19))
    )
    networks = [
        replace(one, header=replace(one.header, class_names=tuple("abcde"[k] * 40 for k in range(5))))
        for one in networks
    ]
    images = [*pictures(2, masks=True), *pictures(3, labels=[-1])]
    (_, path, numbers), _ = written(networks, images, skipped={"photos/broken.jpg": "it is truncated"})
    found = json.loads(numbers.read_text())["networks"]
    expected = {
        (network["label"], name): (estimate["mean"], estimate["images"])
        for network in found
        for name, estimate in network["figures"].items()
    }
    with opened(path, viewport={"width": 390, "height": 900}) as page:
        for width in (390, 768, 1280, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            page.locator(".maps canvas").nth(14).wait_for()
            assert page.evaluate(CUT_OFF) == [], width
        seen = {}
        for table in page.locator("#summary table").all():
            name = table.locator("caption strong").text_content()
            for line in table.locator("tbody tr").all():
                label, mean, count = line.locator("th, td").all_text_contents()
                seen[label, name] = float(mean.split()[0]), int(count)
        assert seen.keys() == expected.keys()
        for key, (mean, count) in expected.items():
            assert seen[key] == (pytest.approx(mean, abs=6e-4), count)
        assert seen[networks[1].label, "inside"][1] == seen[networks[1].label, "top1"][1] == 2
        assert "1 of 6 images" in page.locator("#skipped").text_content()
        assert "photos/broken.jpg: it is truncated" in page.locator("#skipped").text_content()


def test_nothing_is_overwritten_and_a_broken_off_report_leaves_nothing(tmp_path):
    networks = classifiers("plain")
    with pytest.raises(UsageError, match="no image"):
        write_report(networks, iter(()), "out")
    assert list((tmp_path / "out").iterdir()) == []
    written(networks, pictures(1), steps=0)
    with pytest.raises(UsageError, match="already exists"):
        write_report(networks, iter(()), "out")


def test_memory_does_not_grow_with_the_images():
    networks = classifiers("plain", "cbam")
    peaks = []
    batch = explain_images(networks, pictures(8))
    for count in (10, 100):
        tracemalloc.start()
        write_report(networks, (one for _ in range(count) for one in batch), f"out{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 700_000  # a few numbers for each of 720 images
