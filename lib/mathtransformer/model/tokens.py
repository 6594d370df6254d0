"""How numbers enter and leave the network as tokens, one learned vector each, as in the published model.

Sequences are "<s> V3 V3 n1 n2 ... <s>": the symbol that ends one also begins it, and V3 V3 are the dimensions of a 3x3
matrix. Source: Charton's code (LAWT), whose vocabulary and its order are kept, so that its weights can be taken over.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.encodings import EXPONENTS, encoding
from .positions import embedding

END, PADDING = 0, 1  # ids of the words "<s>" and "</s>", the second of which has no other use
FIRST_WORDS = ["<s>", "</s>", "<pad>", "(", ")", *(f"<SPECIAL_{k}>" for k in range(10)), *"TADMEFI"]
FIRST_WORDS += ["+", "-", "10^", ".", "|"]
DIMENSIONS = [f"V{k}" for k in range(1, 101)]


def symbols(encoding_name: str) -> set[str]:
    """The published words for an encoding's tokens: a few more than its numbers need."""
    if encoding_name == "FP15":
        return {*encoding("FP15").vocabulary, "NaN", "-NaN"}
    leading = {
        "P10": ["+", "-", *map(str, range(10))],
        "P1000": ["+", "-", *map(str, range(1000))],
        "B1999": [f"N{m}" for m in range(-1000, 1001)],
    }[encoding_name]
    return {*leading, *(f"E{e}" for e in EXPONENTS)}


@cache
def word_ids(*encoding_names: str) -> dict[str, int]:
    """The vocabulary of models that read or write these encodings: word -> id."""
    found = set(DIMENSIONS).union(*map(symbols, encoding_names))
    return {word: i for i, word in enumerate(FIRST_WORDS + sorted(found.difference(FIRST_WORDS)))}


def padding_last(sequence: Tensor) -> Tensor:
    """(B, L): the padding within each row moved to its end."""
    return sequence.gather(1, (sequence == PADDING).int().argsort(dim=1, stable=True))


class Tokens(nn.Module):
    """A table of word vectors, and which words an encoding's ids are.

    P10 writes zero with three tokens instead of five, so that its sequences differ in length (`padded`).
    """

    def __init__(self, words: dict[str, int], encoding_name: str, width: int):
        super().__init__()
        self.encoding, self.padded = encoding(encoding_name), encoding_name == "P10"
        self.table = embedding(len(words), width)
        self.table.padding_idx = PADDING
        nn.init.zeros_(self.table.weight[PADDING])
        own = [PADDING if token == "<pad>" else words[token] for token in self.encoding.vocabulary]
        self.register_buffer("words", torch.tensor(own), persistent=False)


