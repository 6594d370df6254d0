"""Trains a tiny model for some steps, alone or under torchrun, and notes each step's loss: see test_processes.py.

Usage: train_together.py FOLDER STEPS. Goes on from the folder's checkpoint, if there is one.
"""

import json
import sys
from pathlib import Path

import torch

from mathtransformer import files
from mathtransformer.training.checkpoints import begun
from mathtransformer.training.distributed import Group
from mathtransformer.training.presets import PRESETS
from mathtransformer.training.trainer import Trainer

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "batch": 16, "examples": 16 * 200}
TINY |= {"components": 5.0, "optimizer": "muon", "precision": "float32"}  # losses are compared

if __name__ == "__main__":
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    group = Group.join("cpu")
    if not group.first:
        files.write = None  # the first process alone may write
    trainer = Trainer(PRESETS["eigenvectors-3x3"].config.changed(**TINY), folder, group=group, compiled=False)
    if (folder / "checkpoint.safetensors").exists():
        trainer.restore(*begun(folder))
    first_examples = trainer.batches[trainer.step][0].tolist()
    losses = list(trainer.log.losses)
    while trainer.step < steps:
        losses.append(trainer.train_step())
    group.largest(0)  # wait for the other
    if group.first:
        trainer.evaluate()
        trainer.log.losses = losses
        trainer.save()
    (folder / f"seen-{steps}-{group.rank}.json").write_text(json.dumps([first_examples, losses]), encoding="utf-8")
    group.leave()
