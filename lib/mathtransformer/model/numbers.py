"""How numbers enter and leave the network as numbers: one position each, in and out (the `fast` recipe)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.encodings import encoding

MANTISSAS = 900  # 100 to 999
NUMBERS = 1 + 32 * MANTISSAS  # FP15 ids of zero and of (sign, exponent, mantissa): see encodings.FloatingPoint


def numeric_features(values: Tensor) -> Tensor:
    """(N,) numbers -> (N, 42) features: the value, its sign, its logarithm, and waves of the first and last.

    The short wavelengths carry the last digit, the long ones the size; waves of log10 abs value do the same
    for numbers of any magnitude. Zero has no logarithm and is given that of 1e-9, the smallest number written.
    """
    magnitude = torch.log10(values.abs().clamp(min=1e-9))
    wavelengths = torch.logspace(math.log10(0.1), math.log10(300), 16, dtype=values.dtype)
    periods = torch.tensor([0.25, 0.5, 1.0], dtype=values.dtype)
    phases = 2 * math.pi * torch.cat([values[:, None] / wavelengths, magnitude[:, None] / periods], dim=1)
    plain = torch.stack([values.clamp(-100, 100) / 10, values.sign(), magnitude, values.tanh()], dim=1)
    return torch.cat([phases.sin(), phases.cos(), plain], dim=1).float()


class NumberEmbedding(nn.Module):
    """FP15 ids -> vectors: a fixed table of `numeric_features` through one learned linear layer."""

    opening = 0  # symbols before the first number
    encoding = encoding("FP15")

    def __init__(self, width: int):
        super().__init__()
        values = torch.from_numpy(self.encoding.decode(np.arange(len(self.encoding.vocabulary))[:, None]))
        self.register_buffer("table", numeric_features(values), persistent=False)
        self.linear = nn.Linear(self.table.shape[1], width)

    def places(self, numbers: Tensor) -> Tensor:
        return numbers

    def embed(self, ids: Tensor) -> Tensor:
        """(...) -> (..., width)"""
        return self.linear(F.embedding(ids, self.table))

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        """(B, L, 1) -> (B, L, width), and that nothing is hidden from attention."""
        return self.embed(ids[..., 0]), None


class NumberWriter(nn.Module):
    """Writes a solution with one position a number.

    shape: of all that is learned. Numbers are written row by row; `places` says which row and column each has.
    """

    encoding = encoding("FP15")

    def __init__(self, shape: tuple[int, ...], embedding: nn.Module, width: int, decoding: str):
        super().__init__()
        self.length = math.prod(shape)
        self.columns = shape[-1] if shape else 1
        self.feed, self.head = embedding, NumberHead(width, decoding)
        self.start = nn.Parameter(torch.zeros(width))

    def places(self, device=None) -> tuple[Tensor, Tensor]:
        """Rows and columns (L,) of all that is written, in order."""
        order = torch.arange(self.length, device=device)
        return order // self.columns, order % self.columns

    def sequence(self, targets: Tensor) -> Tensor:
        """(B, *shape, 1) ids of the solution -> (B, L) what is written."""
        return targets.flatten(1)

    def embed(self, ids: Tensor | None, batch: int) -> Tensor:
        """(B, L) what was written -> (B, L + 1, width) what the decoder reads: the start, then that."""
        start = self.start.expand(batch, 1, -1)
        return start if ids is None else torch.cat([start, self.feed.embed(ids)], dim=1)

    def loss(self, x: Tensor, sequence: Tensor) -> Tensor:
        """Decoder's output (B, L, width), (B, L) -> mean cross-entropy of a number, in nats."""
        return self.head(x, sequence)

    def log_probabilities(self, x: Tensor, sequence: Tensor) -> Tensor:
        """Decoder's output (B, L, width), (B, L) -> (B, L) natural logarithms."""
        classes, mantissas = split_ids(sequence)
        first = self.head.exponent(x).double().log_softmax(-1).gather(-1, classes[..., None])
        second = self.head.mantissas(x, classes).double().log_softmax(-1).gather(-1, mantissas.clamp(min=0)[..., None])
        return torch.where(mantissas < 0, first[..., 0], (first + second)[..., 0])

    def choose(self, x: Tensor) -> Tensor:
        """Decoder's output (B, 1, width) -> the next id (B, 1)."""
        return self.head(x)

    def needed(self, numbers: int) -> int:
        """How many positions must be written to have the first `numbers` numbers."""
        return numbers

    def solution(self, ids: Tensor, numbers: int) -> Tensor:
        """What was written, (B, at least needed) -> (B, numbers, 1) ids of the first `numbers` numbers."""
        return ids[:, :numbers, None]


