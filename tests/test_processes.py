"""Several processes: one model trained by two under torchrun, and many trainings by the queue."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mathtransformer import __main__ as cli
from mathtransformer import files, load_run
from mathtransformer.files import FileError
from mathtransformer.paths import RUNS
from mathtransformer.tools import queue as queues
from mathtransformer.training.distributed import Group

WORKER = Path(__file__).with_name("train_together.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SMALL = "--width 16 --heads 2 --encoder-layers 1 --batch 16 --no-compile --device cpu --precision float32"
TRAIN = ["-m", "mathtransformer", "train", "eigenvectors-3x3", "--threads", "1", *SMALL.split()]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command, **options):
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, env=ALONE, **options)
    assert result.returncode == 0, result.stderr[-2000:]
    return result


def work(folder, steps, processes=2):
    """Train to `steps`; returns, of each process, the first examples it saw and its losses."""
    folder.mkdir(exist_ok=True)
    run([*(TORCHRUN if processes == 2 else [sys.executable]), WORKER, folder, steps])
    return [json.loads((folder / f"seen-{steps}-{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return work(tmp_path_factory.mktemp("alone"), 200, processes=1)[0]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(alone, tmp_path):
    (examples, losses), (other_examples, other_losses) = work(tmp_path, 200)
    assert losses == other_losses and len(losses) == 200
    np.testing.assert_allclose(losses, alone[1], rtol=1e-3)
    np.testing.assert_allclose(losses[:20], alone[1][:20], rtol=1e-5)  # rounding differences grow from step to step
    assert losses[-1] < losses[0] - 1
    assert examples + other_examples == alone[0] and len(examples) == len(other_examples) == 8
    assert not [examples[i] for i in range(8) if examples[i] in other_examples]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(2, 1), (1, 2)], ids=["two then one", "one then two"])
def test_the_number_of_processes_may_change(alone, tmp_path, processes):
    before, after = processes
    work(tmp_path, 100, before)
    losses = work(tmp_path, 200, after)[0][1]
    assert len(losses) == 200  # the losses since the last row of the log are part of the checkpoint
    np.testing.assert_allclose(losses, alone[1], rtol=1e-3)


def children(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in listed.split()]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_replaced(tmp_path, rank):
    """torchrun starts all workers anew, and the training goes on from the last checkpoint to the end."""
    folder, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoint.safetensors"
    options = ["--examples", "16000", "--save-every", "0.5", "--out", str(folder)]
    process = subprocess.Popen(
        [*TORCHRUN, "--max-restarts=2", *TRAIN, *options], stderr=subprocess.PIPE, text=True, env=ALONE
    )
    try:
        wait_for(checkpoint.exists)
        workers = sorted(children(process.pid))
        os.kill(workers[rank], signal.SIGKILL)
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 0, errors[-9000:]
    trained = load_run(folder)
    assert trained.info["steps"] == 1000 and trained.info["finished"] and trained.info["processes"] == 2
    assert trained.log.examples.is_unique and trained.log.loss.iloc[-1] < trained.log.loss.dropna().iloc[0]
    alone = tmp_path / "alone"
    run([sys.executable, *TRAIN, *options[:-1], alone])
    parameters = [torch.cat([p.flatten() for p in load_run(f).model.parameters()]) for f in (folder, alone)]
    assert torch.nn.functional.cosine_similarity(*parameters, dim=0) > 0.99


@pytest.mark.slow
def test_what_is_refused_stays_refused(tmp_path):
    """torchrun starts a refused training again, too: that must neither resume nor replace the run."""
    run([sys.executable, *TRAIN, "--examples", "320", "--out", tmp_path / "run"])
    before = (tmp_path / "run" / "run.json").read_bytes()
    command = [*TORCHRUN, "--max-restarts=1", *TRAIN, "--examples", "640", "--out", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, env=ALONE)
    assert result.returncode != 0
    assert result.stderr.count("was begun with other options (phases: ") >= 2
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.slow
def test_compiled_and_told_to_stop(tmp_path):
    """torch.compile and DistributedDataParallel together; torchrun passes SIGTERM on, and what was learned is saved."""
    train = [word for word in TRAIN if word != "--no-compile"]
    command = [*TORCHRUN, *train, "--minutes", "10", "--save-every", "0.5", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ALONE)
    try:
        wait_for((tmp_path / "run" / "checkpoint.safetensors").exists, 240)
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()
    info = load_run(tmp_path / "run").info
    assert info["compiled"] and info["processes"] == 2 and info["steps"] > 0 and not info["finished"]


def test_a_batch_is_dealt_evenly():
    rows = [Group(rank, 3).share(12) for rank in range(3)]
    assert [i for part in rows for i in range(12)[part]] == list(range(12))
    with pytest.raises(ValueError, match="batch 16 cannot be dealt evenly to 3 processes"):
        Group(0, 3).share(16)


def queue(folder, *names, options=f"{SMALL} --examples 320"):
    arguments = cli.parser().parse_args(["queue", "--out", str(folder)])
    arguments.options = options.split()
    return [cli.job(name, arguments) for name in names]


def test_the_queue_trains_all_and_does_nothing_twice(tmp_path):
    trainings = queue(tmp_path, "eigenvectors-3x3:1", "inversion-2x2")
    assert queues.run_here(trainings, 2) == 0
    assert all(job.done() for job in trainings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eigenvectors-3x3-seed1", "inversion-2x2"]
    files_there = [job.run / "run.json" for job in trainings]
    before = [path.stat().st_mtime_ns for path in files_there]
    assert queues.run_here(trainings, 2) == 0
    assert [path.stat().st_mtime_ns for path in files_there] == before
    others = queue(tmp_path, "inversion-2x2", options=f"{SMALL} --examples 640")
    with pytest.raises(FileError, match="other options .phases: '320 examples.*now '640"):
        queues.run_here(others, 2)


def test_stored_runs_of_other_options_are_noticed_before_anything_begins():
    with pytest.raises(FileError, match="width: 128, now 16"):
        queues.run_here(queue(RUNS, "eigenvectors-3x3:1"), 1)


@pytest.mark.slow
def test_a_failure_does_not_stop_the_queue(tmp_path):
    trainings = queue(tmp_path, "inversion-2x2", "eigenvectors-3x3")
    (tmp_path / "inversion-2x2").write_text("in the way", encoding="utf-8")
    assert queues.run_here(trainings, 1) == 1
    assert load_run(tmp_path / "eigenvectors-3x3").info["finished"]


@pytest.mark.slow
def test_a_damaged_run_does_not_stop_the_queue(tmp_path):
    trainings = queue(tmp_path, "inversion-2x2", "eigenvectors-3x3")
    (tmp_path / "inversion-2x2").mkdir()
    damaged = tmp_path / "inversion-2x2" / "run.json"
    damaged.write_text("{", encoding="utf-8")
    assert queues.run_here(trainings, 2) == 1
    assert load_run(tmp_path / "eigenvectors-3x3").info["finished"]
    assert damaged.read_text(encoding="utf-8") == "{"


@pytest.mark.slow
def test_the_queue_can_be_stopped_and_started_again(tmp_path):
    names = ["eigenvectors-3x3", "eigenvectors-3x3:1", "inversion-2x2"]
    command = [sys.executable, "-m", "mathtransformer", "queue", *names, "--out", tmp_path]
    command += ["--", *f"{SMALL} --examples 32000 --save-every 0.5".split()]
    process = subprocess.Popen([*map(str, command)], env=ALONE)
    wait_for(lambda: len(list(tmp_path.glob("*/checkpoint.safetensors"))) == 2)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    infos = [load_run(folder).info for folder in tmp_path.iterdir()]
    assert len(infos) == 2 and not any(info["finished"] for info in infos)
    run(command)
    assert all(load_run(folder).info["steps"] == 2000 for folder in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_the_queue_through_submitit(tmp_path):
    pytest.importorskip("submitit")
    trainings = queue(tmp_path / "runs", "eigenvectors-3x3", "eigenvectors-3x3:1")
    submitted = queues.submit(trainings, tmp_path / "log", cluster="local", hours=0.1)
    assert [job.result() for job in submitted] == [None, None]
    assert all(job.done() for job in trainings)
    assert queues.submit(trainings, tmp_path / "log", cluster="local") == []


HOLD = """
import pathlib, sys, time
from mathtransformer.files import lock
with lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(4)
"""


@pytest.mark.slow
def test_the_queue_waits_for_a_run_that_is_being_trained(tmp_path):
    """Such as by the child of a queue that was killed."""
    trainings, folder = queue(tmp_path, "inversion-2x2"), tmp_path / "inversion-2x2"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n" and files.is_locked(folder)
        begun = time.monotonic()
        assert queues.run_here(trainings, 1) == 0
    assert time.monotonic() - begun > 3.5 and all(job.done() for job in trainings)


def test_a_folder_that_cannot_be_locked_is_not_waited_for(tmp_path, monkeypatch):
    """Else a queue would never end: the training itself says what is wrong."""

    def refuse(lock):
        raise OSError(30, "Read-only file system")

    assert not files.is_locked(tmp_path / "none") and not (tmp_path / "none").exists()
    (tmp_path / files.LOCK).touch()
    assert not files.is_locked(tmp_path)
    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    assert not files.is_locked(tmp_path)


def test_wrong_queues_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="unknown preset"):
        queue(tmp_path, "eigenvectors-3x4")
    with pytest.raises(SystemExit):
        queue(tmp_path, "inversion-2x2:one")
    assert "--seed: invalid int value: 'one'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot submit to slurm"):
        queues.submit(queue(tmp_path, "inversion-2x2"), tmp_path)
