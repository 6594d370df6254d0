"""The Muon optimizer: orthogonal steps of the right size, for the matrices of the layers and nothing else."""

import pytest
import torch

from mathtransformer.data.tasks import get_task
from mathtransformer.model.options import ModelOptions
from mathtransformer.model.transformer import Transformer
from mathtransformer.training.config import TrainOptions
from mathtransformer.training.optimizers import Muon, layer_matrices, make_optimizers, orthogonal
from mathtransformer.training.presets import PRESETS, get_preset


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 32, 8), (2, 8, 32)])
def test_orthogonal_keeps_singular_vectors_and_evens_singular_values(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    rotated = left.mT @ orthogonal(matrices, torch.float64) @ right.mT
    evened = rotated.diagonal(dim1=-2, dim2=-1)
    assert (rotated - torch.diag_embed(evened)).abs().max() < 1e-9
    large = values > 0.01 * matrices.norm(dim=(-2, -1))[:, None]
    assert evened[large].min() > 0.6 and evened.max() < 1.25


def test_a_step_has_the_size_of_the_learning_rate_in_each_third_of_a_projection():
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.zeros(96, 32))
    weights.grad = torch.randn(96, 32) * torch.tensor([1.0, 1e-3, 1e3]).repeat_interleave(32)[:, None]
    Muon([weights], lr=0.01, weight_decay=0.0).step()
    for part in weights.detach().split(32):  # queries, keys and values, whatever the sizes of their gradients
        assert part.square().mean().sqrt().item() == pytest.approx(0.01, rel=0.2)


def test_momentum_is_nesterovs():
    weights = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([weights], lr=1.0, weight_decay=0.0, momentum=0.9)
    weights.grad = torch.eye(4)
    assert torch.allclose(optimizer.momentum(weights, 0.9), (0.9 * 0.1 + 0.1) * torch.eye(4))
    assert torch.allclose(optimizer.momentum(weights, 0.9), (0.9 * 0.19 + 0.1) * torch.eye(4))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_weight_decay_takes_the_same_share_of_every_weight(optimizer):
    model = Transformer(get_task("eigenvectors"), 3, ModelOptions(width=16, heads=2, query_key_norm=True))
    before = [weights.detach().clone() for weights in model.parameters()]
    for part in make_optimizers(model, TrainOptions(optimizer, weight_decay=0.1), bfloat16=False).values():
        for weights in part.param_groups[0]["params"]:
            weights.grad = torch.zeros_like(weights)
        part.param_groups[0]["lr"] = 0.5
        part.step()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.allclose(new, 0.95 * old, rtol=1e-6, atol=0)


def test_every_weight_has_one_optimizer():
    config = get_preset("eigenvectors-5x5").config.changed(width=16, heads=2)
    model = Transformer(get_task("eigenvectors"), 5, config.model)
    optimizers = make_optimizers(model, config.training, bfloat16=True)
    given = [weights for optimizer in optimizers.values() for weights in optimizer.param_groups[0]["params"]]
    assert sorted(map(id, given)) == sorted(map(id, model.parameters()))
    # Encoder layers have attention (2) and feed-forward (2), decoder layers cross-attention (3) besides.
    assert len(layer_matrices(model)) == 6 * 4 + 2 * 7 == len(optimizers["muon"].param_groups[0]["params"])
    assert optimizers["muon"].param_groups[0]["dtype"] is torch.bfloat16
    assert list(make_optimizers(model, PRESETS["eigenvectors-3x3"].config.training, bfloat16=True)) == ["optimizer"]


@pytest.mark.parametrize("shape", [(2, 32, 8), (2, 8, 32)])
def test_bfloat16_makes_nearly_the_same_steps(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    exact, fast = orthogonal(matrices), orthogonal(matrices, torch.bfloat16)
    assert fast.dtype is torch.bfloat16 and exact.dtype is torch.float32
    error = (fast - exact).square().mean() / exact.square().mean()
    assert 1e-7 < error < 1e-2  # another precision, and no more than that
