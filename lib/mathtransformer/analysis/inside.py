"""What a model computes inside: its activations, linear probes of them, and its answers after a change to them.

All of it by PyTorch's own hooks. Stage 0 of the encoder is what its first layer reads, stage k what its layer k puts
out. Matrices (N, n, n) are given as the model reads them (`Transformer.ids`) and go through in one batch.
"""

import copy
from itertools import count

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..evaluation.answers import answer
from ..model.layers import Attention
from ..model.transformer import Transformer


def at_stage(model: Transformer, stage: int, change) -> RemovableHandle:
    """A hook that replaces the encoder's activations x (N, L, width) at a stage by change(x)."""
    if stage == 0:
        return model.encoder[0].register_forward_pre_hook(lambda layer, given: (change(given[0]), *given[1:]))
    return model.encoder[stage - 1].register_forward_hook(lambda layer, given, x: change(x))


def answers(model: Transformer, matrices: np.ndarray, *hooks: RemovableHandle) -> np.ndarray:
    """(N, n, n) -> the model's answers (N, *target shape) with these hooks, which are removed afterwards."""
    try:
        return answer(model, matrices, batch=len(matrices))
    finally:
        [hook.remove() for hook in hooks]


@torch.no_grad()
def residual_stream(model: Transformer, matrices: np.ndarray) -> np.ndarray:
    """What the encoder holds at each stage: (layers + 1, N, L, width), L the numbers that are read."""
    kept: list[Tensor] = []
    hooks = [at_stage(model, stage, lambda x: kept.append(x) or x) for stage in range(len(model.encoder) + 1)]
    model.encode(model.ids(matrices)[0])
    [hook.remove() for hook in hooks]
    return torch.stack(kept).numpy()


def attention_patterns(model: Transformer, matrices: np.ndarray, parts: list[Attention]) -> list[np.ndarray]:
    """Of each part its patterns (N, heads, queries, keys), while the model answers: of encoder layers or `cross`."""
    kept: list[list[Tensor]] = [[] for _ in parts]
    hooks = [p.pattern.register_forward_hook(lambda _, given, x, k=k: k.append(x)) for p, k in zip(parts, kept)]
    answers(model, matrices, *hooks)
    return [torch.cat(steps, 2).numpy() for steps in kept]


def patched(model: Transformer, stage: int, donors, places=slice(None), basis=None) -> RemovableHandle:
    """Activations at a stage become those of other matrices of the batch, donors (N,). places: at these positions only.
    basis (width, k), orthonormal columns: in the space of these only."""

    def change(x: Tensor) -> Tensor:
        x, new = x.clone(), x[donors]
        if basis is not None:
            new = x + (new - x) @ torch.from_numpy(basis @ basis.T).float()
        x[:, places] = new[:, places]
        return x

    return at_stage(model, stage, change)


def without_heads(attention: Attention, heads: list[int]) -> RemovableHandle:
    """What these heads put out becomes its mean over the batch, and so no longer depends on the matrix."""

    def change(module, given):
        x = given[0].unflatten(-1, (attention.heads, -1)).clone()
        x[..., heads, :] = x[..., heads, :].mean(0, keepdim=True)
        return (x.flatten(-2),)

    return attention.output.register_forward_pre_hook(change)


def forced(model: Transformer, written: np.ndarray, places: range) -> RemovableHandle:
    """Numbers at these places, in the order of writing, become those of other answers. For output="number" only."""
    ids, steps = torch.from_numpy(model.writer.encoding.encode(written)).flatten(1), count()
    return model.writer.head.register_forward_hook(
        lambda head, given, chosen: ids[:, k, None] if (k := next(steps) % ids.shape[1]) in places else chosen
    )


def random_weights(model: Transformer, seed: int = 0) -> Transformer:
    """A copy with the entries of each weight in random order: as large as before, with nothing of what was learned."""
    mixed, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for weight in mixed.parameters():
        weight.data = weight.data.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight)
    return mixed


def probe(features: np.ndarray, targets: np.ndarray, strength: float = 0.01, folds: int = 3) -> np.ndarray:
    """(N, width), (N, k) -> (N, k) what ridge regression says of each part of the matrices when fitted to the others.
    Features are centred and scaled to a mean squared length of 1, so that strengths compare."""
    features = features.astype(np.float64) - features.mean(0)
    features /= np.sqrt((features**2).sum(1).mean())
    return cross_val_predict(Ridge(strength), features, targets, cv=KFold(folds, shuffle=True, random_state=0))
