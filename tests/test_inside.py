"""Looking inside (notebook 08): the hooks do what they say, and headline numbers of the stored models."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from mathtransformer import load_run, properties, sample
from mathtransformer.analysis.inside import (
    answers,
    attention_patterns,
    forced,
    patched,
    probe,
    random_weights,
    residual_stream,
    without_heads,
)
from mathtransformer.data.tasks import get_task

VECTORS = get_task("eigenvectors")


@pytest.fixture(scope="module")
def small():
    """The 3x3 model, matrices as it reads them, and its answers."""
    model = load_run("eigenvectors-3x3").model
    matrices = model.ids(sample("eigenvectors", 3, 60, 0)[0])[1]
    return model, matrices, answers(model, matrices)


def same(found, expected):
    """Number by number. Where two numbers are equally likely, the place in the batch may decide."""
    return found.shape == expected.shape and (found == expected).mean() > 0.995


def test_activations_have_the_right_shapes_and_begin_with_what_is_embedded(small):
    model, matrices, _ = small
    stages = residual_stream(model, matrices)
    assert stages.shape == (5, 60, 6, 128)
    rows, columns = model.entries()
    ids = model.ids(matrices)[0][:, rows, columns]
    with torch.no_grad():
        embedded = model.read(ids)[0] + model.positions[0](rows, columns)
        memory = model.encode(model.ids(matrices)[0])[0]
    np.testing.assert_allclose(stages[0], embedded.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.norms[0](torch.from_numpy(stages[-1])).detach(), memory, atol=1e-4)
    patterns = attention_patterns(model, matrices, [model.encoder[3].attention, model.decoder[0].cross])
    assert [pattern.shape for pattern in patterns] == [(60, 8, 6, 6), (60, 8, 12, 6)]
    for pattern in patterns:
        np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("stage", range(5))
def test_a_patch_of_everything_gives_the_donors_answer_and_one_of_itself_nothing_new(small, stage):
    model, matrices, own = small
    donors = np.roll(np.arange(60), 1)
    everything = answers(model, matrices, patched(model, stage, donors))
    assert same(everything, own[donors]) and not same(everything, own)
    assert same(answers(model, matrices, patched(model, stage, donors, basis=np.eye(128))), own[donors])
    assert same(answers(model, matrices, patched(model, stage, np.arange(60))), own)
    assert same(answers(model, matrices, patched(model, stage, donors, places=[])), own)
    assert same(answers(model, matrices, patched(model, stage, donors, basis=np.zeros((128, 2)))), own)


def test_a_patch_of_what_is_read_is_another_matrix(small):
    """The diagonal of the donors, and the rest as it was: the answer is that to this matrix."""
    model, matrices, _ = small
    donors, diagonal = np.roll(np.arange(60), 1), torch.stack(model.entries()).diff(dim=0)[0] == 0
    mixed = matrices.copy()
    mixed[:, range(3), range(3)] = matrices[donors][:, range(3), range(3)]
    found = answers(model, matrices, patched(model, 0, donors, diagonal.nonzero()[:, 0]))
    assert same(found, answers(model, mixed))


def test_hooks_are_removed_even_after_an_error(small):
    model, matrices, own = small
    with pytest.raises(IndexError):
        answers(model, matrices, patched(model, 2, np.arange(60) + 1))
    assert same(answers(model, matrices), own)


def test_no_head_ablated_changes_nothing_and_one_alone_is_what_is_ablated(small):
    model, matrices, own = small
    attention = model.encoder[0].attention
    assert same(answers(model, matrices, without_heads(attention, [])), own)
    seen = []
    hook = attention.output.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    answers(model, matrices, without_heads(attention, [3]), hook)
    spread = seen[0].unflatten(-1, (8, 16)).std(0).amax((0, 2))
    assert (spread > 1e-6).tolist() == [k != 3 for k in range(8)]


def test_forced_numbers_are_written_and_others_are_not(small):
    model, matrices, own = small
    donors = np.roll(np.arange(60), 1)
    found = answers(model, matrices, forced(model, own[donors], range(3)))
    assert np.array_equal(found[:, 0], own[donors][:, 0])
    assert np.median(np.abs(found[:, 1:] - own[:, 1:])) < 0.01
    assert np.array_equal(answers(model, matrices, forced(model, own[donors], range(12))), own[donors])
    assert same(answers(model, matrices, forced(model, own[donors], range(0))), own)


def test_probes_find_what_is_linear_on_held_out_data_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    features, noise = rng.normal(size=(600, 20)), rng.normal(size=(600, 3))
    targets = features @ rng.normal(size=(20, 3))
    assert r2_score(targets, probe(1e3 * features + 7, targets)) > 0.999
    assert -0.2 < r2_score(noise, probe(features, noise)) < 0.02
    # 300 features fit 400 matrices exactly: a probe judged on its own matrices would find 1 in noise, too
    assert r2_score(noise, probe(rng.normal(size=(600, 300)), noise)) < 0


def test_random_weights_are_the_same_numbers_elsewhere(small):
    model = small[0]
    mixed = random_weights(model)
    for name, weight in mixed.state_dict().items():
        old = model.state_dict()[name]
        assert torch.equal(weight.flatten().sort().values, old.flatten().sort().values)
    assert not torch.equal(mixed.encoder[1].feedforward.hidden.weight, model.encoder[1].feedforward.hidden.weight)


@pytest.fixture(scope="module", params=["eigenvectors-5x5", "eigenvectors-3x3"])
def model_and_matrices(request):
    run = load_run(request.param)
    return run.model, run.model.ids(sample("eigenvectors", run.config.size, 600, 1)[0])[1]


def test_eigenvalues_come_over_several_layers(model_and_matrices):
    model, matrices = model_and_matrices
    values = np.linalg.eigvalsh(matrices)
    found = [r2_score(values, probe(x.mean(1), values)) for x in residual_stream(model, matrices)]
    assert found[0] < 0.5 and found[1] < 0.9 and found[-1] > 0.95
    control = residual_stream(random_weights(model), matrices)
    assert max(r2_score(values, probe(x.mean(1), values)) for x in control) < 0.5


def test_encoder_makes_eigenvalues_and_decoder_makes_norms(model_and_matrices):
    model, matrices = model_and_matrices[0], model_and_matrices[1][:100]

    def right(attention):
        found = answers(model, matrices, without_heads(attention, [*range(attention.heads)]))
        table = properties("eigenvectors", matrices, VECTORS.solve(matrices), found)
        return (table.eigenvalues < 0.05).mean(), (table.norm < 0.05).mean()

    eigenvalues, norms = right(model.encoder[1].attention)
    assert eigenvalues < 0.6 and norms > eigenvalues + 0.3
    eigenvalues, norms = right(model.decoder[0].attention)
    assert eigenvalues > 0.4 and norms < 0.2


def test_the_diagonal_holds_the_eigenvalues_at_the_end(model_and_matrices):
    model, matrices = model_and_matrices[0], model_and_matrices[1][:100]
    own, donors = answers(model, matrices), np.roll(np.arange(100), 1)
    diagonal = np.flatnonzero(np.equal(*(part.numpy() for part in model.entries())))
    moved = answers(model, matrices, patched(model, len(model.encoder), donors, diagonal)) - own
    way = own[donors] - own
    assert np.median((moved * way)[:, 0].sum(1) / (way[:, 0] ** 2).sum(1)) > 0.6
