"""Faults: processes that are killed, disks that fail, files that are damaged. No training is lost, no damage believed.

Every fault is counted, and the table of them ends the run (see conftest.py). `make test-faults` runs them all;
`make test` leaves out those that start processes or train for long.
"""

import errno
import itertools
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import faults
import numpy as np
import pytest
from faults import AFTER_EVERY_STEP, STEPS, after_steps, command, contents, cut_training, result, resume, start
from small import tiny, train

from mathtransformer import files, load_run
from mathtransformer.files import FileError
from mathtransformer.model.transformer import Transformer
from mathtransformer.training import checkpoints, progress, runs
from mathtransformer.training.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def few_test_problems():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "PROBLEMS", faults.PROBLEMS)
        patch.setattr(progress, "FREE", faults.FREE)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train(tiny(), folder) == 0
    return folder


@pytest.fixture(scope="module")
def whole(finished):
    """The result of a training that nothing disturbs."""
    return result(finished)


# --- Processes that are killed ---

KILLED: list[int] = []  # the last step of every training that was killed


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "when", "number"), faults.moments())
def test_killed_and_resumed(whole, tmp_path, fault, kind, when, number):
    folder, outside = tmp_path / "run", kind == "SIGKILL at any time"
    with fault(kind):
        process, told = start(folder, deadly=None if outside else (when, number))
        last = 0
        for last in told:
            if outside and last == number:
                time.sleep(when / 1000)
                process.kill()
        assert process.exitcode == -signal.SIGKILL
        KILLED.append(last)
        assert resume(folder) == 0
        assert result(folder) == whole
        assert sorted(contents(folder)) == sorted([*runs.PUBLISHED, files.SUMS, files.LOCK])  # nothing half-written
        assert load_run(folder).info["finished"]


@pytest.mark.slow
def test_the_kills_hit_trainings_that_were_under_way():
    if len(KILLED) < 20:
        pytest.skip("needs all of test_killed_and_resumed")
    assert sum(0 < step < STEPS for step in KILLED) >= 15 and len(set(KILLED)) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_saves_and_ends(tmp_path, fault, number):
    """The handlers are installed just after the line with the parameters is logged, on every start."""
    folder, steps = tmp_path / "run", []
    words = [sys.executable, "-m", "mathtransformer", "train", "eigenvectors-3x3", "--minutes", "5", "--out", folder]
    for _ in range(2):  # begun, and gone on with
        process = subprocess.Popen([*words, *faults.FLAGS], stderr=subprocess.PIPE, text=True)
        try:
            assert any("parameters" in line for line in process.stderr)
            time.sleep(1.5)
            with fault(f"{number.name}: saved, ended in 5 s"):
                begun = time.monotonic()
                process.send_signal(number)
                assert process.wait(timeout=20) == 128 + number
                assert time.monotonic() - begun < 5
                steps.append(load_run(folder).info["steps"])
        finally:
            process.kill()
            process.stderr.close()
    assert 0 < steps[0] < steps[1] and not load_run(folder).info["finished"]


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
def test_a_second_process_is_refused(whole, tmp_path, fault, force):
    with fault("two processes, one run"):
        first, told = start(tmp_path / "run")
        assert next(told) == 1
        os.kill(first.pid, signal.SIGSTOP)  # or it might end before the second has begun
        answer = list(start(tmp_path / "run", force=force)[1])
        os.kill(first.pid, signal.SIGCONT)
        assert list(told)[-1] == STEPS and first.exitcode == 0
        assert answer == [f"another process is writing into {tmp_path / 'run'}: wait for it, or choose another --out"]
        assert result(tmp_path / "run") == whole


# --- Disks that fail, and losses ---


@pytest.fixture
def disk(tmp_path):
    disk = faults.Disk(tmp_path / "disk")
    yield disk
    disk.mend()
    if disk.real:
        subprocess.run(["umount", "--lazy", disk.folder], check=True)


FAILURES = pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])


@pytest.mark.slow
@FAILURES
def test_a_disk_that_fails_for_a_while(whole, disk, monkeypatch, caplog, fault, number):
    with fault(f"{disk.name(number)}, mended in time"):
        after_steps(monkeypatch, {10: lambda: disk.fail(number), 20: disk.mend})
        assert train(tiny(), disk.folder / "run", save_every=AFTER_EVERY_STEP) == 0
        reason = f"({os.strerror(number)}): the checkpoint of step 9 is intact; training goes on"
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == [f"could not save at step {step} {reason}" for step in range(10, 20)]
        assert result(disk.folder / "run") == whole


