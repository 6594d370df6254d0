"""Muon: momentum whose matrices are made orthogonal before they are taken as steps (Jordan et al. 2024).

torch.optim.Muon takes one matrix after the other, queries, keys and values as one, and always in bfloat16: on a
processor without it a step of a 5x5 model took it 1.7 seconds, seventeen times as long as this one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import TrainOptions

# Polynomial of the Newton-Schulz iteration, from Jordan et al.: it takes singular values between 0.01 and 1 to
# between 0.7 and 1.2 in five iterations, which is orthogonal enough.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, m, n) -> (N, m, n), of `dtype`, in which it is computed: about U V^T, for matrices U diag(s) V^T."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT, dtype).mT
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype, memory_format=torch.contiguous_format)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


def layer_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of the encoder's and the decoder's layers: those that Muon is for."""
    named = model.named_parameters()
    return [weights for name, weights in named if weights.ndim == 2 and name.startswith(("encoder.", "decoder."))]


class Muon(torch.optim.Optimizer):
    """Optimizer of matrices. The entries of each step have a root mean square of `lr`, the most that Adam's have.

    weight_decay: share of the weights that a step at a rate of 1 takes away, as in AdamW.
    """

    def __init__(self, parameters, lr: float, weight_decay: float, momentum: float = 0.95, dtype=torch.float32):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "dtype": dtype})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for weights in group["params"]:
                shapes.setdefault(weights.shape, []).append(weights)
            for (rows, columns), alike in shapes.items():
                momenta = torch.stack([self.momentum(weights, group["momentum"]) for weights in alike])
                # Queries, keys and values are three matrices in one.
                height = columns if rows == 3 * columns else rows
                steps = orthogonal(momenta.view(-1, height, columns), group["dtype"]) * max(height, columns) ** 0.5
                for weights, step in zip(alike, steps.view(-1, rows, columns), strict=True):
                    weights.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"])

    def momentum(self, weights: nn.Parameter, momentum: float) -> Tensor:
        """The gradient's running mean, with the gradient mixed in once more (Nesterov)."""
        state = self.state[weights]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(weights)
        state["mean"].lerp_(weights.grad, 1 - momentum)
        return weights.grad.lerp(state["mean"], momentum)


def make_optimizers(model: nn.Module, training: TrainOptions, bfloat16: bool) -> dict[str, torch.optim.Optimizer]:
    """AdamW, and with the option "muon" that for the matrices of the layers, in bfloat16 where that is fast. Learning
    rates are set at each step."""
    matrices = layer_matrices(model) if training.optimizer == "muon" else []
    rest = [weights for weights in model.parameters() if not any(weights is other for other in matrices)]
    common = {"lr": 0.0, "weight_decay": training.weight_decay}
    adamw = torch.optim.AdamW(rest, betas=(0.9, training.beta2), fused=True, **common)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    return {"optimizer": adamw} | ({"muon": Muon(matrices, dtype=dtype, **common)} if matrices else {})
