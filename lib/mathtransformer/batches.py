"""The training examples of any step, drawn afresh from the seed and the number of the step."""

from __future__ import annotations

import numpy as np
import torch

from .config import Config
from .encodings import encoding
from .problems import Task, draw, get_task

BLOCK = 64  # steps whose examples are drawn together, since drawing is faster in large batches


class Batches:
    """The training examples of any step, as ids. Draws a block of steps at once and keeps the latest block.

    rows: the part of every batch that is wanted. Processes that train together want different parts of the same
    batches, so that their number does not change what is learned from.
    """

    def __init__(self, config: Config, written, rows: slice = slice(None)):
        self.config, self.written, self.rows, self.block, self.number = config, written, rows, None, -1

    def draw(self, number: int):
        config, task = self.config, get_task(self.config.task)
        rng = np.random.default_rng([config.seed, number])
        n, batch = config.size, config.training.batch
        inputs = draw(task.name, n, BLOCK * batch, rng, config.spectrum, config.entries)
        inputs = inputs.reshape(BLOCK, batch, n, n)[:, self.rows].reshape(-1, n, n)
        if config.model.canonical_input:
            inputs, _ = task.canonical(inputs)
        read = encoding("FP15").encode(inputs)[..., 0]
        if config.training.exact_targets:
            exact = encoding("FP15").decode(read[..., None])
            inputs = np.where(task.solvable(exact)[:, None, None], exact, inputs)
        parts = [read, self.written.encode(self.solve(task, inputs))]
        if config.model.components:
            parts.append(task.components(inputs).astype(np.float32))
        return [torch.from_numpy(part).unflatten(0, (BLOCK, -1)) for part in parts]

    def solve(self, task: Task, inputs: np.ndarray) -> np.ndarray:
        if task.name == "eigenvectors":
            return task.solve(inputs, self.config.training.canonical_sign)
        return task.solve_richer(inputs) if self.config.model.cotrain else task.solve(inputs)

    def __getitem__(self, step: int) -> list[torch.Tensor]:
        """Arguments of `Transformer.forward`: inputs (rows, n, n) and targets (rows, *shape, k), both int64 ids,
        and with ModelOptions.components these (rows, n, n, n), in float32."""
        number, place = divmod(step, BLOCK)
        if number != self.number:
            self.block, self.number = self.draw(number), number
        return [part[place] for part in self.block]