@pytest.mark.slow
@pytest.mark.parametrize("saved", [9, STEPS], ids=["while training", "while publishing"])
@FAILURES
def test_a_disk_that_fails_until_the_end(whole, disk, monkeypatch, capsys, fault, number, saved):
    folder, publish = disk.folder / "run", Trainer.publish
    with fault(f"{disk.name(number)} until the end"):
        if saved < STEPS:
            after_steps(monkeypatch, {saved + 1: lambda: disk.fail(number)})
        else:
            failing = {STEPS: lambda: disk.fail(number)}
            monkeypatch.setattr(Trainer, "publish", lambda self: (failing.get(self.step, int)(), publish(self)))
        assert command(folder) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"error: {folder}: could not save at step {STEPS} ({os.strerror(number)}): ")
        assert "give the same command again" in message
        assert checkpoints.load(folder)[1]["step"] == saved
        assert load_run(folder).info["steps"] == min(saved, STEPS - 1)
        monkeypatch.undo()
        disk.mend()
        assert resume(folder) == 0
        assert result(folder) == whole


def test_a_loss_that_is_not_finite(whole, tmp_path, monkeypatch, capsys, fault):
    folder, forward = tmp_path / "run", Transformer.forward
    calls = itertools.count()
    with fault("loss not finite"):
        spoiled = lambda self, *batch: forward(self, *batch) * (math.nan if next(calls) == 7 else 1)  # noqa: E731
        monkeypatch.setattr(Transformer, "forward", spoiled)
        assert command(folder) == 1
        expected = r"error: loss nan, gradient nan at step 7, learning rate .*lower --learning-rate \(of each --phase\)"
        expected += ".*step 7 is intact"
        assert re.match(expected, capsys.readouterr().err.splitlines()[-1])
        assert checkpoints.load(folder)[1]["step"] == 7
        monkeypatch.undo()
        assert resume(folder) == 0
        assert result(folder) == whole


def test_a_training_that_diverges(tmp_path, monkeypatch, capsys, fault):
    with fault("loss not finite"):
        assert command(tmp_path / "run", "--learning-rate", "1e30") == 1
        assert "lower --learning-rate" in capsys.readouterr().err.splitlines()[-1]
        assert np.isfinite(checkpoints.load(tmp_path / "run")[0]["model.writer.start"].numpy()).all()


# --- Files that are damaged ---


WEIGHTS, INFO, LOG, CHECKPOINT = "model.safetensors", "run.json", "log.csv", "checkpoint.safetensors"
READERS = [(WEIGHTS, load_run), (INFO, load_run), (LOG, load_run), (files.SUMS, load_run), (CHECKPOINT, resume)]


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A training that was cut short, which leaves all four files."""
    return cut_training(tmp_path_factory.mktemp("runs") / "cut")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    others = {"task": cut_training(folder / "task", preset="eigenvalues-3x3-laplace")}
    others["seed"] = cut_training(folder / "seed", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "FORMAT", runs.FORMAT + 1)
        others["version"] = cut_training(folder / "version", seed=2)
    return others


@pytest.mark.parametrize(("name", "reader"), READERS)
def test_damage_is_refused_by_name(cut, others, tmp_path, fault, name, reader):
    for number, (kind, content) in enumerate(faults.damages(cut / name, others)):
        if (kind, name) == ("file missing", CHECKPOINT):
            continue  # then the training goes on from the published weights
        folder = shutil.copytree(cut, tmp_path / str(number))
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        before = contents(folder)
        with fault(kind):
            with pytest.raises(FileError) as error:
                reader(folder)
            told = str(error.value).replace(str(folder), "")
            assert name in told or (name == CHECKPOINT and "was begun with other options" in told)
            assert contents(folder) == before


@pytest.mark.parametrize("damaged", [None, *runs.PUBLISHED, files.SUMS])
def test_what_was_cut_short_is_resumed_exactly(whole, cut, tmp_path, damaged):
    """The checkpoint is all that it takes, whatever has become of what was published."""
    folder = shutil.copytree(cut, tmp_path / "run")
    if damaged:
        (folder / damaged).write_bytes(b"damaged")
    assert resume(folder) == 0
    assert result(folder) == whole


UNPICKLES = re.compile(r"torch\.load\((?![^)]*weights_only=True)|\bpickle\b|allow_pickle=True|joblib")


def test_nothing_is_unpickled():
    """A pickle runs whatever its author wanted, and a flipped bit in it goes unnoticed."""
    assert UNPICKLES.search("torch.load(path)") and not UNPICKLES.search("torch.load(path, weights_only=True)")
    sources = sorted(Path(runs.__file__).parents[1].rglob("*.py"))
    assert len(sources) > 30
    assert [path.name for path in sources if UNPICKLES.search(path.read_text(encoding="utf-8"))] == []
