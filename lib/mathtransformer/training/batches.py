"""The training examples of any step, drawn afresh from the seed and the number of the step."""

from __future__ import annotations

import numpy as np
import torch

from ..data.encodings import rounded
from ..data.tasks import draw
from ..evaluation.answers import simplified
from ..model.transformer import Transformer
from .config import Config

BLOCK = 64  # steps whose examples are drawn together, since drawing is faster in large batches


class Batches:
    """The training examples of any step, as ids. Draws a block of steps at once and keeps the latest block.

    model: what reads and writes them. rows: the part of every batch that is wanted. Processes that train together want
    different parts of the same batches, so that their number does not change what is learned from.
    """

    def __init__(self, model: Transformer, config: Config, batch: int, rows: slice = slice(None)):
        self.model, self.config, self.batch, self.rows = model, config, batch, rows
        self.block, self.number = None, -1

    def draw(self, number: int) -> list[torch.Tensor]:
        model, config, n = self.model, self.config, self.model.size
        rng = np.random.default_rng([config.seed, number])
        inputs = draw(model.task, n, BLOCK * self.batch, rng, config.spectrum, config.entries)
        inputs = inputs.reshape(BLOCK, self.batch, n, n)[:, self.rows].reshape(-1, n, n)
        inputs = simplified(model, inputs, None)[0]
        ids, read, _ = model.ids(inputs)
        solvable = model.task.solvable(read) if config.training.exact_targets else np.zeros(len(read), bool)
        solved = read if solvable.all() else np.where(solvable[:, None, None], read, self.canonical(inputs))
        lesson = model.task.lesson(solved, model.options.cotrain, config.training.canonical_sign)
        parts = [ids, torch.from_numpy(model.writer.encoding.encode(lesson))]
        if model.options.components:
            parts.append(torch.from_numpy(model.task.components(solved).astype(np.float32)))
        return [part.unflatten(0, (BLOCK, -1)) for part in parts]

    def canonical(self, inputs: np.ndarray) -> np.ndarray:
        """The unrounded matrices in the order and with the signs in which the model reads them."""
        task, options = self.model.task, self.model.options
        return task.canonical(inputs, rounded(inputs, options.reads))[0] if options.canonical_input else inputs

    def __getitem__(self, step: int) -> list[torch.Tensor]:
        """Arguments of `Transformer.forward`: inputs (rows, n, n) and targets (rows, *shape, k), both int64 ids,
        and with ModelOptions.components these (rows, n, n, n), in float32."""
        number, place = divmod(step, BLOCK)
        if number != self.number:
            self.block, self.number = self.draw(number), number
        return [part[place] for part in self.block]
