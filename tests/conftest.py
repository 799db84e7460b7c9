"""Every test runs in its own folder, without a network, API keys or a display."""

import importlib
import os
import types

import matplotlib as mpl
import pytest
import torch

mpl.use("agg")
# the tests already run on all cores; this is for the processes that they start
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture
def gather_excite_of_timm(monkeypatch):
    """Repair timm's GatherExcite: release 1.0.31 gives its layers the names of arguments as values."""
    timm = importlib.import_module("timm.layers.gather_excite")
    mlp, conv, batch_norm = timm.ConvMlp, timm.create_conv2d, torch.nn.BatchNorm2d
    monkeypatch.setattr(timm, "ConvMlp", lambda i, hidden, *_, **options: mlp(i, hidden, **options))
    monkeypatch.setattr(timm, "create_conv2d", lambda i, o, *_, **options: conv(i, o, **options))
    layers = types.SimpleNamespace(
        **{**vars(torch.nn), "BatchNorm2d": lambda channels, *_: batch_norm(channels)}
    )
    monkeypatch.setattr(timm, "nn", layers)


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
