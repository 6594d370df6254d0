"""The layers of encoder and decoder: attention and feed-forward.

Every part is a module that is called as one, in training and while answering, so that PyTorch's own hooks see all
activations. Attention patterns (B, heads, L, K) pass through `Attention.pattern`, which does nothing else:

    layer.attention.pattern.register_forward_hook(lambda module, given, pattern: print(pattern.shape))
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cache:
    """Keys and values of one layer, while an answer of at most `length` symbols is written."""

    def __init__(self, length: int):
        self.length, self.written = length, 0
        self.past: list[Tensor] = []
        self.memory: tuple[Tensor, Tensor] | None = None  # of the encoder's output

    def extended(self, *new: Tensor) -> list[Tensor]:
        """Keys and values (B, heads, 1, width/heads) of one more symbol -> those of all so far."""
        if not self.past:
            self.past = [part.new_empty(*part.shape[:2], self.length, part.shape[3]) for part in new]
        for past, part in zip(self.past, new):
            past[:, :, self.written] = part[:, :, 0]
        self.written += 1
        return [past[:, :, : self.written] for past in self.past]


class Attention(nn.Module):
    """What self-attention and cross-attention share. Written out: at these lengths a fused kernel is slower in bf16."""

    def __init__(self, width: int, heads: int, bias: bool, normalised: bool):
        super().__init__()
        self.heads = heads
        self.pattern = nn.Identity()
        self.output = nn.Linear(width, width, bias=bias)
        self.gain = nn.Parameter(torch.full((heads, 1, 1), 2.0)) if normalised else None  # of normalised queries

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, L, parts*width) -> `parts` tensors (B, heads, L, width/heads)."""
        batch, length, _ = x.shape
        return x.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def comparable(self, keys: Tensor) -> Tensor:
        """Keys as queries are compared with them."""
        return keys if self.gain is None else of_unit_size(keys)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, heads, L, width/heads), twice (B, heads, K, width/heads) -> (B, L, width). mask: added to the scores."""
        if self.gain is not None:
            queries = self.gain.to(queries.dtype) * of_unit_size(queries)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if mask is not None:
            scores = scores + mask
        mixed = self.pattern(softmax(scores)).to(values.dtype) @ values
        return self.output(mixed.transpose(1, 2).flatten(2))


def norm(width: int, pre: bool) -> nn.Module:
    return nn.RMSNorm(width) if pre else nn.LayerNorm(width, eps=1e-12)


def softmax(scores: Tensor) -> Tensor:
    """Over the last dimension. PyTorch's own, unless compiled, takes ten times as long for each of fewer than 16."""
    if scores.shape[-1] >= 16 or torch.compiler.is_compiling():
        return scores.softmax(-1)
    powers = (scores - scores.amax(-1, keepdim=True)).clamp(min=-80).exp()  # numbers next to zero are slow
    powers = F.threshold(powers, 2e-35, 0.0)  # what is hidden stays so
    return powers / powers.sum(-1, keepdim=True)


def of_unit_size(x: Tensor) -> Tensor:
    """Vectors (..., k) with a mean square of 1; without weights, so that the compiler fuses it."""
    return x * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt().to(x.dtype)


class SelfAttention(Attention):
    def __init__(self, width: int, heads: int, bias: bool, normalised: bool):
        super().__init__(width, heads, bias, normalised)
        self.projection = nn.Linear(width, 3 * width, bias=bias)  # queries, keys, values in one product

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """x (B, L, width) -> the same shape. With a cache, x also attends to all that came before it."""
        queries, keys, values = self.split(self.projection(x), 3)
        keys = self.comparable(keys)
        if cache is not None:
            keys, values = cache.extended(keys, values)
        return self.attend(queries, keys, values, mask)


class CrossAttention(Attention):
    def __init__(self, width: int, heads: int, bias: bool, normalised: bool, memory_width: int):
        super().__init__(width, heads, bias, normalised)
        self.queries = nn.Linear(width, width, bias=bias)
        self.keys_values = nn.Linear(memory_width, 2 * width, bias=bias)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """x (B, L, width) attends to memory (B, K, memory_width), the encoder's output."""
        seen = None if cache is None else cache.memory
        if seen is None:
            keys, values = self.split(self.keys_values(memory), 2)
            seen = self.comparable(keys), values
            if cache is not None:  # once, not at every number that is written
                cache.memory = seen = tuple(part.contiguous() for part in seen)
        return self.attend(self.split(self.queries(x), 1)[0], *seen, mask)


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
    """One encoder layer, or with `memory_width` one decoder layer (self-attention, cross-attention, feed-forward)."""

    def __init__(self, width: int, heads: int, pre: bool, normalised: bool, memory_width: int | None = None):
        super().__init__()
        self.pre = pre
        self.attention = SelfAttention(width, heads, not pre, normalised)
        self.cross = CrossAttention(width, heads, not pre, normalised, memory_width) if memory_width else None
        self.feedforward = FeedForward(width, bias=not pre, squared=pre)
        self.norms = nn.ModuleList([norm(width, pre) for _ in range(3 if memory_width else 2)])
        if pre:  # blocks that start as the identity
            for block in filter(None, (self.attention, self.cross, self.feedforward)):
                nn.init.zeros_(block.output.weight)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """x (B, L, width) -> the same shape. memory: the encoder's output, for a decoder layer. Masks are added to the
        scores of what is attended to."""
        first, last = self.norms[0], self.norms[1]
        if self.pre:
            x = x + self.attention(first(x), mask, cache)
            if self.cross is not None:
                x = x + self.cross(self.norms[2](x), memory, memory_mask, cache)
            return x + self.feedforward(last(x))
        y = first(x + self.attention(x, mask, cache))
        if self.cross is not None:  # asked with the layer's input: so in the published code
            y = self.norms[2](y + self.cross(x, memory, memory_mask, cache))
        return last(y + self.feedforward(y))
