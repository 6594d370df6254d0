"""The transformer in both recipes: decoding, sizes, and that it can learn."""

import numpy as np
import pytest
import torch

from mathtransformer.data.encodings import encoding
from mathtransformer.data.tasks import TASKS, get_task, sample
from mathtransformer.model.layers import softmax
from mathtransformer.model.numbers import NUMBERS, NumberHead, numeric_features, split_ids
from mathtransformer.model.options import ModelOptions
from mathtransformer.model.transformer import Transformer
from mathtransformer.training.config import RECIPES


def tiny(task, size, recipe, **options):
    torch.manual_seed(0)
    chosen = {**vars(RECIPES[recipe][0]), "width": 16, "heads": 2, "encoder_layers": 1, **options}
    model = Transformer(get_task(task), size, ModelOptions(**chosen))
    for parameter in model.parameters():  # blocks that start as the identity would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch(model, task, size, n=5):
    inputs, targets = sample(task, size, n, np.random.default_rng(0))
    if model.options.cotrain:
        targets = get_task(task).solve_richer(inputs)
    read = torch.from_numpy(encoding(model.options.reads).encode(inputs))
    return read, torch.from_numpy(model.writer.encoding.encode(targets))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [1, 2, 3])
@torch.no_grad()
def test_teacher_forcing_reproduces_what_was_generated(recipe, task, size):
    torch.manual_seed(1)
    chosen = {**vars(RECIPES[recipe][0]), "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    chosen["query_key_norm"] = size == 2
    model = Transformer(get_task(task), size, ModelOptions(**chosen)).eval()
    for parameter in model.parameters():  # not norms and biases: these drown the problem
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    inputs, _ = sample(task, size, 6, np.random.default_rng(0))
    read = torch.from_numpy(encoding(model.options.reads).encode(inputs))

    chosen_ids, writer = [], model.writer  # all that generate writes, with what it cuts off
    choose = writer.choose
    writer.choose = lambda x: chosen_ids.append(choose(x)) or chosen_ids[-1]
    model.generate(read)
    sequence = torch.cat(chosen_ids, 1)

    memory, length = model.encode(read), sequence.shape[1]
    x = writer.embed(sequence[:, :-1], len(read)) + model.positions[1](*writer.places())[:length]
    again = choose(model.decode(x, memory, torch.full((length, length), -torch.inf).triu(1)))
    assert torch.equal(again, sequence)
    assert len(sequence.unique(dim=0)) > 1  # the answer depends on the problem


@pytest.mark.parametrize("recipe", RECIPES)
@torch.no_grad()
def test_normalised_queries_and_keys_are_compared_by_direction(recipe):
    model = tiny("eigenvectors", 3, recipe, query_key_norm=True)
    kept = []
    for layer in (*model.encoder, *model.decoder):
        for part in filter(None, (layer.attention, layer.cross)):
            part.gain.fill_(0.5)
            part.pattern.register_forward_hook(lambda _, given, x: kept.append(x))
    inputs, targets = batch(model, "eigenvectors", 3)
    before = model(inputs, targets)
    for layer in model.encoder:
        layer.attention.projection.weight[: 2 * 16] *= 1000  # of queries and keys
        if recipe == "paper":
            layer.attention.projection.bias[: 2 * 16] *= 1000
    torch.testing.assert_close(model(inputs, targets), before, rtol=1e-3, atol=1e-3)
    # Scores of 8 numbers a head are within 0.5 * 8 / sqrt(8) of zero, so patterns of K places cannot be sharp.
    for pattern in kept:
        if not (pattern == 0).any():  # not masked
            places, most = pattern.shape[-1], np.exp(2 * 0.5 * 8**0.5)
            assert pattern.max() <= most / (most + places - 1) + 1e-5


@torch.no_grad()
def test_triangle_reads_the_upper_triangle_only():
    read, targets = batch(tiny("eigenvalues", 3, "fast"), "eigenvalues", 3)
    changed = read.clone()
    changed[:, 2, 0] = 7
    for triangle in (True, False):
        model = tiny("eigenvalues", 3, "fast", triangle=triangle)
        assert (model(read, targets) == model(changed, targets)) == triangle


def test_weights_carry_over_to_another_size():
    small, large = tiny("eigenvectors", 2, "fast"), tiny("eigenvectors", 5, "fast")
    large.load_state_dict(small.state_dict())
    read, targets = batch(large, "eigenvectors", 5)
    assert torch.isfinite(large(read, targets))
    with pytest.raises(RuntimeError):
        tiny("eigenvectors", 5, "paper").load_state_dict(tiny("eigenvectors", 2, "paper").state_dict())


@pytest.mark.parametrize(("recipe", "goal"), [("fast", 3.0), ("paper", 2.0)])
def test_learns_a_fixed_batch(recipe, goal):
    """An untrained model is at ln(33 * 900) = 10.3 nats a number, or ln(30,329) = 10.3 a token."""
    torch.manual_seed(0)
    options = {**vars(RECIPES[recipe][0]), "width": 32, "heads": 4, "encoder_layers": 1}
    model = Transformer(get_task("eigenvalues"), 3, ModelOptions(**options))
    read, targets = batch(model, "eigenvalues", 3, n=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    assert model(read, targets).item() > 2 * goal
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(read, targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < goal


def test_split_ids():
    classes, mantissas = split_ids(torch.arange(len(encoding("FP15").vocabulary)))
    rebuilt = torch.where(classes == 0, 0, 1 + (classes - 1) * 900 + mantissas)
    assert torch.equal(rebuilt[:28_801], torch.arange(28_801))
    assert (classes[28_801:] == 0).all() and classes.max() == 32
    number = encoding("FP15").encode(-3.14)[0]
    assert encoding("FP15").vocabulary[number] == "N-314e7"
    assert mantissas[number] == 214


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_choose_is_the_mode_or_a_quantile_of_all_numbers(seed):
    """Against the whole distribution over 28,801 numbers, written out."""
    torch.manual_seed(seed)
    head, x = NumberHead(8, "median").double(), torch.randn(1, 50, 8, dtype=torch.float64)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=1.5)
    values = encoding("FP15").decode(np.arange(NUMBERS)[:, None])
    joint = torch.zeros(50, NUMBERS, dtype=torch.float64)
    shares = head.exponent(x)[0].softmax(-1)
    joint[:, 0] = shares[:, 0]
    for c in range(1, 33):
        mantissas = head.mantissas(x, torch.full((1, 50), c))[0].softmax(-1)
        joint[:, 1 + 900 * (c - 1) : 1 + 900 * c] = shares[:, c, None] * mantissas
    order = np.argsort(values)
    below = joint.numpy()[:, order].cumsum(1)
    for level in (0.25, 0.5, 0.75):
        expected = values[order][(below < level).sum(1)]
        chosen = encoding("FP15").decode(head.quantile(x, level)[0, :, None].numpy())
        assert len(np.unique(expected)) > 20 and (expected < 0).any() and (expected > 0).any()
        assert (chosen == expected).mean() >= 0.98  # the order of summation may move one by a mantissa
        np.testing.assert_allclose(chosen, expected, rtol=0.011)
    assert torch.equal(head(x), head.quantile(x, 0.5))
    head.decoding = "greedy"
    classes, mantissas = split_ids(head(x)[0])
    assert torch.equal(classes, shares.argmax(-1))
    given = head.mantissas(x, classes[None])[0].argmax(-1)
    assert torch.equal(mantissas[classes > 0], given[classes > 0])


def test_numeric_features_tell_neighbours_apart():
    fp15 = encoding("FP15")
    features = numeric_features(torch.from_numpy(fp15.decode(np.arange(28_801)[:, None])))
    assert torch.isfinite(features).all()
    assert features.abs().max() < 12
    usual = slice(1 + 5 * 900, 1 + 9 * 900)  # 0.01 to 99.9
    assert (features[usual][1:] - features[usual][:-1]).norm(dim=1).min() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("output", ["number", "P1000"])
def test_a_cotrained_model_is_asked_for_the_beginning_only(output):
    model = tiny("eigenvalues", 3, "paper" if output == "P1000" else "fast", cotrain=True)
    read, targets = batch(model, "eigenvalues", 3)
    assert targets.shape[:-1] == (5, 4, 3)
    assert model.generate(read).shape == (5, 3, targets.shape[-1])
    assert torch.isfinite(model(read, targets))


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"triangle": False}, {"embedding": "FP15", "triangle": False}], ids=str)
@pytest.mark.parametrize("task", ["eigenvectors", "inversion"])
def test_components_are_compared_entry_by_entry(task, options):
    model = tiny(task, 3, "fast", components=5.0, **options)
    read, targets = batch(model, task, 3)
    memory, _ = model.encode(read)
    shown = model.components(memory).double()[..., :3]
    triangle = model.triangle
    entries = [(i, j) for i in range(3) for j in range(i if triangle else 0, 3)]
    first = model.read.opening
    exact = torch.from_numpy(get_task(task).components(sample(task, 3, 5, np.random.default_rng(0))[0]))
    errors = [(shown[:, first + place] - exact[:, i, j]) ** 2 for place, (i, j) in enumerate(entries)]
    expected = model(read, targets) + model.options.components * torch.stack(errors).mean()
    assert model(read, targets, exact.float()).item() == pytest.approx(expected.item(), rel=1e-4)


