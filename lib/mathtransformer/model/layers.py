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

from .options import ModelOptions

Cache = dict[str, tuple[Tensor, Tensor]]  # keys and values of one layer, while an answer is written


class Attention(nn.Module):
    """What self-attention and cross-attention share. Written out: at these lengths a fused kernel is slower in bf16."""

    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.pattern = nn.Identity()
        self.output = nn.Linear(width, width, bias=bias)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, L, parts*width) -> `parts` tensors (B, heads, L, width/heads)."""
        batch, length, _ = x.shape
        return x.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, heads, L, width/heads), twice (B, heads, K, width/heads), mask (L, K) to add -> (B, L, width)."""
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if mask is not None:
            scores = scores + mask
        mixed = self.pattern(scores.softmax(-1)).to(values.dtype) @ values
        return self.output(mixed.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__(width, heads, bias)
        self.projection = nn.Linear(width, 3 * width, bias=bias)  # queries, keys, values in one product

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """x (B, L, width) -> the same shape. With a cache, x also attends to all that came before it."""
        queries, keys, values = self.split(self.projection(x), 3)
        if cache is not None:
            if "self" in cache:
                keys, values = (torch.cat(pair, dim=2) for pair in zip(cache["self"], (keys, values)))
            cache["self"] = keys, values
        return self.attend(queries, keys, values, mask)


class CrossAttention(Attention):
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__(width, heads, bias)
        self.queries = nn.Linear(width, width, bias=bias)
        self.keys_values = nn.Linear(width, 2 * width, bias=bias)

    def forward(self, x: Tensor, memory: Tensor, cache: Cache | None = None) -> Tensor:
        """x (B, L, width) attends to memory (B, K, width), the encoder's output."""
        cache = {} if cache is None else cache
        if "cross" not in cache:
            cache["cross"] = self.split(self.keys_values(memory), 2)
        return self.attend(self.split(self.queries(x), 1)[0], *cache["cross"])


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

    def __init__(self, options: ModelOptions, cross: bool = False):
        super().__init__()
        self.pre, width, heads = options.block == "pre-norm", options.width, options.heads
        self.attention = SelfAttention(width, heads, bias=not self.pre)
        self.cross = CrossAttention(width, heads, bias=not self.pre) if cross else None
        self.feedforward = FeedForward(width, bias=not self.pre, squared=self.pre)
        self.norms = nn.ModuleList([nn.RMSNorm(width) if self.pre else nn.LayerNorm(width) for _ in range(2 + cross)])
        if self.pre:  # blocks that start as the identity
            for block in filter(None, (self.attention, self.cross, self.feedforward)):
                nn.init.zeros_(block.output.weight)

    def residual(self, x: Tensor, norm: nn.Module, block: nn.Module, *arguments) -> Tensor:
        return x + block(norm(x), *arguments) if self.pre else norm(x + block(x, *arguments))

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """x (B, L, width) -> the same shape. memory: the encoder's output, for a decoder layer."""
        x = self.residual(x, self.norms[0], self.attention, mask, cache)
        if self.cross is not None:
            x = self.residual(x, self.norms[2], self.cross, memory, cache)
        return self.residual(x, self.norms[1], self.feedforward)
