"""Several trainings at once: here, a process and a thread each, or on a Slurm cluster through submitit.

A queue may be stopped at any time (Ctrl-C, SIGTERM) and started again: each training goes on where it was.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..files import FileError, is_locked
from ..training.config import Config
from ..training.runs import check_same, load_run

log = logging.getLogger("mathtransformer")


@dataclass(frozen=True)
class Job:
    """One training of a queue: the folder of its run, what it is, and the words of its command line. Calling a job
    trains it to its end."""

    run: Path
    config: Config
    words: tuple[str, ...]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "mathtransformer", *self.words]

    def done(self) -> bool:
        """Whether the run is finished. FileError if what stands there has other options."""
        try:
            run = load_run(self.run.resolve())
        except FileError:  # not there; or damaged: its own training will say so, and the others go on
            return False
        check_same(self.run, run.config, self.config)
        return run.info["finished"]

    def __call__(self) -> None:
        subprocess.run(self.command(), check=True)

    def checkpoint(self):
        """What submitit queues again when Slurm takes the node away."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_here(jobs: list[Job], at_once: int) -> int:
    """Run all jobs that are not done on this machine, `at_once` at a time. Returns 0, or 1 if any failed. FileError,
    before any begins, for a run that has other options than asked."""
    waiting, running, failed = [job for job in jobs if not job.done()], {}, False
    try:
        while waiting or running:
            # A run may be locked by the child of a queue that was killed: then it waits.
            for job in [job for job in waiting if not is_locked(job.run)][: at_once - len(running)]:
                waiting.remove(job)
                running[job] = subprocess.Popen(job.command())
            for job, process in list(running.items()):
                if process.poll() is not None:
                    del running[job]
                    if process.returncode:
                        failed = True
                        log.warning("%s failed with status %d", job.run.name, process.returncode)
            time.sleep(0.1)
    finally:  # a signal may have ended the queue: then each training saves
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return int(failed)


def submit(jobs: list[Job], folder: Path, cluster: str = "slurm", hours: float = 24, **parameters) -> list:
    """Submit every job that is not done; its output goes into `folder`. Returns submitit's jobs.

    A job that meets the time limit is queued again and goes on from its last checkpoint, at most a minute old.
    cluster: "slurm", or "local" for processes of this machine. parameters: submitit's, such as slurm_partition="gpu".
    Raises ValueError if submitit is not installed or there is no Slurm here.
    """
    try:
        import submitit

        executor = submitit.AutoExecutor(folder, cluster, slurm_max_num_timeout=1000)
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"cannot submit to {cluster}: {error}") from None
    executor.update_parameters(timeout_min=int(60 * hours), **parameters)
    return [executor.submit(job) for job in jobs if not job.done()]
