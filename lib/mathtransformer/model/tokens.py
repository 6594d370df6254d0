"""How numbers enter and leave the network as tokens, one learned vector each (the `paper` recipe)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.encodings import encoding
from ..data.matrices import MAX_SIZE
from .positions import embedding

MAX_DIMENSION = 100  # dimension tokens V1 to V100 open what is written, as in the paper


class TokenEmbedding(nn.Module):
    """FP15 ids of a matrix -> vectors; the sequence opens with two dimension tokens, V5 V5 for a 5x5 matrix."""

    opening = 2

    def __init__(self, size: int, width: int):
        super().__init__()
        symbols = len(encoding("FP15").vocabulary)
        self.dimension = symbols + size - 1
        self.table = embedding(symbols + MAX_SIZE, width)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, 2 + L, width)"""
        return self.table(F.pad(ids, (self.opening, 0), value=self.dimension))


class TokenWriter(nn.Module):
    """Writes a solution token by token: its dimensions, its numbers row by row, the end.

    The vocabulary is that of an encoding, then V1 to V100, start and end. Its vectors are also the output layer.
    """

    def __init__(self, shape: tuple[int, ...], encoding_name: str, width: int):
        super().__init__()
        self.written = encoding(encoding_name)
        if max(shape, default=1) > MAX_DIMENSION:
            raise ValueError(f"a solution of shape {shape} cannot be written as tokens: V{MAX_DIMENSION} is the last")
        symbols = len(self.written.vocabulary)
        self.opening = [symbols + k - 1 for k in shape]
        self.start, self.end = symbols + MAX_DIMENSION, symbols + MAX_DIMENSION + 1
        self.length = len(shape) + self.written.tokens_per_number * math.prod(shape) + 1
        self.table = embedding(self.end + 1, width)

    def places(self, device=None) -> tuple[Tensor, Tensor]:
        """(L,) twice: tokens have a place in the sequence only."""
        order = torch.arange(self.length, device=device)
        return order, order

    def sequence(self, targets: Tensor) -> Tensor:
        """(B, *shape, k) ids of the solution -> (B, L) what is written."""
        flat = targets.flatten(1)
        opening = flat.new_tensor(self.opening).expand(len(flat), -1)
        return torch.cat([opening, F.pad(flat, (0, 1), value=self.end)], dim=1)

    def embed(self, ids: Tensor | None, batch: int) -> Tensor:
        """(B, L) what was written -> (B, L + 1, width) what the decoder reads: the start, then that."""
        start = torch.full((batch, 1), self.start, device=self.table.weight.device)
        return self.table(start if ids is None else torch.cat([start, ids], dim=1))

    def loss(self, x: Tensor, sequence: Tensor) -> Tensor:
        """Decoder's output (B, L, width), (B, L) -> mean cross-entropy of a token, in nats."""
        return F.cross_entropy(F.linear(x, self.table.weight).float().flatten(0, 1), sequence.flatten())

    def choose(self, x: Tensor) -> Tensor:
        """Decoder's output (B, 1, width) -> the likeliest next id (B, 1)."""
        return F.linear(x, self.table.weight).argmax(-1)

    def needed(self, numbers: int) -> int:
        """How many positions must be written to have the first `numbers` numbers."""
        return len(self.opening) + self.written.tokens_per_number * numbers

    def solution(self, ids: Tensor, numbers: int) -> Tensor:
        """What was written, (B, at least needed) -> (B, numbers, k) ids of the first `numbers` numbers.

        Opening and end are not looked at: a wrong one shifts what follows, which then decodes to NaN.
        """
        tokens = self.written.tokens_per_number
        return ids[:, len(self.opening) : self.needed(numbers)].unflatten(1, (numbers, tokens))
