"""Every test runs in its own folder, without a network, API keys or a display."""

import os

import matplotlib as mpl
import pytest
import torch

mpl.use("agg")
# the tests already run on all cores; this is for the processes that they start
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    surroundings = [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]
    for name in (*surroundings, "CBAM_LIGHTNING_RUN", "CBAM_LIGHTNING_IMPORTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    # the command sets these for the processes that it starts
    own = ("CBAM_LIGHTNING_RUN", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    for name in (*own, "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
