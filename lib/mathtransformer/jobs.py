"""Several trainings at once: here, a process and a thread each, or on a Slurm cluster through submitit.

A queue may be stopped at any time (Ctrl-C, SIGTERM) and started again: each training goes on where it was. Long
ones (`config.LEGS`) take turns, a leg each.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from .config import LEGS, PRESETS, REPEATED, get_preset, run_name
from .processes import Signals
from .runs import RUNS, RunError, read_info

log = logging.getLogger("mathtransformer")


@dataclass(frozen=True)
class Job:
    """One training of a queue: a preset and a seed, into folder/NAME. Calling a job does all that is left of it.

    leg: most minutes of one turn of a preset in legs. options: more options of `train`, such as "--width 64".
    """

    preset: str
    seed: int = 0
    folder: Path = RUNS
    threads: int = 1
    leg: float | None = None
    options: str = ""

    @classmethod
    def named(cls, name: str, **options) -> Job:
        """From PRESET or PRESET:SEED; ValueError for others, before anything is begun."""
        preset, _, seed = name.partition(":")
        if seed and not seed.isdecimal():
            raise ValueError(f"{name!r}: the seed after the colon must be a whole number")
        get_preset(preset)
        return cls(preset, int(seed or 0), **options)

    @property
    def run(self) -> Path:
        return self.folder / run_name(self.preset, self.seed)

    def command(self) -> list[str]:
        budget = ["--minutes", self.leg] if self.leg and self.preset in LEGS else []
        train = ["train", self.preset, "--seed", self.seed, "--threads", self.threads, "--out", self.run]
        words = [sys.executable, "-m", "mathtransformer", *train, "--resume", "--no-bar", *budget]
        return [*map(str, words), *shlex.split(self.options)]

    def done(self) -> bool:
        """Whether the run is finished, and for a preset in legs has had all of its examples."""
        try:
            info = read_info(self.run)
        except RunError:  # nothing there yet, or damaged, which the training itself will say
            return False
        return info["examples"] >= LEGS[self.preset].examples if self.preset in LEGS else info["finished"]

    def state(self) -> bytes:
        """What a turn changes, if it does anything."""
        path = self.run / "run.json"
        return path.read_bytes() if path.exists() else b""

    def __call__(self) -> None:
        while not self.done():
            before = self.state()
            subprocess.run(self.command(), check=True)
            if not self.done() and self.state() == before:
                raise RuntimeError(f"{self.run} does not get on: {self.command()}")

    def checkpoint(self):
        """What submitit queues again when Slurm takes the node away."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def default_names() -> list[str]:
    """Every training of data/runs that takes no legs."""
    names = [name for name in PRESETS if name not in LEGS]
    return names + [f"{name}:{seed}" for name in REPEATED for seed in (1, 2)]


def run_here(jobs: list[Job], at_once: int) -> int:
    """Run all jobs on this machine, `at_once` at a time. Returns 0, 1 if any failed, or 128 + a signal's number."""
    waiting, running, failed = deque(job for job in jobs if not job.done()), {}, False
    with Signals() as signals:
        try:
            while (waiting and not signals.received) or running:
                while waiting and len(running) < at_once and not signals.received:
                    job = waiting.popleft()
                    running[subprocess.Popen(job.command())] = (job, job.state())
                for process in [process for process in running if process.poll() is not None]:
                    job, before = running.pop(process)
                    if process.returncode == 0 and not job.done() and job.state() != before:
                        waiting.append(job)  # its next leg
                    elif (process.returncode or not job.done()) and not signals.received:
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


def submit(jobs: list[Job], folder: Path, cluster: str = "slurm", hours: float = 24, **parameters) -> list:
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
    return [executor.submit(job) for job in jobs if not job.done()]
