"""Which runs are compared, and which are refused."""

import math

import pytest

from cbam_lightning.errors import UsageError
from cbam_lightning.studies.compare.arms import group_arms
from cbam_lightning.studies.compare.run_sources import find_runs
from tests.studies.compare.synthetic import write_run


def arms(folder, *by, ignore=()):
    runs, _ = find_runs([str(folder)])
    return {arm.label: sorted(arm.runs) for arm in group_arms(runs, by or ("model.attention",), ignore)}


def test_runs_anywhere_below_a_folder_are_arms_by_what_is_compared(tmp_path):
    for attention in ("none", "cbam"):
        for seed in (1, 0):
            write_run(tmp_path / attention / f"seed_{seed}", attention, seed)
    assert arms(tmp_path) == {"cbam": [0, 1], "none": [0, 1]}


def test_another_setting_is_refused_and_named(tmp_path):
    write_run(tmp_path / "a", "none", batch_size=64)
    write_run(tmp_path / "b", "cbam", batch_size=128)
    with pytest.raises(UsageError, match=r"data.batch_size is 64 in the one and 128 in the other\. Leave"):
        arms(tmp_path)
    assert arms(tmp_path, ignore=["data.batch_size"]) == {"none": [0], "cbam": [0]}
    assert list(arms(tmp_path, "model.attention", "data.batch_size")) == [
        "none batch_size=64",
        "cbam batch_size=128",
    ]


def test_another_setting_of_another_seed_is_refused(tmp_path):
    write_run(tmp_path / "a", "none", 0)
    write_run(tmp_path / "b", "none", 1, split_seed=3)
    write_run(tmp_path / "c", "cbam", 0)
    with pytest.raises(UsageError, match=r"data\.split_seed is not set in the one and 3 in the other"):
        arms(tmp_path)


def test_a_setting_that_is_the_seed_counts_as_the_seed(tmp_path):
    for attention in ("none", "cbam"):
        for seed in (0, 1):
            write_run(tmp_path / f"{attention}{seed}", attention, seed, split_seed=seed)
    assert arms(tmp_path) == {"cbam": [0, 1], "none": [0, 1]}


def test_options_of_the_attention_go_with_it_but_are_no_arms_of_their_own(tmp_path):
    write_run(tmp_path / "a", "none")
    write_run(tmp_path / "b", "cbam", attention_options={"kernel_size": 3})
    assert list(arms(tmp_path)) == ["none", "cbam"]
    write_run(tmp_path / "c", "cbam", 1, attention_options={"kernel_size": 7})
    with pytest.raises(UsageError, match=r"model\.attention_options\.kernel_size is 3 in the one and 7"):
        arms(tmp_path)
    both = arms(tmp_path, "model.attention", "model.attention_options")
    assert list(both) == ["none", "cbam kernel_size=3", "cbam kernel_size=7"]


def test_lists_are_written_briefly(tmp_path):
    write_run(tmp_path / "a", "cbam", attention_options={"pools": ["max"]})
    write_run(tmp_path / "b", "cbam", attention_options={"pools": ["avg", "max"]})
    assert list(arms(tmp_path, "model.attention_options")) == ["max", "avg+max"]


def test_two_runs_of_one_seed_are_refused(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, "none")
    write_run(tmp_path / "c", "cbam")
    with pytest.raises(UsageError, match="two runs with the same settings and seed 0"):
        arms(tmp_path)


def test_one_arm_is_no_comparison(tmp_path):
    write_run(tmp_path / "a", "none")
    with pytest.raises(UsageError, match="needs runs of two values"):
        arms(tmp_path)


def test_an_unknown_setting_is_told(tmp_path):
    write_run(tmp_path / "a", "none")
    with pytest.raises(UsageError, match=r"no run has a setting model\.attentoin"):
        arms(tmp_path, "model.attentoin")


def test_a_setting_that_is_not_a_number_equals_itself(tmp_path):
    for attention in ("none", "cbam"):
        write_run(tmp_path / attention, attention, batch_size=math.nan)
    assert list(arms(tmp_path)) == ["cbam", "none"]
    write_run(tmp_path / "se", "se", batch_size=64)
    with pytest.raises(UsageError, match=r"data\.batch_size is nan in the one and 64 in the other"):
        arms(tmp_path)


def test_values_that_read_alike_have_different_names(tmp_path):
    write_run(tmp_path / "a", "none", batch_size=1)
    write_run(tmp_path / "b", "none", batch_size="1")
    assert list(arms(tmp_path, "data.batch_size")) == ["data.batch_size=1", "data.batch_size='1'"]
