"""Packed images that are streamed: by several processes, through kills, in constant memory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from cbam_lightning.data import ImageFolder
from cbam_lightning.data.packed import packing
from cbam_lightning.data.packed.packing import pack
from tests.data.generate import patches, save_image, write_image_folder

REPOSITORY = Path(__file__).parents[3]
TRAINING = (
    "fit --data ImageFolder --data.size_px 24 --data.batch_size 3 --data.num_workers 2 "
    "--model.network resnet20 --model.network_options.depths [1,1,1] "
    "--model.network_options.widths [8,16,32] --trainer.max_epochs 4 --trainer.accelerator cpu "
    "--trainer.strategy ddp --trainer.devices 2 --trainer.enable_progress_bar false "
    "--trainer.enable_model_summary false --trainer.callbacks+=tests.data.seeing.SeeImages "
    "--wandb.enabled false --run.name run --run.test_after_fit false --save.every_steps 1"
)


def start(words, tmp_path):
    environment = {"PYTHONPATH": str(REPOSITORY), "LITDATA_CACHE_DIR": str(tmp_path / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "cbam_lightning", *words.split()],
        env=os.environ | environment,
        stderr=Path("stderr.log").open("a"),
        start_new_session=True,
    )


def seen():
    """Return {epoch: {(rank, batch): images}}; a batch that was seen twice must be the same."""
    found = defaultdict(dict)
    for rank in (0, 1):
        path = Path(f"seen-{rank}.jsonl")
        for line in path.read_text().splitlines() if path.is_file() else []:
            epoch, batch, images = json.loads(line)
            assert found[epoch].setdefault((rank, batch), images) == images
    return found


@pytest.mark.slow
def test_two_processes_with_two_workers_see_every_image_once_through_kills(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "IMAGES_PER_RANGE", 3)
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    command = f"{TRAINING} --data.root local:{tmp_path / 'packed'}"
    for batches in (3, 9):  # killed with all its processes after as many
        process = start(command, tmp_path)
        while sum(map(len, seen().values())) < 2 * batches and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start("resume runs/default/run", tmp_path).wait(timeout=200) == 0, Path("stderr.log").read_text()
    epochs = seen()
    assert sorted(epochs) == [0, 1, 2, 3]
    for batches in epochs.values():
        assert len(batches) == 2 * 4
        assert sorted(image for images in batches.values() for image in images) == list(range(24))
    assert len({json.dumps(sorted(batches.items())) for batches in epochs.values()}) == 4


MEASURE = """
import functools, resource, sys
from cbam_lightning.data import ImageFolder
from cbam_lightning.data.packed import packed_dataset
packed_dataset.OPEN_SHARDS = 4
packed_dataset._open_shard = functools.lru_cache(4)(packed_dataset.PackedFiles.open_shard)
data = ImageFolder(sys.argv[1], size_px=32, batch_size=16, num_workers=0)
count = sum(len(batch.images) for epoch in range(2) for batch in data.train_dataloader())
print(count, len(data.train_set.files.shards), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_shards(folder, monkeypatch, count):
    """Pack shards of about 4 MB: 20 images of 256 x 256 x 3 bytes."""
    monkeypatch.setattr(packing, "IMAGES_PER_RANGE", 20)
    images = patches(4, 256, 256)
    for i in range(count * 20):
        path = folder / "files" / str(i % 2) / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < 4:
            save_image(images[i], path)
        else:
            os.link(folder / "files" / str(i % 2) / f"{i % 4:05d}.jpg", path)
    pack(ImageFolder(str(folder / "files")), folder / "packed", num_workers=2)


def test_memory_does_not_grow_with_the_shards(tmp_path, monkeypatch):
    peak_kib = []
    for count in (8, 64):
        write_shards(tmp_path / str(count), monkeypatch, count)
        words = [sys.executable, "-c", MEASURE, str(tmp_path / str(count) / "packed")]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        images, shards, kib = map(int, done.stdout.split())
        assert images > 2 * 0.7 * count * 20
        assert shards == count
        peak_kib.append(kib)
    # all of the shards would be 31 MB and 252 MB
    assert peak_kib[1] - peak_kib[0] < 20_000, peak_kib