class TokenReader(Tokens):
    """Ids of a matrix -> vectors."""

    opening = 3  # the start and two dimensions

    def __init__(self, words: dict[str, int], encoding_name: str, size: int, width: int):
        super().__init__(words, encoding_name, width)
        self.dimension = words[f"V{size}"]

    def places(self, numbers: Tensor) -> Tensor:
        """(L,) rows or columns of the numbers -> those of their tokens; 0 for what is around them."""
        return F.pad(numbers.repeat_interleave(self.encoding.tokens_per_number), (self.opening, 1))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, k) -> (B, 3 + kL + 1, width), and what to add to attention scores, where there is padding."""
        numbers = F.pad(self.words[ids].flatten(1), (2, 0), value=self.dimension)
        sequence = F.pad(numbers, (1, 1), value=END)
        if not self.padded:
            return self.table(sequence), None
        sequence = padding_last(sequence)
        mask = torch.zeros_like(sequence, dtype=torch.float32).masked_fill(sequence == PADDING, -math.inf)
        return self.table(sequence), mask[:, None, None]


class TokenWriter(Tokens):
    """Writes a solution token by token: its dimensions (n x 1 for n eigenvalues), its numbers row by row, the end.

    Its vectors are also the output layer.
    """

    def __init__(self, words: dict[str, int], shape: tuple[int, ...], encoding_name: str, width: int):
        super().__init__(words, encoding_name, width)
        if max(shape, default=1) > len(DIMENSIONS):
            raise ValueError(f"a solution of shape {shape} cannot be written as tokens: {DIMENSIONS[-1]} is the last")
        self.opening = [words[f"V{k}"] for k in (*shape, 1, 1)[: max(len(shape), 2)]]
        self.numbers, self.signs = math.prod(shape), [words["+"], words["-"]]
        self.length = len(self.opening) + self.encoding.tokens_per_number * self.numbers + 1
        self.bias = nn.Parameter(torch.empty(len(words)).uniform_(-(width**-0.5), width**-0.5))  # as nn.Linear's
        own = torch.full((len(words),), -1)
        own[self.words] = torch.arange(len(self.words))
        self.register_buffer("ids", own, persistent=False)

    def places(self, device=None) -> tuple[Tensor, Tensor]:
        """(L,) twice: tokens have a place in the sequence only."""
        order = torch.arange(self.length, device=device)
        return order, order

    def sequence(self, targets: Tensor) -> Tensor:
        """(B, *shape, k) ids of the solution -> (B, L) what is written."""
        flat = self.words[targets].flatten(1)
        opening = flat.new_tensor(self.opening).expand(len(flat), -1)
        sequence = torch.cat([opening, F.pad(flat, (0, 1), value=END)], dim=1)
        return padding_last(sequence) if self.padded else sequence

    def embed(self, written: Tensor | None, batch: int) -> Tensor:
        """(B, L) what was written -> (B, L + 1, width) what the decoder reads: the start, then that."""
        start = torch.full((batch, 1), END, device=self.table.weight.device)
        return self.table(start if written is None else torch.cat([start, written], dim=1))

    def scores(self, x: Tensor) -> Tensor:
        return F.linear(x, self.table.weight, self.bias)

    def loss(self, x: Tensor, sequence: Tensor) -> Tensor:
        """Decoder's output (B, L, width), (B, L) -> mean cross-entropy of a token, in nats."""
        return F.cross_entropy(self.scores(x).float().flatten(0, 1), sequence.flatten(), ignore_index=PADDING)

    def log_probabilities(self, x: Tensor, sequence: Tensor) -> Tensor:
        """Decoder's output (B, L, width), (B, L) -> (B, L) natural logarithms; 0 for padding."""
        chosen = self.scores(x).double().log_softmax(-1).gather(-1, sequence[..., None])[..., 0]
        return chosen.masked_fill(sequence == PADDING, 0.0)

    def choose(self, x: Tensor) -> Tensor:
        """Decoder's output (B, 1, width) -> the likeliest next word (B, 1)."""
        return self.scores(x).argmax(-1)

    def needed(self, numbers: int) -> int:
        """How many positions must be written to have the first `numbers` numbers."""
        if numbers == self.numbers or self.padded:
            return self.length
        return len(self.opening) + self.encoding.tokens_per_number * numbers

    def solution(self, written: Tensor, numbers: int) -> Tensor:
        """(B, at least needed) words -> (B, numbers, k) ids of the first `numbers` numbers.

        -1, which decodes to NaN, for words that are no tokens, and for all of a solution of another shape: one that
        opens or ends otherwise.
        """
        opening, body = written[:, : len(self.opening)], written[:, len(self.opening) :]
        good = (opening == opening.new_tensor(self.opening)).all(1)
        last = self.encoding.tokens_per_number * numbers
        if self.padded:
            body, well_formed = self.aligned(body, numbers)
            good &= well_formed
        elif body.shape[1] > last:
            good &= body[:, last] == END
        ids = self.ids[body[:, :last]].unflatten(1, (numbers, -1))
        return torch.where(good[:, None, None], ids, -1)

    def aligned(self, body: Tensor, numbers: int) -> tuple[Tensor, Tensor]:
        """(B, L) numbers of different lengths, each beginning with its sign -> (B, numbers * k) with padding after the
        short ones, and (B,) whether there are as many as asked, and none is too long."""
        k, order = self.encoding.tokens_per_number, torch.arange(body.shape[1], device=body.device)
        within = (body == END).cumsum(1) == 0
        begins = torch.isin(body, body.new_tensor(self.signs)) & within
        number = begins.cumsum(1) - 1
        place = order - torch.where(begins, order, -1).cummax(1).values
        fits = within & (number >= 0) & (place < k)
        target = torch.where(fits & (number < numbers), number * k + place, numbers * k)
        slots = body.new_full((len(body), numbers * k + 1), PADDING).scatter(1, target, body)[:, :-1]
        enough = begins.sum(1) == numbers if numbers == self.numbers else begins.sum(1) >= numbers
        return slots, enough & (fits | ~within).all(1) & ~within.all(1)
