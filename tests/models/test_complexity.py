"""Counting against closed formulas, and every published row."""

import csv
import io
import json
from decimal import Decimal

import pytest
import torch
from torch import nn

from cbam_lightning.attention import create_attention
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.complexity import count, count_call, count_named
from cbam_lightning.models.published.classification_rows import ClassificationRow, published_rows, rows
from cbam_lightning.models.published.rendering import render, table

PUBLISHED = published_rows()


@pytest.fixture(scope="module")
def counted():
    return rows([("resnet20", "eca"), ("resnet50", "bam")], size_px=64)


class TestCount:
    def test_convolutions_and_linear_layers_have_the_literal_number(self):
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, groups=4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 5),
        )
        macs = 3 * 8 * 9 * 10 * 10 + 8 * 12 // 4 * 9 * 8 * 8 + 12 * 5
        params = (3 * 8 * 9 + 8) + 16 + (8 * 12 // 4 * 9 + 12) + (12 * 5 + 5)
        assert count(network, size_px=20) == (params, macs)

    def test_self_attention_counts_its_matrix_products(self):
        plain = count_named("resnet20", size_px=32)
        attended = count_named("resnet20", "sagan", size_px=32)
        macs = params = 0
        for channels, side in ((16, 32), (32, 16)):
            hidden, half, positions = channels // 8, channels // 2, side * side
            weights = channels * (2 * hidden + 2 * half)
            macs += positions * weights + positions**2 * (hidden + half)
            params += weights + 1
        assert attended == (plain.params + params, plain.macs + macs)

    # C = 64 channels on a map of 12 x 12, with each module's formula: parameters and multiply-accumulates
    @pytest.mark.parametrize(
        ("name", "params", "macs"),
        [
            (
                "bam",
                (64 * 4 * 2 + 4 + 64 + 8) + (64 * 4 + 4 + 2 * (9 * 4 * 4 + 4) + 4 + 1 + 3 * 8),
                64 * 4 * 2 + 144 * (64 * 4 + 2 * 9 * 4 * 4 + 4),
            ),
            ("cbam", 64 * 4 * 2 + 4 + 64 + 49 * 2 + 2, 2 * 64 * 4 * 2 + 144 * 49 * 2),
            ("coord", 64 * 8 + 8 + 16 + 2 * (8 * 64 + 64), 24 * 64 * 8 + 24 * 8 * 64),
            ("eca", 3, 64 * 3),
            ("ese", 64 * 64 + 64, 64 * 64),
            ("gc", 64 + (64 * 4 * 2 + 4 + 64 + 8), 144 * 64 + 144 * 64 + 64 * 4 * 2),
            ("ge", 0, 0),
            (
                "mhsa",  # of 4 heads: queries, keys and values; relative positions of both axes; gamma
                3 * 64 * 64 + 2 * 255 * 16 + 1,
                3 * 64 * 64 * 144 + 2 * 144 * 144 * 64 + 144 * (12 + 12) * 64,
            ),
            ("sagan", 64 * (8 + 8 + 32 + 32) + 1, 64 * (8 + 8 + 32 + 32) * 144 + 144 * 144 * (8 + 32)),
            ("sca", (2 * 16 + 16 + 1) + (65 * 16 + 16 + 1), 64 * (16 + 16) + 144 * (64 * 16 + 16)),
            ("scse", 64 * 32 * 2 + 32 + 64 + 64 + 1, 64 * 32 * 2 + 144 * 64),
            ("se", 64 * 4 * 2 + 4 + 64, 64 * 4 * 2),
            ("simam", 0, 0),
            ("srm", 64 * 2 + 64 * 2, 0),
            ("triplet", 3 * (2 * 49 + 2), 2 * 49 * (12 * 12 + 2 * 12 * 64)),
        ],
    )
    def test_a_module_has_the_numbers_of_its_formula(self, name, params, macs):
        assert count(nn.Sequential(create_attention(name, 64)), size_px=12, in_channels=64) == (params, macs)
        assert count(create_attention(name, 64), size_px=12, in_channels=64) == (params, macs)

    def test_a_module_that_is_called_twice_states_its_number_twice(self):
        shared = create_attention("mhsa", 8, heads=2)
        once = count(shared, size_px=5, in_channels=8)
        twice = count(nn.Sequential(nn.Conv2d(8, 8, 1), shared, shared), size_px=5, in_channels=8)
        assert twice.macs == 2 * once.macs + 8 * 8 * 25

    def test_one_call_is_counted_as_the_network_is_and_leaves_no_hooks(self):
        attention = create_attention("mhsa", 8, heads=2).train()
        found = count_call(attention, torch.ones(3, 8, 5, 4))
        assert found.macs == 3 * 20 * 8 * (3 * 8 + 2 * 20 + 5 + 4)
        assert attention.training
        assert not attention._forward_hooks
        assert not attention._forward_pre_hooks
        assert attention.gamma.grad is None

    def test_the_network_is_left_as_it_was(self):
        network = create_model("resnet20").train()
        network.layer1.eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        assert count(network, size_px=32).params == sum(p.numel() for p in network.parameters())
        assert network.training
        assert not network.layer1.training
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

    def test_options_of_network_and_attention_are_used(self):
        few = count_named("resnet20", "cbam", {"reduction": 16}, {"widths": (16, 16, 16)}, size_px=32)
        many = count_named("resnet20", "cbam", {"reduction": 4}, {"widths": (16, 16, 16)}, size_px=32)
        assert many.params - few.params == 9 * (2 * 16 * 3 + 3)
        assert few.params < count_named("resnet20", "cbam", size_px=32).params

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("resnt20",), "unknown model 'resnt20'"),
            (("resnet20", "cbma"), "unknown attention 'cbma'"),
            (("resnet20", "none", {}, {}, 0), "size_px is 0"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(UsageError, match=message):
            count_named(*arguments)

    def test_images_that_do_not_fit_are_refused(self):
        with pytest.raises(UsageError, match="Sequential does not take images of 3 channels and 8 px"):
            count(nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), size_px=8)


