"""Trainings of a model so small that one takes a second."""

import torch

from mathtransformer.training import begin
from mathtransformer.training.config import Config
from mathtransformer.training.presets import PRESETS
from mathtransformer.training.trainer import Trainer

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "components": 5.0, "optimizer": "muon", "precision": "float32"}


BATCH = 16


def tiny(examples=640, preset="eigenvectors-3x3", **options) -> Config:
    return PRESETS[preset].config.changed(**{"examples": examples, "batch": BATCH, **TINY, **options})


def train(config, folder, **options):
    return begin.train(config, folder, compiled=False, show=False, threads=1, device="cpu", **options)


def cut(folder, steps=20):
    """A run whose training was cut after some steps."""
    begun = Trainer(tiny(), folder, compiled=False)
    folder.mkdir()
    begun.evaluate()
    for _ in range(steps):
        begun.train_step()
    begun.evaluate()
    begun.save()
    return folder


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
