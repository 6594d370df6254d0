"""Two ways to tell the model where a number stands: by its row and column, or by its place in the sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def embedding(count: int, width: int) -> nn.Embedding:
    """A table of `count` vectors, each drawn with a length of about one."""
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table


class RowColumnPositions(nn.Module):
    """A vector for each row plus one for each column: no weight depends on the size of the matrices."""

    def __init__(self, rows: int, columns: int, width: int):
        super().__init__()
        self.rows, self.columns = embedding(rows, width), embedding(columns, width)

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(L,), (L,) -> (L, width)"""
        return self.rows(rows) + self.columns(columns)


class SequencePositions(nn.Module):
    """A vector for each place in the sequence, as in the paper."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.places = embedding(length, width)

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(L,), (L,) -> (L, width); only their number matters."""
        return self.places(torch.arange(len(rows), device=rows.device))
