"""The parts of the transformer: numbers in, attention and feed-forward, numbers out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encodings import encoding

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

    def __init__(self, width: int):
        super().__init__()
        fp15 = encoding("FP15")
        values = torch.from_numpy(fp15.decode(torch.arange(len(fp15.vocabulary))[:, None].numpy()))
        self.register_buffer("table", numeric_features(values), persistent=False)
        self.linear = nn.Linear(self.table.shape[1], width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(F.embedding(ids, self.table))


class Attention(nn.Module):
    """Multi-head attention, written out: at these lengths the library's fused kernel is slower in bf16."""

    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.projection = nn.Linear(width, 3 * width, bias=bias)  # queries, keys, values in one product
        self.output = nn.Linear(width, width, bias=bias)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, L, parts*width) -> `parts` tensors (B, heads, L, width/heads)."""
        batch, length, _ = x.shape
        return x.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def queries(self, x: Tensor) -> Tensor:
        """(B, L, width) -> (B, heads, L, width/heads)."""
        width, bias = x.shape[-1], self.projection.bias
        bias = None if bias is None else bias[:width]
        return self.split(F.linear(x, self.projection.weight[:width], bias), 1)[0]

    def keys_values(self, memory: Tensor) -> tuple[Tensor, ...]:
        """(B, K, width) -> two tensors (B, heads, K, width/heads)."""
        width, bias = memory.shape[-1], self.projection.bias
        bias = None if bias is None else bias[width:]
        return self.split(F.linear(memory, self.projection.weight[width:], bias), 2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, heads, L, width/heads), twice (B, heads, K, width/heads), mask (L, K) to add -> (B, L, width)."""
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if mask is not None:
            scores = scores + mask
        mixed = scores.softmax(-1).to(values.dtype) @ values
        return self.output(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.attend(*self.split(self.projection(x), 3), mask)


class FeedForward(nn.Module):
    def __init__(self, width: int, bias: bool, squared: bool):
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width, bias=bias)
        self.output = nn.Linear(4 * width, width, bias=bias)
        self.squared = squared

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(x))
        return self.output(hidden * hidden if self.squared else hidden)


class Layer(nn.Module):
    """One encoder layer, or with `cross=True` one decoder layer (self-attention, cross-attention, feed-forward)."""

    def __init__(self, options, cross: bool = False):
        """`options`: model.ModelOptions, of which width, heads and block matter here."""
        super().__init__()
        self.pre = options.block == "pre-norm"
        norm = (lambda: nn.RMSNorm(options.width)) if self.pre else (lambda: nn.LayerNorm(options.width))
        self.attention = Attention(options.width, options.heads, bias=not self.pre)
        self.feedforward = FeedForward(options.width, bias=not self.pre, squared=self.pre)
        self.norms = nn.ModuleList([norm() for _ in range(3 if cross else 2)])
        self.cross = Attention(options.width, options.heads, bias=not self.pre) if cross else None
        if self.pre:  # blocks that start as the identity
            for block in (self.attention, self.cross, self.feedforward):
                if block is not None:
                    nn.init.zeros_(block.output.weight)

    def residual(self, x: Tensor, norm: nn.Module, function) -> Tensor:
        return x + function(norm(x)) if self.pre else norm(x + function(x))

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.residual(x, self.norms[0], lambda y: self.attention(y, mask))
        if self.cross is not None:
            keys_values = self.cross.keys_values(memory)
            x = self.residual(x, self.norms[2], lambda y: self.cross.attend(self.cross.queries(y), *keys_values))
        return self.residual(x, self.norms[1], self.feedforward)

    def step(self, x: Tensor, cache: dict) -> Tensor:
        """One decoding step: x (B, 1, width); `cache` holds the keys and values of all that came before."""

        def attend_to_past(y: Tensor) -> Tensor:
            queries, keys, values = self.attention.split(self.attention.projection(y), 3)
            if "self" in cache:
                keys = torch.cat([cache["self"][0], keys], dim=2)
                values = torch.cat([cache["self"][1], values], dim=2)
            cache["self"] = (keys, values)
            return self.attention.attend(queries, keys, values)

        x = self.residual(x, self.norms[0], attend_to_past)
        x = self.residual(x, self.norms[2], lambda y: self.cross.attend(self.cross.queries(y), *cache["cross"]))
        return self.residual(x, self.norms[1], self.feedforward)


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
        return self.mantissa(F.relu(self.hidden(x) + self.seen(classes)).square())

    def loss(self, x: Tensor, ids: Tensor) -> Tensor:
        """(B, L, width), FP15 ids (B, L) -> mean over numbers of the cross-entropy in nats, both parts together."""
        classes, mantissas = split_ids(ids)
        first = F.cross_entropy(self.exponent(x).float().flatten(0, 1), classes.flatten())
        logits = self.mantissas(x, classes).float().flatten(0, 1)
        second = F.cross_entropy(logits, mantissas.flatten(), ignore_index=-1, reduction="sum")
        return first + second / ids.numel()

    def choose(self, x: Tensor) -> Tensor:
        """(B, L, width) -> (B, L) FP15 ids, by `decoding`."""
        if self.decoding == "greedy":
            classes = self.exponent(x).argmax(-1)
            mantissas = self.mantissas(x, classes).argmax(-1)
        else:
            classes, share = self.median_class(x)
            below = self.mantissas(x, classes).float().softmax(-1).cumsum(-1) < share[..., None]
            mantissas = below.sum(-1).clamp(max=MANTISSAS - 1)
        return torch.where(classes == 0, 0, 1 + (classes - 1) * MANTISSAS + mantissas)

    def median_class(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The class that holds the median, and how much of its probability lies at mantissas up to the median's."""
        shares = self.exponent(x).float().softmax(-1)[..., self.order]
        below = shares.cumsum(-1)
        place = (below < 0.5).sum(-1, keepdim=True).clamp(max=32)
        share = shares.gather(-1, place)
        quantile = ((0.5 - below.gather(-1, place) + share) / share).squeeze(-1)
        classes = self.order[place.squeeze(-1)]
        return classes, torch.where(self.negative[classes], 1 - quantile, quantile)


def split_ids(ids: Tensor) -> tuple[Tensor, Tensor]:
    """FP15 ids -> (sign and exponent class 0..32, mantissa 0..899, or -1 for zero).

    The few numbers below 1e-7 whose mantissa has fewer than three digits are learned as zero.
    """
    zero = (ids == 0) | (ids >= NUMBERS)
    classes = torch.where(zero, 0, (ids - 1) // MANTISSAS + 1)
    return classes, torch.where(zero, -1, (ids - 1) % MANTISSAS)
