"""The processes of a run: the rank of a lone one, those of a launcher, and signals to all of them."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.cli.processes import settle_rank
from cbam_lightning.cli.worker_errors import worker_failure
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from tests.command import NO_WANDB, SHORT, SMALL
from tests.data.generate import write_image_folder

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cbam_lightning"]
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0"}
SLURM = {
    **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train"},
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"},
}
CPU = {"accelerator": "cpu", "devices": 1}


@pytest.fixture
def environment(monkeypatch):
    def put(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    # the value that Lightning read from the variables when it was imported
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    return put


def test_a_run_of_one_process_is_rank_0_whatever_it_inherits(environment):
    environment({"LOCAL_RANK": "1"})
    settle_rank(CPU)
    assert rank_zero_only.rank == 0


def test_a_task_of_slurm_may_be_a_run_of_its_own_and_that_is_told(environment):
    environment(SLURM)
    with pytest.warns(UserWarning, match="2 processes were started, and each is a run of its own"):
        settle_rank(CPU)
    assert rank_zero_only.rank == 0


def test_copies_that_torchrun_starts_are_refused(environment):
    environment(TORCHRUN)
    with pytest.raises(UsageError, match=r"2 processes were started.*add --trainer.strategy ddp"):
        settle_rank(CPU)


def test_copies_of_other_launchers_are_refused(environment):
    environment({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"})
    with pytest.raises(UsageError, match="2 processes were started"):
        settle_rank(CPU)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0 says .* unset it"),
        ({"LOCAL_RANK": "2", "MASTER_ADDR": "localhost"}, "LOCAL_RANK=2 says .* one of 2 on this machine"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "3"}, "3 processes were started, but the trainer expects 2"),
        ({**SLURM, "SLURM_NTASKS": "3"}, "3 processes were started, but the trainer expects 2"),
    ],
)
def test_processes_that_would_wait_for_others_for_ever_are_refused(environment, variables, message):
    environment(variables)
    with pytest.raises(UsageError, match=message):
        settle_rank({"accelerator": "cpu", "devices": 2, "strategy": "ddp"})


@pytest.mark.parametrize(
    ("variables", "message"),
    [(TORCHRUN, "does not match the world size"), (SLURM, "--ntasks-per-node=2` does not match")],
)
def test_other_processes_than_the_trainer_expects_are_refused(environment, variables, message):
    environment(variables)
    settle_rank({"accelerator": "cpu", "devices": 2, "strategy": "ddp"})
    assert rank_zero_only.rank == 1
    with pytest.raises(UsageError, match=message):
        settle_rank({"accelerator": "cpu", "devices": 3, "strategy": "ddp"})


def test_a_run_in_a_slice_of_a_job_writes_everything_to_the_end_whoever_stops_reading(tmp_path):
    words = f"fit {SMALL} {SHORT} {NO_WANDB} --run.name one --trainer.log_every_n_steps 1"
    command = f"{shlex.join(COMMAND)} {words.replace('bar false', 'bar true')}"
    closed = f"{command} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    variables = os.environ | ENVIRONMENT | {"LOCAL_RANK": "1", "SLURM_PROCID": "1"}
    done = subprocess.run(["bash", "-c", closed], env=variables, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    run = Path("runs/default/one")
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "results.json",
        "checkpoints",
    }
    assert len((run / "metrics.csv").read_text().splitlines()) > 4


def hear_hang_up():
    """Undo what ``nohup`` has done to these tests, which would be right for a run."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_a_signal_to_all_processes_saves_and_ends_all(tmp_path, name):
    folder = write_image_folder(tmp_path / "pets", images_per_class=40)
    images = f"fit --data ImageFolder --data.root {folder} --data.size_px 24 --data.batch_size 4"
    network = "--data.num_workers 2 --model.network resnet20 --model.network_options.depths [1,1,1]"
    quiet = "--trainer.log_every_n_steps 1 --trainer.enable_progress_bar false --trainer.max_epochs 1000"
    words = f"{images} {network} {quiet} {NO_WANDB} --run.name one".split()
    process = subprocess.Popen(
        [*COMMAND, *words],
        env=os.environ | ENVIRONMENT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=hear_hang_up,
    )
    try:
        metrics = Path("runs/default/one/metrics.csv")
        while not (metrics.is_file() and metrics.read_text().count("\n") > 9):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        os.killpg(process.pid, getattr(signal, name))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + getattr(signal, name), errors
        assert "with everything saved. Continue with" in errors
        assert Path("runs/default/one/checkpoints/last.ckpt").is_file()
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "DataLoader worker (pid 77) is killed by signal: Killed. ",
            "most likely because the memory is full",
        ),
        ("DataLoader worker (pid 77) is killed by signal: Bus error. It is possible", "shared memory"),
        ("DataLoader worker (pid(s) 77, 78) exited unexpectedly", "shared memory"),
        ("DataLoader worker (pid 77) exited unexpectedly with exit code 74. Details", "shared memory"),
        ("DataLoader worker (pid 77) exited unexpectedly with exit code 3. Details", "with exit code 3"),
        ("Too many open files. Communication with the workers is no longer possible.", "ulimit -n"),
    ],
)
def test_a_worker_that_ended_is_explained(text, told):
    run = RunDirectory.create("runs", "default", "one")
    assert told in str(worker_failure(RuntimeError(text), run))
    assert str(worker_failure(RuntimeError(text), run)).endswith("Nothing was saved; start it again.")
    run.checkpoints.mkdir()
    run.last.touch()
    assert str(worker_failure(RuntimeError(text), run)).endswith("resume runs/default/one")
    assert worker_failure(RuntimeError("shapes differ"), run) is None
    assert worker_failure(ValueError(text), run) is None


def test_the_cause_of_an_unexpected_end_is_told():
    error = RuntimeError("DataLoader worker (pid(s) 77) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. ")
    run = RunDirectory.create("runs", "default", "one")
    assert "the memory is full" in str(worker_failure(error, run))
