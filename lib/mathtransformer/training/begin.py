"""Training as a command: what is to be done in a run's folder, on which device, by which processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

from .. import files
from ..checks import whole_number
from ..files import FileError
from ..paths import RUNS
from . import checkpoints, runs
from .compiling import numbers_next_to_zero_as_zero
from .config import Config
from .distributed import Group
from .presets import get_preset
from .trainer import Trainer

log = logging.getLogger("mathtransformer")


def train(
    config: Config | str,
    folder: str | os.PathLike | None = None,
    *,
    force: bool = False,
    device: str = "auto",
    threads: int | None = None,
    compiled: bool = True,
    show: bool = True,
    save_every: float = 60.0,
    watch: Callable[[pd.DataFrame], object] | None = None,
) -> int:
    """Train one model into `folder`, going on with what was begun there. Returns 0, or 128 + the signal's number if it
    was cut short (and saved).

    config: a Config, or the name of a preset, whose folder is by default that of data/runs. force: train anew, over
    what is there. device: "cpu", "cuda" or "auto". threads: of the CPU; None leaves PyTorch's own number. compiled: use
    torch.compile. show: a progress bar. save_every: seconds between checkpoints. watch: called after each evaluation
    with the log so far, a table like log.csv, to draw it, say.

    Raises ValueError for unfit arguments, FileError (a ValueError) for a folder that cannot be trained into, and
    FloatingPointError if loss or gradient is no longer finite.
    """
    if isinstance(config, str):
        config, folder = get_preset(config).config, folder or RUNS / config
    if folder is None:
        raise ValueError("give the folder that the run is to be in")
    if threads is not None:
        torch.set_num_threads(whole_number("threads", threads, 1, 4096))
    if not save_every > 0:
        raise ValueError(f"save_every must be positive, got {save_every}")
    if config.start is not None:
        try:
            runs.find(config.start)  # before anything is made
        except ValueError as error:
            raise ValueError(f"start: {error}") from None
    folder, group = Path(folder), Group.join(device)
    with files.lock(folder) if group.first else nullcontext():
        # torchrun replaces a process that died: what was learned stays.
        force = force and not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        begun = None if force else checkpoints.begun(folder)
        if begun is not None:
            runs.check_same(folder, begun[1]["config"], config)
            if begun[1].get("finished"):
                (folder / checkpoints.CHECKPOINT).unlink(missing_ok=True)  # left by one that was killed as it finished
                log.info("%s is finished: nothing to do (to go on, begin another run with --start %s)", folder, folder)
                return 0
        trainer = Trainer(config, folder, group=group, compiled=compiled)
        trainer.log.watch = watch
        if begun is not None:
            trainer.restore(*begun)
        elif config.start is not None:
            trainer.start_from(config.start)
        if group.largest(trainer.step, -trainer.step) != [trainer.step, -trainer.step]:
            raise FileError(f"the processes do not all see {folder}: it must be on a disk that they share")
        if group.first and force:  # now that all is well
            for path in [path for pattern in checkpoints.EVERYTHING for path in folder.glob(pattern)]:
                path.unlink()
        with numbers_next_to_zero_as_zero():
            status = trainer.run(save_every, show)
        group.leave()
        return status