def test_target_shapes():
    assert [get_task(name).target_shape(4) for name in TASKS] == [(4,), (5, 4), (4, 4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 100, "heads": 3}, "multiple"),
        ({"components": -1.0}, "components must be a weight"),
        ({"components": float("nan")}, "components must be a weight"),
        ({"embedding": "tokens"}, "unknown embedding .tokens.: known: numeric, P10"),
        ({"encoder_layers": 0}, "encoder_layers must be from 1"),
        ({"output": "P1000"}, "positions='sequence'"),
    ],
)
def test_contradictory_options(options, message):
    with pytest.raises(ValueError, match=message):
        ModelOptions(**options)


@torch.no_grad()
@pytest.mark.parametrize("recipe", RECIPES)
def test_hooks_see_every_part_in_training_and_while_answering(recipe):
    model = tiny("eigenvectors", 3, recipe)
    read, targets = batch(model, "eigenvectors", 3)
    layer, seen = model.decoder[0], {}
    parts = {"layer": layer, "self": layer.attention, "cross": layer.cross, "pattern": layer.cross.pattern}
    parts |= {"written": layer.attention.pattern}
    parts |= {"encoder": model.encoder[0].attention.pattern, "read": model.read}
    parts |= {"head": model.writer.head} if recipe == "fast" else {"table": model.writer.table}
    for name, part in parts.items():
        part.register_forward_hook(lambda module, given, output, name=name: seen.setdefault(name, []).append(output))
    for work in (lambda: model(read, targets), lambda: model.generate(read)):
        seen.clear()
        work()
        assert set(seen) == set(parts)
        for name in ("pattern", "encoder", "written"):
            for pattern in seen[name]:
                assert pattern.shape[:2] == (5, 2)
                torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))


def test_logits_are_in_single_precision_where_all_else_is_bfloat16():
    """A common offset of a thousand, which the loss does not see, leaves bfloat16 no digits for the rest."""
    torch.manual_seed(0)
    head = NumberHead(16)
    with torch.no_grad():
        head.mantissa.bias += 1000
    x, classes = torch.randn(1, 40, 16), torch.ones(1, 40, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head.mantissas(x, classes)
    assert torch.equal(logits, head.mantissas(x, classes))  # bfloat16 has 4 apart at a thousand


@pytest.mark.parametrize("places", [1, 6, 15, 16])
def test_softmax_of_few_places_is_pytorchs(places):
    scores = 50 * torch.randn(40, places, generator=torch.Generator().manual_seed(0))
    scores[:20, 1:] = -torch.inf  # hidden
    one, other = (scores.clone().requires_grad_() for _ in range(2))
    ours, theirs = softmax(one), other.softmax(-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-30)
    assert (ours[:20, 1:] == 0).all()
    for result in (ours, theirs):
        (result * torch.arange(places)).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
