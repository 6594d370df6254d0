"""From a configuration to a trained run: what is to be done in its folder, on which device, by which processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

import torch

from . import runs
from .config import LEGS, Config, later_leg
from .problems import whole_number
from .processes import MAX_THREADS, Group
from .trainer import Trainer

log = logging.getLogger("mathtransformer")
NOTE = ".torchrun"  # in the run's folder while several processes train into it


def next_leg(config: Config, folder: Path, given: Collection[str]) -> Config | None:
    """What a training in legs (`config.LEGS`) does now: None if nothing is left to do.

    given: the names of the options that were asked for; for the others see `config.later_leg`. A leg that was begun is
    ended with its own budget. Else the leg is the given budget, or what the preset's budget has left: of a budget in
    minutes and what is left, whichever is spent first.
    """
    begun = runs.what_was_begun(folder) if folder.is_dir() else None
    if begun == "checkpoint":
        state = runs.load_checkpoint(folder)[1]
        old = Config.from_json(state["config"])
        log.info("%s: ending the leg that was begun, with its own budget", folder.name)
        return later_leg(config, len(state["legs"]), given).changed(examples=old.examples, minutes=old.minutes)
    info = runs.read_info(folder) if begun else {"examples": 0}
    config = later_leg(config, 1 + len(info.get("legs", [])) if begun else 0, given)
    left = LEGS[config.name].examples - info["examples"]
    if {"minutes", "examples"} & set(given) and (config.examples or left <= 0):
        return config
    return config.changed(examples=left, minutes=config.minutes) if left > 0 else None


def choose_device(device: str) -> str:
    """What "auto" means here; ValueError for "cuda" where there is none."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: PyTorch sees no CUDA device here; use --device cpu")
    return device


def steps_before(folder: Path, group: Group) -> int | None:
    """Steps of the run when torchrun first started this training; None unless it is now starting it again.

    torchrun also starts again what was refused, and that must be refused again: so its own count is not enough.
    """
    note = folder / NOTE
    if not group.restarted() or not note.exists():
        return None
    launch, _, steps = note.read_text().rpartition(" ")
    return int(steps) if launch == group.launch() else None


def begin(trainer: Trainer, begun: str | None, fresh: bool, force: bool) -> None:
    """Take up what was begun. fresh: no second start by torchrun. force: remove the old run, now that all is well."""
    folder, group = trainer.folder, trainer.group
    if begun == "checkpoint":
        trainer.restore()
    elif begun:
        trainer.extend(runs.read_info(folder))
    elif trainer.config.start:
        trainer.start_from(trainer.config.start)
    step = trainer.step
    if group.largest(step, -step) != [step, -step]:
        raise runs.RunError(f"the processes do not all see {folder}: it must be on a disk that they share")
    if group.first:
        if force and fresh:
            runs.clear(folder)
        if group.size > 1 and fresh:
            runs.write_atomically(folder / NOTE, f"{group.launch()} {step}".encode())
        log.info("%s: %s", folder.name, trainer.describe())


def train(
    config: Config,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    extend: bool = False,
    force: bool = False,
    device: str = "auto",
    threads: int | None = None,
    compiled: bool = True,
    show: bool = True,
    save_every: float = 60.0,
) -> int:
    """Train one model into `folder`. Returns 0, or 128 + the signal's number if it was cut short (and saved).

    resume: go on with what was begun there, if anything. extend: the same, and if that is finished, train another
    leg with the budget of `config`. force: train anew, over what is there. device: "cpu", "cuda" or "auto". threads:
    of the CPU; None leaves PyTorch's own number. compiled: use torch.compile. show: a progress bar. save_every:
    seconds between checkpoints.

    Raises ValueError for unfit arguments, RunError (a ValueError) for a folder that cannot be trained into, and
    FloatingPointError if the loss is no longer finite.
    """
    folder = Path(folder)
    if threads is not None:
        whole_number("threads", threads, 1, MAX_THREADS)
    if not save_every > 0:
        raise ValueError(f"save_every must be positive, got {save_every}")
    group = Group.join(choose_device(device))
    before = steps_before(folder, group) if group.first else None
    if group.first:
        runs.prepare(folder, resume or extend or force or before is not None)
    with runs.lock(folder) if group.first else nullcontext():
        again, before = group.largest(before is not None, before or 0)
        begun = runs.what_was_begun(folder) if again or not force else None
        if begun == "finished" and (not extend or (again and runs.read_info(folder)["steps"] > before)):
            if not extend:
                runs.check_same(folder, runs.read_info(folder)["config"], config)
            log.info("%s is finished: nothing to do (--extend trains another leg)", folder)
            return 0
        if begun == "published" and not (extend or again):
            raise runs.RunError(
                f"{folder} was cut short and its checkpoint.safetensors is not here: train another leg from its "
                "weights with --extend, or anew with --force"
            )
        if threads:
            torch.set_num_threads(threads)
        trainer = Trainer(config, folder, group=group, compiled=compiled)
        begin(trainer, begun, fresh=not again, force=force)
        status = trainer.run(save_every, show)
        if group.first and not status:
            (folder / NOTE).unlink(missing_ok=True)
        group.leave()
        return status
