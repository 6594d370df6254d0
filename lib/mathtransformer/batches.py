"""The training examples of any step, drawn afresh from the seed and the number of the step."""

from __future__ import annotations

import numpy as np
import torch

from .config import Config
from .encodings import encoding
from .problems import Task, draw, get_task

BLOCK = 64  # steps whose examples are drawn together, since drawing is faster in large batches


class Batches:
    """The training examples of any step, as ids. Draws a block of steps at once and keeps the latest block."""

    def __init__(self, config: Config, written):
        self.config, self.written, self.block, self.number = config, written, None, -1

    def draw(self, number: int):
        config, task = self.config, get_task(self.config.task)
        rng = np.random.default_rng([config.seed, number])
        inputs = draw(task.name, config.size, BLOCK * config.training.batch, rng, config.spectrum, config.entries)
        read = encoding("FP15").encode(inputs)[..., 0]
        if config.training.exact_targets:
            exact = encoding("FP15").decode(read[..., None])
            inputs = np.where(task.solvable(exact)[:, None, None], exact, inputs)
        targets = self.solve(task, inputs)
        return torch.from_numpy(read), torch.from_numpy(self.written.encode(targets))

    def solve(self, task: Task, inputs: np.ndarray) -> np.ndarray:
        if task.name == "eigenvectors":
            return task.solve(inputs, self.config.training.canonical_sign)
        return task.solve_richer(inputs) if self.config.model.cotrain else task.solve(inputs)

    def __getitem__(self, step: int):
        """(inputs (batch, n, n), targets (batch, *shape, k)), both int64 ids."""
        number, place = divmod(step, BLOCK)
        if number != self.number:
            self.block, self.number = self.draw(number), number
        rows = slice(place * self.config.training.batch, (place + 1) * self.config.training.batch)
        return self.block[0][rows], self.block[1][rows]
