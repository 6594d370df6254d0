"""Trains a tiny model for some steps, alone or under torchrun, and notes each step's loss: see test_processes.py.

Usage: train_together.py FOLDER STEPS. Goes on from the folder's checkpoint, if there is one.
"""

import json
import sys
from pathlib import Path

import torch

from mathtransformer import runs
from mathtransformer.config import PRESETS
from mathtransformer.processes import Group
from mathtransformer.trainer import Trainer

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "batch": 16, "examples": 16 * 200}
TINY |= {"components": 5.0, "optimizer": "muon"}

if __name__ == "__main__":
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    group = Group.join("cpu")
    if not group.first:
        runs.write_together = None  # the first process alone may write
    trainer = Trainer(PRESETS["eigenvectors-3x3"].changed(**TINY), folder, group=group, compiled=False)
    if (folder / "checkpoint.safetensors").exists():
        trainer.restore()
    first_examples = trainer.batches[trainer.step][0].tolist()
    losses = list(trainer.losses)
    while trainer.step < steps:
        losses.append(trainer.train_step())
    group.wait()
    if group.first:
        trainer.save()
    (folder / f"seen-{steps}-{group.rank}.json").write_text(json.dumps([first_examples, losses]))
    group.leave()