class NumberHead(nn.Module):
    """p(sign, exponent) then p(mantissa | sign, exponent) for one number; class 0 is the number zero.

    decoding: "greedy" takes the likeliest sign and exponent, then the likeliest mantissa; "median" the number with
    half of the probability below it. Neighbouring mantissas share the probability of a number known to two digits,
    so the likeliest of 900 can be far from most of it, while the median cannot.
    """

    def __init__(self, width: int, decoding: str = "greedy"):
        super().__init__()
        self.decoding = decoding
        firsts = torch.cat([torch.zeros(1, dtype=torch.long), 1 + MANTISSAS * torch.arange(32)])
        values = torch.from_numpy(encoding("FP15").decode(firsts[:, None].numpy()))
        self.register_buffer("order", values.argsort(), persistent=False)  # the classes by the numbers they hold
        self.register_buffer("negative", values < 0, persistent=False)
        self.exponent = nn.Linear(width, 33)
        self.hidden = nn.Linear(width, width)
        self.seen = nn.Embedding(33, width)  # how the mantissa head sees sign and exponent
        self.mantissa = nn.Linear(width, MANTISSAS)
        nn.init.zeros_(self.seen.weight)

    def mantissas(self, x: Tensor, classes: Tensor) -> Tensor:
        """(B, L, width), classes (B, L) of sign and exponent -> logits (B, L, 900)."""
        with torch.autocast(x.device.type, enabled=False):  # logits grow large, and bfloat16 has two or three digits
            hidden = self.hidden(x.to(self.hidden.weight.dtype))
            return self.mantissa(F.relu(hidden + self.seen(classes)).square())

    def loss(self, x: Tensor, ids: Tensor) -> Tensor:
        """(B, L, width), FP15 ids (B, L) -> mean over numbers of the cross-entropy in nats, both parts together."""
        classes, mantissas = split_ids(ids)
        first = F.cross_entropy(self.exponent(x).float().flatten(0, 1), classes.flatten())
        logits = self.mantissas(x, classes).float().flatten(0, 1)
        second = F.cross_entropy(logits, mantissas.flatten(), ignore_index=-1, reduction="sum")
        return first + second / ids.numel()

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """(B, L, width) -> (B, L) FP15 ids, by `decoding`; or with ids (B, L), the `loss`."""
        if ids is not None:
            return self.loss(x, ids)
        if self.decoding == "greedy":
            classes = self.exponent(x).argmax(-1)
            mantissas = self.mantissas(x, classes).argmax(-1)
            return join_ids(classes, mantissas)
        return self.quantile(x, 0.5)

    def quantile(self, x: Tensor, level: float) -> Tensor:
        """(B, L, width) -> (B, L) FP15 ids of the numbers that have the share `level` of the probability below them."""
        classes, share = self.quantile_class(x, level)
        logits = self.mantissas(x, classes).float()
        # Not below exp(-80): processors are slow with numbers next to zero. A softmax but for its division.
        below = (logits - logits.amax(-1, keepdim=True)).clamp_(min=-80).exp_().cumsum(-1)
        mantissas = torch.searchsorted(below, share[..., None] * below[..., -1:])[..., 0]
        return join_ids(classes, mantissas.clamp(max=MANTISSAS - 1))

    def quantile_class(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """The class that holds a quantile, and how much of its probability lies at mantissas up to the quantile's."""
        shares = self.exponent(x).float().softmax(-1)[..., self.order]
        below = shares.cumsum(-1)
        place = (below < level).sum(-1, keepdim=True).clamp(max=32)
        share = shares.gather(-1, place)
        within = ((level - below.gather(-1, place) + share) / share).squeeze(-1)
        classes = self.order[place.squeeze(-1)]
        return classes, torch.where(self.negative[classes], 1 - within, within)


def join_ids(classes: Tensor, mantissas: Tensor) -> Tensor:
    """The inverse of `split_ids`: FP15 ids. Of the class zero, the mantissa does not count."""
    return torch.where(classes == 0, 0, 1 + (classes - 1) * MANTISSAS + mantissas)


def split_ids(ids: Tensor) -> tuple[Tensor, Tensor]:
    """FP15 ids -> (sign and exponent class 0..32, mantissa 0..899, or -1 for zero).

    The few numbers below 1e-7 whose mantissa has fewer than three digits are learned as zero.
    """
    zero = (ids == 0) | (ids >= NUMBERS)
    classes = torch.where(zero, 0, (ids - 1) // MANTISSAS + 1)
    return classes, torch.where(zero, -1, (ids - 1) % MANTISSAS)
