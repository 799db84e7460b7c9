"""The processes that a launcher has started, and whether they are those that the trainer expects."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.trainer.connectors.accelerator_connector import _AcceleratorConnector
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from cbam_lightning.errors import UsageError

# How many processes a launcher has started: of PyTorch and those like it, of Open MPI, of MPICH.
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def settle_rank(options: Mapping[str, Any]) -> None:
    """Let ``rank_zero_only`` know the rank of this process before anything is written.

    Lightning reads it from ``LOCAL_RANK``, ``SLURM_PROCID`` and the like when it is imported. A run of one
    process that inherits them, in a job or in a slice of one, is rank 0 all the same.

    Args:
        options: Options of the trainer.

    Raises:
        UsageError: A launcher such as ``torchrun`` has started other processes than the trainer expects.
    """
    names = inspect.signature(_AcceleratorConnector.__init__).parameters
    given = {name: value for name, value in options.items() if name in names and value is not None}
    connector = _AcceleratorConnector(**given)
    environment = connector.cluster_environment
    if isinstance(connector.strategy, ParallelStrategy):  # making it has settled the rank
        if environment.creates_processes_externally:
            _check_processes(environment, len(connector._parallel_devices), connector._num_nodes_flag)
        return
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    started = _started(environment)
    if started is not None and started > 1:
        _tell_of_copies(environment, started)


def _check_processes(environment: ClusterEnvironment, num_devices: int, num_nodes: int) -> None:
    try:
        environment.validate_settings(num_devices, num_nodes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    started, expected = _started(environment), num_devices * num_nodes
    if started not in (None, expected):
        raise UsageError(
            f"{started} processes were started, but the trainer expects {expected}: "
            f"{num_devices} devices (--trainer.devices) on each of {num_nodes} nodes (--trainer.num_nodes)."
        )
    if isinstance(environment, LightningEnvironment):
        _check_local_rank(environment.local_rank(), num_devices, expected)


def _check_local_rank(rank: int, num_devices: int, expected: int) -> None:
    """Refuse a rank that is inherited from something else: its process would wait for others for ever."""
    if rank >= num_devices or (expected > 1 and "MASTER_ADDR" not in os.environ):
        raise UsageError(
            f"LOCAL_RANK={rank} says that a launcher has started this process as one of {num_devices} on "
            "this machine, which cannot be; unset it (unset LOCAL_RANK), or start all of them with torchrun."
        )


def _started(environment: ClusterEnvironment) -> int | None:
    """Return the number of processes that were started; ``None`` if nothing says so."""
    if not isinstance(environment, LightningEnvironment):
        return environment.world_size()
    counts = [os.environ[name] for name in _COUNTS if name in os.environ]
    return int(counts[0]) if counts and counts[0].isdecimal() else None


def _tell_of_copies(environment: ClusterEnvironment, started: int) -> None:
    """Refuse processes of which each would train by itself; tasks of SLURM may be meant so, as in a study."""
    text = (
        f"{started} processes were started, and each is a run of its own on one device; for "
        "one run on all of them, add --trainer.strategy ddp, --trainer.devices (those of one machine) and "
        "--trainer.num_nodes; for a single one, start it without a launcher (unset WORLD_SIZE)."
    )
    if not isinstance(environment, SLURMEnvironment):
        raise UsageError(text)
    rank_zero_warn(text)
