"""The encoder-decoder transformer: it reads an encoded matrix and writes an encoded solution.

How a number enters and leaves is the business of `numbers` and `tokens`, where it stands that of `positions`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..data.canonical import Restore, unchanged
from ..data.encodings import encoding, rounded
from ..data.matrices import MAX_SIZE
from ..data.tasks import Task
from .layers import Layer
from .numbers import NumberEmbedding, NumberWriter
from .options import ModelOptions
from .positions import RowColumnPositions, SequencePositions
from .tokens import TokenEmbedding, TokenWriter


def writer_of(task: Task, size: int, options: ModelOptions) -> NumberWriter | TokenWriter:
    shape = task.richer_shape(size) if options.cotrain else task.target_shape(size)
    if options.output == "number":
        numeric = options.embedding == "numeric"
        feed = NumberEmbedding(options.width) if numeric else TokenFeed(options.width)
        return NumberWriter(shape, feed, options.width, options.decoding)
    return TokenWriter(shape, options.output, options.width)


class TokenFeed(nn.Embedding):
    """A learned vector for each FP15 symbol, for numbers that are written one a position."""

    def __init__(self, width: int):
        super().__init__(len(encoding("FP15").vocabulary), width)
        nn.init.normal_(self.weight, std=width**-0.5)


def positions_of(task: Task, options: ModelOptions, read: int, written: int) -> nn.ModuleList:
    """Positions of what is read and of what is written; `read` and `written` are the lengths of these sequences."""
    if options.positions == "sequence":
        return nn.ModuleList([SequencePositions(length, options.width) for length in (read, written)])
    # Enough rows and columns for any size and for most tasks, so that weights can be taken over by other runs.
    *rows, columns = task.richer_shape(MAX_SIZE) or (1,)
    written_table = max(math.prod(rows), MAX_SIZE + 1), max(columns, MAX_SIZE)
    tables = ((MAX_SIZE, MAX_SIZE), written_table)
    return nn.ModuleList([RowColumnPositions(*table, options.width) for table in tables])


class Transformer(nn.Module):
    """Encoder-decoder for one task and size n: FP15 ids of matrices in, ids of the solution out.

    With positions="row-column" no weight depends on n, so weights carry over to other sizes as they are.
    """

    def __init__(self, task: Task, size: int, options: ModelOptions):
        super().__init__()
        self.task, self.size, self.options = task, size, options
        self.asked = task.target_shape(size)  # what a prediction is; what is learned may go on after that (cotrain)
        width, numeric = options.width, options.embedding == "numeric"
        self.triangle = options.triangle and task.symmetric
        self.read = NumberEmbedding(width) if numeric else TokenEmbedding(size, width)
        self.writer = writer_of(task, size, options)
        # A column for each of up to 20 terms of which a matrix is the sum, see Task.components.
        self.components = nn.Linear(width, MAX_SIZE) if options.components else None
        read = self.read.opening + (size * (size + 1) // 2 if self.triangle else size * size)
        self.positions = positions_of(task, options, read, self.writer.length)
        self.encoder = nn.ModuleList([Layer(options) for _ in range(options.encoder_layers)])
        self.decoder = nn.ModuleList([Layer(options, cross=True) for _ in range(options.decoder_layers)])
        pre = options.block == "pre-norm"
        self.norms = nn.ModuleList([nn.RMSNorm(width) if pre else nn.Identity() for _ in range(2)])

    def parameter_count(self) -> int:
        return sum(weights.numel() for weights in self.parameters())

    def ids(self, inputs: np.ndarray) -> tuple[Tensor, np.ndarray, Restore]:
        """(N, n, n) matrices as they come -> what the model reads of them.

        Returns ids (N, n, n) on the CPU, the numbers (N, n, n) that these stand for (rounded, then canonical if the
        model reads canonical matrices), and what takes solutions of these to solutions of the rounded inputs.
        """
        matrices = rounded(inputs)  # before the order is decided, so that M and rounded M are read alike
        matrices, restore = self.task.canonical(matrices) if self.options.canonical_input else (matrices, unchanged)
        return torch.from_numpy(encoding("FP15").encode(matrices)[..., 0]), matrices, restore

    def entries(self, device=None) -> tuple[Tensor, ...]:
        """Rows and columns of the entries of M that are read, in order."""
        if self.triangle:
            return torch.triu_indices(self.size, self.size, device=device).unbind(0)
        return torch.cartesian_prod(*[torch.arange(self.size, device=device)] * 2).unbind(1)

    def encode(self, inputs: Tensor) -> Tensor:
        """(B, n, n) FP15 ids -> (B, L, width), L = n(n+1)/2 for a triangle, else n*n; with embedding="token" 2 more."""
        rows, columns = self.entries(inputs.device)
        x = self.read(inputs[:, rows, columns])
        padding = rows.new_zeros(self.read.opening)
        x = x + self.positions[0](torch.cat([padding, rows]), torch.cat([padding, columns]))
        for layer in self.encoder:
            x = layer(x)
        return self.norms[0](x)

    def decode(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, caches: list | None = None) -> Tensor:
        """(B, L, width) embedded symbols, with their positions, -> (B, L, width) what the next ones are chosen from."""
        for layer, cache in zip(self.decoder, caches or [None] * len(self.decoder), strict=True):
            x = layer(x, memory, mask, cache)
        return self.norms[1](x)

    def components_loss(self, memory: Tensor, components: Tensor) -> Tensor:
        """Mean squared error of the components (B, n, n, n) as read off the encoder's output at each entry of M."""
        rows, columns = self.entries(memory.device)
        shown = self.components(memory[:, self.read.opening :])[..., : self.size]
        return (shown.float() - components[:, rows, columns]).square().mean()

    def forward(self, inputs: Tensor, targets: Tensor, components: Tensor | None = None) -> Tensor:
        """The loss: mean cross-entropy in nats, of a number for output="number", of a token for output="P1000".

        With `components`, ModelOptions.components times their squared error is added.
        """
        memory, sequence = self.encode(inputs), self.writer.sequence(targets)
        x = self.writer.embed(sequence[:, :-1], len(sequence)) + self.positions[1](*self.writer.places(inputs.device))
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf, device=x.device).triu(1)
        loss = self.writer.loss(self.decode(x, memory, mask), sequence)
        if components is None:
            return loss
        return loss + self.options.components * self.components_loss(memory, components)

    @torch.no_grad()
    def generate(self, inputs: Tensor) -> Tensor:
        """Write step by step, with keys and values cached: (B, n, n) FP15 ids -> (B, *asked, k) ids."""
        batch, numbers, memory = len(inputs), math.prod(self.asked), self.encode(inputs)
        places = self.positions[1](*self.writer.places(inputs.device))
        caches: list[dict] = [{} for _ in self.decoder]
        ids: list[Tensor] = []
        for place in places[: self.writer.needed(numbers)]:
            x = self.writer.embed(ids[-1] if ids else None, batch)[:, -1:] + place
            ids.append(self.writer.choose(self.decode(x, memory, caches=caches)))
        solution = self.writer.solution(torch.cat(ids, dim=1), numbers)
        return solution.reshape(batch, *self.asked, -1)
