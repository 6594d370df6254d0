"""The encoder-decoder transformer: it reads an encoded matrix and writes an encoded solution.

How a number enters and leaves is the business of `numbers` and `tokens`, where it stands that of `positions`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..data.canonical import Restore, unchanged
from ..data.encodings import ENCODINGS, encoding, rounded
from ..data.matrices import MAX_SIZE
from ..data.tasks import Task
from .layers import Cache, Layer, norm
from .numbers import NumberEmbedding, NumberWriter
from .options import ModelOptions
from .positions import RowColumnPositions, SequencePositions
from .tokens import TokenReader, TokenWriter, word_ids


class TokenFeed(nn.Embedding):
    """A learned vector for each FP15 symbol, for numbers that are written one a position."""

    def __init__(self, width: int):
        super().__init__(len(encoding("FP15").vocabulary), width)
        nn.init.normal_(self.weight, std=width**-0.5)

    embed = nn.Embedding.forward


def reader_and_writer(task: Task, size: int, options: ModelOptions) -> tuple[nn.Module, nn.Module]:
    shape = task.richer_shape(size) if options.cotrain else task.target_shape(size)
    width, numeric = options.decoder_size[0], options.embedding == "numeric"
    words = word_ids(*(name for name in (options.embedding, options.output) if name in ENCODINGS))
    reader = NumberEmbedding(options.width) if numeric else TokenReader(words, options.embedding, size, options.width)
    if options.output != "number":
        return reader, TokenWriter(words, shape, options.output, width)
    return reader, NumberWriter(shape, NumberEmbedding(width) if numeric else TokenFeed(width), width, options.decoding)


def positions_of(task: Task, options: ModelOptions, read: int, written: int) -> nn.ModuleList:
    """Positions of what is read and of what is written; `read` and `written` are the lengths of these sequences."""
    widths = options.width, options.decoder_size[0]
    if options.positions == "sequence":
        return nn.ModuleList([SequencePositions(*table) for table in zip((read, written), widths)])
    # Enough rows and columns for any size and for most tasks, so that weights can be taken over by other runs.
    *rows, columns = task.richer_shape(MAX_SIZE) or (1,)
    written_table = max(math.prod(rows), MAX_SIZE + 1), max(columns, MAX_SIZE)
    tables = ((MAX_SIZE, MAX_SIZE), written_table)
    return nn.ModuleList([RowColumnPositions(*table, width) for table, width in zip(tables, widths)])


class Transformer(nn.Module):
    """Encoder-decoder for one task and size n: ids of matrices in, ids of the solution out.

    With positions="row-column" no weight depends on n, so weights carry over to other sizes as they are.
    """

    def __init__(self, task: Task, size: int, options: ModelOptions):
        super().__init__()
        self.task, self.size, self.options = task, size, options
        self.asked = task.target_shape(size)  # what a prediction is; what is learned may go on after that (cotrain)
        self.triangle = options.triangle and task.symmetric
        self.read, self.writer = reader_and_writer(task, size, options)
        # A column for each of up to 20 terms of which a matrix is the sum, see Task.components.
        self.components = nn.Linear(options.width, MAX_SIZE) if options.components else None
        self.positions = positions_of(task, options, len(self.read.places(self.entries()[0])), self.writer.length)
        pre, width = options.block == "pre-norm", options.width
        kind = pre, options.query_key_norm
        self.encoder = nn.ModuleList([Layer(width, options.heads, *kind) for _ in range(options.encoder_layers)])
        self.decoder = nn.ModuleList(
            [Layer(*options.decoder_size, *kind, width) for _ in range(options.decoder_layers)]
        )
        # With "pre-norm" of what encoder and decoder put out, with "post-norm" of what they read.
        self.norms = nn.ModuleList([norm(size, pre) for size in (width, options.decoder_size[0])])

    def parameter_count(self) -> int:
        return sum(weights.numel() for weights in self.parameters())

    def ids(self, inputs: np.ndarray) -> tuple[Tensor, np.ndarray, Restore]:
        """(N, n, n) matrices as they come (with ModelOptions.canonical_shift, without trace) -> what the model reads.

        Returns ids (N, n, n, k) on the CPU, the numbers (N, n, n) that these stand for (rounded, then canonical if the
        model reads canonical matrices), and what takes solutions of these to solutions of the rounded inputs.
        """
        matrices = rounded(inputs, self.options.reads)  # before the order: so M and rounded M are read alike
        matrices, restore = self.task.canonical(matrices) if self.options.canonical_input else (matrices, unchanged)
        return torch.from_numpy(self.read.encoding.encode(matrices)), matrices, restore

    def entries(self, device=None) -> tuple[Tensor, ...]:
        """Rows and columns of the entries of M that are read, in order."""
        if self.triangle:
            return torch.triu_indices(self.size, self.size, device=device).unbind(0)
        return torch.cartesian_prod(*[torch.arange(self.size, device=device)] * 2).unbind(1)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, n, n, k) ids -> (B, L, width), and what to add to scores of attention to it.

        L counts what is read: n(n+1)/2 numbers of a triangle, else n*n; with an encoding k tokens each, and 4 more.
        """
        rows, columns = self.entries(inputs.device)
        x, mask = self.read(inputs[:, rows, columns])
        x = x + self.positions[0](self.read.places(rows), self.read.places(columns))
        return self.through(self.encoder, self.norms[0], x, None, mask), mask

    def decode(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor | None],
        mask: Tensor | None = None,
        caches: dict[nn.Module, Cache] | None = None,
    ) -> Tensor:
        """(B, L, width) embedded symbols, with their positions, -> (B, L, width) what the next ones are chosen from."""
        encoded, hidden = memory
        return self.through(self.decoder, self.norms[1], x, encoded, mask, hidden, caches=caches)

    def through(self, layers: nn.ModuleList, norm: nn.Module, x: Tensor, *given, caches=None) -> Tensor:
        """All layers, with the one norm that stands before or after them. given: memory and masks, see `Layer`."""
        after = self.options.block == "pre-norm"
        x = x if after else norm(x)
        for layer in layers:
            x = layer(x, *given, cache=caches[layer] if caches else None)
        return norm(x) if after else x

    def components_loss(self, memory: Tensor, components: Tensor) -> Tensor:
        """Mean squared error of the components (B, n, n, n) as read off the encoder's output at each entry of M."""
        rows, columns = self.entries(memory.device)
        shown = self.components(memory[:, self.read.opening :][:, : len(rows)])[..., : self.size]
        return (shown.float() - components[:, rows, columns]).square().mean()

    def forward(self, inputs: Tensor, targets: Tensor, components: Tensor | None = None) -> Tensor:
        """The loss: mean cross-entropy in nats, of a number for output="number", of a token if an encoding is written.

        With `components`, ModelOptions.components times their squared error is added.
        """
        x, sequence, memory = self.fed(inputs, targets)
        loss = self.writer.loss(x, sequence)
        if components is None:
            return loss
        return loss + self.options.components * self.components_loss(memory, components)

    def fed(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's output where it is fed the solution, what it should have written, the encoder's output."""
        memory, sequence = self.encode(inputs), self.writer.sequence(targets)
        x = self.writer.embed(sequence[:, :-1], len(sequence)) + self.positions[1](*self.writer.places(inputs.device))
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf, device=x.device).triu(1)
        return self.decode(x, memory, mask), sequence, memory[0]

    @torch.no_grad()
    def log_probabilities(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(B, n, n, k) and (B, *shape, k) ids -> float64 (B, L) natural logarithms of the probabilities of what is
        written for the targets, one symbol after the other, the end included, each given those before it."""
        x, sequence, _ = self.fed(inputs, targets)
        return self.writer.log_probabilities(x, sequence)

    @torch.no_grad()
    def write(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Write step by step, with keys and values cached: (B, n, n, k) ids -> (B, L) what is written, as far as it is
        asked for, and the decoder's output (B, L, width) that each was chosen from."""
        batch, memory = len(inputs), self.encode(inputs)
        places = self.positions[1](*self.writer.places(inputs.device))
        length = self.writer.needed(math.prod(self.asked))
        caches = {layer: Cache(length) for layer in self.decoder}
        written: list[Tensor] = []
        seen: list[Tensor] = []
        for place in places[:length]:
            x = self.writer.embed(written[-1] if written else None, batch)[:, -1:] + place
            seen.append(self.decode(x, memory, caches=caches))
            written.append(self.writer.choose(seen[-1]))
        return torch.cat(written, dim=1), torch.cat(seen, dim=1)

    def generate(self, inputs: Tensor) -> Tensor:
        """(B, n, n, k) ids -> (B, *asked, k) ids of the solution."""
        solution = self.writer.solution(self.write(inputs)[0], math.prod(self.asked))
        return solution.reshape(len(inputs), *self.asked, -1)