class TestPublished:
    def test_the_paper_has_25_rows(self):
        assert len(PUBLISHED) == 25
        assert [row.contradiction for row in PUBLISHED].count(True) == 3
        assert [row.params_m for row in PUBLISHED].count(None) == 4
        second = PUBLISHED[1]
        assert second[:4] == ("spatial ablation", "resnet50", "cbam", {"arrangement": "channel"})
        assert second[4:] == (Decimal("28.09"), Decimal("3.862"), 22.8, 6.52, False)
        assert PUBLISHED[2].attention_options == {"spatial_pool": "conv1x1", "kernel_size": 3}
        assert PUBLISHED[7].attention_options == {"arrangement": "channel", "pools": ("max",)}

    @pytest.mark.parametrize("index", range(len(PUBLISHED)))
    def test_every_reproducible_row_is_reproduced(self, counted, index):
        ours, row = counted[index], PUBLISHED[index]
        assert ours.published == row
        if row.contradiction:
            assert ours.status == "contradicts the paper's other tables"
        elif row.params_m is None:
            assert ours.status == "no figure published"
        else:
            assert ours.status == "reproduced"
            assert abs(ours.params_m - float(row.params_m)) < 0.01
            # Twice the paper prints two decimals, 3.86 and 7.57.
            half_a_digit = 0.5 * 10.0 ** row.gflops.as_tuple().exponent
            assert abs(ours.gflops - float(row.gflops)) <= max(0.0015, half_a_digit)

    @pytest.mark.parametrize(
        ("network", "gflops", "default"),
        [
            ("resnet50", 3.858, 4.089),
            ("resnet101", 7.570, 7.801),
            ("resnext50_32x4d", 3.768, 4.230),
            ("wide_resnet18_2.0", 6.696, 6.696),
            ("mobilenet_v1", 0.569, 0.569),
        ],
    )
    def test_both_strides_are_counted(self, counted, network, gflops, default):
        row = next(row for row in counted if (row.network, row.attention) == (network, "none"))
        assert row.gflops == pytest.approx(gflops, abs=6e-4)
        assert row.gflops_default == pytest.approx(default, abs=6e-4)

    def test_attention_adds_the_parameters_of_its_layers(self, counted):
        def params(network, attention):
            found = (row for row in counted if (row.network, row.attention) == (network, attention))
            return round(next(row for row in found if not row.attention_options).params_m * 1e6)

        blocks = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnext50_32x4d": (3, 4, 6, 3)}
        places = {
            name: [c for c, n in zip((256, 512, 1024, 2048), depths, strict=True) for _ in range(n)]
            for name, depths in blocks.items()
        }
        places["wide_resnet18_2.0"] = [128, 128, 256, 256, 512, 512, 1024, 1024]
        pointwise = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]  # the stem's and each block's output
        places["mobilenet_v1"] = pointwise + pointwise[:-1]  # each depthwise unit has the channels it gets
        for network, channels in places.items():
            se = sum(2 * c * (c // 16) + c // 16 + c for c in channels)
            spatial = 2 * 7 * 7 + 2
            assert params(network, "se") - params(network, "none") == se
            assert params(network, "cbam") - params(network, "se") == spatial * len(channels)

    def test_the_contradicting_figures_are_those_of_bam(self):
        bam = count_named("resnet50", "bam", network_options={"stride_in": "1x1"})
        row = next(row for row in PUBLISHED if row.contradiction)
        assert (round(bam.params / 1e6, 2), round(bam.macs / 1e9, 2)) == (25.92, 3.94)
        assert (row.params_m, row.gflops) == (Decimal("25.92"), Decimal("3.94"))

    def test_a_figure_too_far_away_differs(self):
        row = next(row for row in PUBLISHED if row.gflops == Decimal("3.862"))
        for params_m, gflops, status in (
            (28.0999, 3.8634, "reproduced"),
            (28.0999, 3.8636, "differs"),
            (28.1010, 3.8620, "differs"),
        ):
            ours = ClassificationRow(*row[:4], 224, params_m, gflops, gflops, row)
            assert ours.status == status

    def test_added_networks_follow_at_their_size(self, counted):
        resnet20, resnet50 = counted[25:]
        assert (resnet20.network, resnet20.attention, resnet20.size_px) == ("resnet20", "eca", 64)
        assert resnet20.status == resnet50.status == "not in the paper"
        expected = count_named("resnet50", "bam", size_px=64)
        assert resnet50.gflops_default == expected.macs / 1e9 > resnet50.gflops
        assert resnet50.params_m == expected.params / 1e6


class TestRender:
    def test_terminal_is_aligned_and_fits(self, counted):
        lines = render(counted, "terminal").splitlines()
        assert max(map(len, lines)) <= 120
        heading = lines[0]
        body = [line for line in lines if line.startswith((" resnet", " resnext", " wide", " mobilenet"))]
        assert len(body) == 27
        for line in body:
            assert line[heading.index("attention") - 1] == " " != line[heading.index("attention")]
            assert line[heading.index("status") - 1] == " " != line[heading.index("status")]
            assert line[heading.index("GFLOPs") + 6] == " " != line[heading.index("GFLOPs") + 5]
        assert " 3.858   3.86 " in body[0]
        text = " ".join(" ".join(lines).split())
        for note in ("multiply-accumulates of one image", "half of what torch's", "stride_in: 1x1", "25.92"):
            assert note in text

    def test_markdown_has_as_many_cells_in_every_line(self, counted):
        lines = [line for line in render(counted, "markdown").splitlines() if line.startswith("|")]
        assert len(lines) == 2 + 27
        assert {line.count("|") for line in lines} == {14}
        assert "multiply-accumulates" in render(counted, "markdown")

    def test_csv_and_json_say_the_same(self, counted):
        records = json.loads(render(counted, "json"))
        lines = list(csv.DictReader(io.StringIO(render(counted, "csv"))))
        assert len(records) == len(lines) == 27
        for record, line, row in zip(records, lines, counted, strict=True):
            assert record["network"] == line["network"] == row.network
            assert record["status"] == line["status"] == row.status
            assert record["gflops"] == float(line["gflops"]) == pytest.approx(row.gflops, abs=1e-6)
            published = row.published and row.published.params_m
            assert record["published_params_m"] == (published and float(published))
            assert line["published_params_m"] == ("" if published is None else str(float(published)))
        assert lines[2]["attention_options"] == "spatial_pool=conv1x1;kernel_size=3"
        assert records[7]["attention_options"] == {"arrangement": "channel", "pools": ["max"]}

    def test_an_unknown_format_is_refused_before_anything_is_counted(self, monkeypatch):
        monkeypatch.setattr("cbam_lightning.models.published.rendering.classification_rows", None)
        with pytest.raises(UsageError, match=r"unknown format 'jsn'\. Did you mean 'json'"):
            table(format="jsn")
