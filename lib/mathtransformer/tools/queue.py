"""Several trainings at once: here, a process and a thread each, or on a Slurm cluster through submitit.

A queue may be stopped at any time (Ctrl-C, SIGTERM) and started again: each training goes on where it was.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from ..files import FileError, is_locked
from ..interrupts import Signals
from ..paths import RUNS
from ..training.config import Config
from ..training.presets import PRESETS, get_preset, run_name
from ..training.runs import begun, check_same, load_run

log = logging.getLogger("mathtransformer")


@dataclass(frozen=True)
class Job:
    """One training of a queue: a preset and a seed, into folder/NAME. Calling a job trains it to its end.

    options: more words of the command `train`, such as ("--width", "64").
    """

    preset: str
    seed: int = 0
    folder: Path = RUNS
    threads: int = 1
    options: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str, **settings) -> Job:
        """From PRESET or PRESET:SEED; ValueError for others, before anything is begun."""
        preset, _, seed = name.partition(":")
        if seed and not seed.isdecimal():
            raise ValueError(f"{name!r}: the seed after the colon must be a whole number")
        get_preset(preset)
        return cls(preset, int(seed or 0), **settings)

    @property
    def run(self) -> Path:
        return self.folder / run_name(self.preset, self.seed)

    def train_words(self) -> list[str]:
        """What comes after `python -m mathtransformer`."""
        words = ["train", self.preset, "--seed", self.seed, "--threads", self.threads, "--out", self.run, "--no-bar"]
        return [*map(str, words), *self.options]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "mathtransformer", *self.train_words()]

    def done(self, config: Config) -> bool:
        """Whether the run is finished. FileError if what stands there has other options than `config`."""
        try:
            if begun(self.run) != "finished":
                return False
        except FileError:  # damaged: its own training will say so, and the others go on
            return False
        check_same(self.run, load_run(self.run).config, config)
        return True

    def __call__(self) -> None:
        subprocess.run(self.command(), check=True)

    def checkpoint(self):
        """What submitit queues again when Slurm takes the node away."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def default_names() -> list[str]:
    """Every training of data/runs."""
    return [f"{name}:{seed}" for name, preset in PRESETS.items() for seed in preset.seeds]


def waiting_for(jobs: dict[Job, Config]) -> deque[Job]:
    """The jobs that are not done. FileError, before any begins, for a run that has other options than asked."""
    return deque(job for job, config in jobs.items() if not job.done(config))


def run_here(jobs: dict[Job, Config], at_once: int) -> int:
    """Run all jobs on this machine, `at_once` at a time. Returns 0, 1 if any failed, or 128 + a signal's number.

    A run that another process is training, such as one of a queue that was killed, is waited for.
    """
    waiting, running, failed = waiting_for(jobs), {}, False
    with Signals() as signals:
        try:
            while (waiting and not signals.received) or running:
                for _ in range(min(len(waiting), at_once - len(running))):
                    job = waiting.popleft()
                    if is_locked(job.run):
                        waiting.append(job)
                    else:
                        running[subprocess.Popen(job.command())] = job
                for process in [process for process in running if process.poll() is not None]:
                    job = running.pop(process)
                    if process.returncode and not signals.received:
                        failed = True
                        log.warning("%s failed with status %d", job.run.name, process.returncode)
                if signals.received:
                    stop(running)
                time.sleep(0.1)
        finally:
            stop(running)
        return 128 + signals.received if signals.received else int(failed)


def stop(running) -> None:
    for process in running:
        process.terminate()


def submit(jobs: dict[Job, Config], folder: Path, cluster: str = "slurm", hours: float = 24, **parameters) -> list:
    """Submit every job that is not done; its output goes into `folder`. Returns submitit's jobs.

    A job that meets the time limit is queued again and goes on from its last checkpoint, at most a minute old.
    cluster: "slurm", or "local" for processes of this machine. parameters: submitit's, such as slurm_partition="gpu".
    Raises ValueError if submitit is not installed or there is no Slurm here.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("submitit is not installed: pip install submitit") from None
    try:
        executor = submitit.AutoExecutor(folder, cluster, slurm_max_num_timeout=1000)
    except RuntimeError as error:
        raise ValueError(f"cannot submit to {cluster}: {error}") from None
    threads = max((job.threads for job in jobs), default=1)
    executor.update_parameters(timeout_min=int(60 * hours), cpus_per_task=threads, **parameters)
    return [executor.submit(job) for job in waiting_for(jobs)]
