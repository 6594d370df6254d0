"""How the tests of test_faults.py cause their faults: killed processes, failing disks, trainings cut short."""

import errno
import functools
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from small import tiny, train

from mathtransformer import __main__ as cli
from mathtransformer.files import FileError
from mathtransformer.training import progress
from mathtransformer.training.trainer import Trainer

STEPS = 40  # of a training of `tiny`
PROBLEMS = 20  # instead of 1000: most of the time of so short a training
FREE = 1e9  # seconds: every evaluation is made, however slow the machine, so that logs compare
AFTER_EVERY_STEP = 1e-9  # seconds between two checkpoints
WRITES = 5 * (STEPS + 1)  # five files after every step and at the end
FLAGS = ["--width", "16", "--heads", "2", "--encoder-layers", "1", "--no-compile", "--threads", "1", "--device", "cpu"]
FLAGS += ["--components", "5", "--optimizer", "muon", "--precision", "float32"]

# The fork server has no threads of its own, so that its children are clean, and they need not import PyTorch again.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mathtransformer.training.begin"])


def result(folder: Path) -> tuple[bytes, str]:
    """What must be the same bit for bit. The log's column `seconds` is wall-clock, and differs even between two
    undisturbed trainings."""
    log = pd.read_csv(folder / "log.csv", dtype=str).drop(columns="seconds")
    return (folder / "model.safetensors").read_bytes(), log.to_csv(index=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def resume(folder: Path) -> int:
    """The same command again."""
    return train(tiny(), folder)


def after_steps(patch, actions: dict) -> None:
    """Do something after some of the steps, before what is saved then."""
    step = Trainer.train_step

    def acting(self):
        loss = step(self)
        actions.get(self.step, lambda: None)()
        return loss

    patch.setattr(Trainer, "train_step", acting)


def cut_training(folder: Path, **options) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        after_steps(patch, {STEPS // 2: lambda: signal.raise_signal(signal.SIGTERM)})
        assert train(tiny(**options), folder) == 128 + signal.SIGTERM
    return folder


def child(pipe, folder, deadly=None, **options):
    """A training in a process of its own, which saves after every step and tells its number, or why it refuses."""
    progress.PROBLEMS, progress.FREE = PROBLEMS, FREE
    if deadly:
        die_while_writing(*deadly)
    after_steps(pytest.MonkeyPatch(), {step: functools.partial(pipe.send, step) for step in range(1, 2 * STEPS + 1)})
    try:
        train(tiny(), folder, save_every=AFTER_EVERY_STEP, **options)
    except FileError as error:
        pipe.send(str(error))


def die_while_writing(where: str, number: int) -> None:
    """Make writing the file of this number the last thing that this process does."""
    name = "fsync" if where == "half written" else "replace"
    function, numbers = getattr(os, name), itertools.count(1)

    def deadly(*arguments):
        if next(numbers) != number:
            return function(*arguments)
        if where == "half written":
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        if where == "just moved":
            function(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, name, deadly)


def start(folder, **options):
    """A process that runs `child`, and an iterator over what it tells until it ends."""
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=child, args=(there, folder), kwargs=options)
    process.start()
    there.close()

    def told():
        try:
            while True:
                yield here.recv()
        except EOFError:
            process.join()

    return process, told()


def moments() -> list:
    """20 kills drawn once: 11 from outside some milliseconds after a step, 9 by the process itself while it writes."""
    rng = random.Random(0)
    outside = [("SIGKILL at any time", rng.randrange(20), rng.randrange(1, STEPS - 8)) for _ in range(11)]
    where = ["half written", "not yet moved", "just moved"]
    saving = [("SIGKILL while saving", place, rng.randrange(2, 2 * STEPS)) for place in 2 * where]
    return outside + saving + [("SIGKILL while publishing", w, n) for w, n in zip(where, range(WRITES - 2, WRITES + 1))]


class Disk:
    """A small disk: a real one where this user may mount it, else what the library writes is made to fail."""

    def __init__(self, folder: Path):
        self.folder, self.fsync = folder, os.fsync
        folder.mkdir()
        self.real = self.mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")

    def mount(self, *arguments) -> bool:
        if not shutil.which("mount"):
            return False
        return subprocess.run(["mount", *arguments, self.folder], capture_output=True).returncode == 0

    def fail(self, number: int) -> None:
        if not self.simulated(number):
            with pytest.raises(OSError, match="No space"), open(self.folder / "rubbish", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            os.fsync = functools.partial(self.refuse, number)

    def simulated(self, number: int) -> bool:
        """A disk is not made read-only while a file on it, here the lock, is open for writing."""
        return not self.real or number == errno.EROFS

    def name(self, number: int) -> str:
        return (
            f"{'full' if number == errno.ENOSPC else 'read-only'} disk{', simulated' if self.simulated(number) else ''}"
        )

    def refuse(self, number: int, descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    def mend(self) -> None:
        os.fsync = self.fsync
        (self.folder / "rubbish").unlink(missing_ok=True)


def command(folder: Path, *more: str) -> int:
    """The command line, in this process, with the options of `tiny`."""
    arguments = ["train", "eigenvectors-3x3", "--examples", "640", "--batch", "16", "--out", str(folder), *FLAGS]
    arguments += ["--save-every", str(AFTER_EVERY_STEP)]
    return cli.main([*arguments, *more])


def damages(path: Path, others: dict[str, Path]):
    """(kind of damage, what is then in the file, None where it is missing)"""
    content, rng = path.read_bytes(), random.Random(0)
    yield "file missing", None
    for length in (0, 1, len(content) // 2, len(content) - 1):
        yield "file truncated", content[:length]
    for place in (0, len(content) - 1, *rng.sample(range(len(content)), 20)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        yield "bit flipped", bytes(flipped)
    for other, folder in others.items():
        yield f"file of another {other}", (folder / path.name).read_bytes()
    if path.name == "run.json":
        info = json.loads(content)
        for key in info:
            without = {name: value for name, value in info.items() if name != key}
            yield "field of run.json missing", json.dumps(without, indent=1).encode()
