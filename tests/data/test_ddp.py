"""Packed images on two devices, as processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cbam_lightning.data import ImageFolder, packing
from cbam_lightning.data.packing import pack
from tests.data.generate import write_image_folder

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import json, sys, warnings
from pathlib import Path
from pytorch_lightning import Trainer, seed_everything
from cbam_lightning.data import ImageFolder
from tests.data.test_base import Probe

if __name__ == "__main__":
    seed_everything(0, verbose=False)
    data = ImageFolder(sys.argv[1], size_px=24, batch_size=4, num_workers=1)
    probe = Probe(3, 3)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(probe, data)
    seen = [batch.indices.tolist() for batch in probe.seen["train"]]
    Path(f"seen-{trainer.global_rank}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "local:"])
def test_two_devices_share_every_epoch(tmp_path, monkeypatch, prefix):
    monkeypatch.setattr(packing, "IMAGES_PER_STRETCH", 3)
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    Path("run.py").write_text(SCRIPT)
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "LITDATA_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "run.py", f"{prefix}{tmp_path / 'packed'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(Path(f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(batches) for batches in seen] == [6, 6]
    for epoch in (0, 3):
        indices = [index for batches in seen for batch in batches[epoch : epoch + 3] for index in batch]
        assert sorted(indices) == list(range(24))
    assert seen[0][:3] != seen[0][3:]
