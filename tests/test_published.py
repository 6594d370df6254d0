"""The published model against the official code's own numbers, and files of the paper taken over.

tests/data/lawt: two small models that the official code trained, what it makes of 60 problems, and of 200 as text. Of
their 4,096 positions the files here have 128, to be smaller.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mathtransformer import __main__ as cli
from mathtransformer import files, judged, load_run, sample
from mathtransformer.analysis import predictions
from mathtransformer.data.encodings import ENCODINGS, encoding
from mathtransformer.data.tasks import get_task
from mathtransformer.files import FileError
from mathtransformer.model.options import PAPER, ModelOptions
from mathtransformer.model.tokens import word_ids
from mathtransformer.model.transformer import Transformer
from mathtransformer.tools.published import import_model, import_predictions
from mathtransformer.training.runs import shards

LAWT = Path(__file__).with_name("data") / "lawt"
NAMES = ["eigenvectors-3x3", "inversion-2x2"]


@pytest.fixture(scope="module", params=NAMES)
def imported(request, tmp_path_factory):
    """(run, the official code's numbers, inputs, targets)"""
    folder = tmp_path_factory.mktemp("imported") / "run"
    assert cli.main(["import", str(LAWT / f"{request.param}.pth"), "--out", str(folder)]) == 0
    run = load_run(folder)
    known = json.loads((LAWT / f"{request.param}.json").read_text(encoding="utf-8"))
    n = run.config.size
    sources = [encoding("FP15").values([[token] for token in one["source"][2:]]) for one in known]
    targets = [encoding("P1000").values(np.reshape(one["target"][2:], (-1, 3))) for one in known]
    return run, known, np.reshape(sources, (-1, n, n)), np.reshape(targets, (-1, *run.model.asked))


def test_log_probabilities_are_those_of_the_official_code(imported):
    run, known, inputs, targets = imported
    found = run.log_probabilities(inputs, targets)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [one["log_probabilities"] for one in known], atol=1e-4)
    np.testing.assert_allclose(run.log_probabilities(inputs, targets, batch=7), found, atol=1e-5)
    assert run.log_probabilities(inputs[:0], targets[:0]).shape == (0, found.shape[1])
    with pytest.raises(ValueError, match="targets of shape"):
        run.log_probabilities(inputs, targets[:, :1])


def test_greedy_tokens_are_those_of_the_official_code(imported, monkeypatch):
    run, known, inputs, targets = imported
    writer, chosen = run.model.writer, []
    choose = writer.choose
    monkeypatch.setattr(writer, "choose", lambda x: chosen.append(choose(x)) or chosen[-1], raising=False)
    answers = run.predict(inputs)
    words = list(word_ids("FP15", "P1000"))
    written = [[words[i] for i in row] for row in torch.cat(chosen, 1).tolist()]
    for row, one in zip(written, known, strict=True):
        length = min(len(row) - 1, len(one["generated"]))  # the last is the end, which the official list leaves out
        assert length >= 14 and row[:length] == one["generated"][:length]
    errors = [np.inf if one["error"] is None else one["error"] for one in known]
    np.testing.assert_allclose(run.model.task.error(inputs, targets, answers), errors, rtol=1e-8)


def test_the_vocabulary_is_the_published_one():
    words = word_ids("FP15", "P1000")
    assert len(words) == 30_329 and list(words.values()) == list(range(30_329))
    assert words["<s>"] == 0 and words["</s>"] == 1 and words["+"] == 22
    assert len(word_ids("B1999")) == 27 + 100 + 2001 + 201
    assert len(word_ids("P10")) == 27 + 100 + 10 + 201  # its signs are among the first 27


@pytest.mark.parametrize("written", [*ENCODINGS, "number"])
@pytest.mark.parametrize("read", ENCODINGS)
def test_every_encoding_can_be_read_and_written(read, written):
    """A few steps lower the loss of a batch, one of whose matrices has a zero."""
    torch.manual_seed(0)
    options = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_width": 32, "decoder_heads": 4}
    options |= {"embedding": read, "output": written}
    model = Transformer(
        get_task("inversion"), 2, ModelOptions(**vars(PAPER) | options | {"embedding": read, "output": written})
    )
    inputs, _ = sample("inversion", 2, 8, 0)
    inputs[0, 1, 0] = 0.0
    ids, matrices, _ = model.ids(inputs)
    targets = torch.from_numpy(model.writer.encoding.encode(np.linalg.inv(matrices)))
    np.testing.assert_array_equal(model.read.encoding.decode(ids.numpy()), matrices)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(model(ids, targets))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    logarithms = model.log_probabilities(ids, targets)
    shown = logarithms[logarithms != 0]
    assert shown.mean().item() == pytest.approx(-model(ids, targets).item(), abs=1e-4)
    alone = model.log_probabilities(ids[1:], targets[1:])
    np.testing.assert_allclose(alone[:, : logarithms.shape[1]], logarithms[1:, : alone.shape[1]], atol=1e-5)
    first = model.log_probabilities(ids[:1], targets[:1])  # the matrix with a zero, without the padding of a batch
    np.testing.assert_allclose(first[0, : first.shape[1]], logarithms[0, : first.shape[1]], atol=1e-5)


@pytest.mark.parametrize("name", ENCODINGS)
def test_solutions_of_another_shape_do_not_decode(name):
    model = Transformer(get_task("eigenvalues"), 2, ModelOptions(**vars(PAPER) | {"width": 16, "output": name}))
    writer = model.writer
    right = writer.sequence(torch.from_numpy(encoding(name).encode([[3.14, 0.0], [-2.0, 55.5]])))
    assert writer.encoding.decode(writer.solution(right, 2).numpy()).tolist() == [[3.14, 0.0], [-2.0, 55.5]]
    wrong = [right.clone() for _ in range(3)]
    wrong[0][:, 0] = right[0, 1]  # V1 V1 instead of V2 V1
    wrong[1][1, -1] = right[1, 2]  # no end
    wrong[2][1, 3] = 0  # too early an end
    for sequence in wrong:
        assert np.isnan(writer.encoding.decode(writer.solution(sequence, 2).numpy())[1]).any()


def test_a_table_too_large_for_one_file_is_split():
    weights = {name: torch.zeros(2_000_000, dtype=torch.float16) for name in "abcde"}
    assert {name: list(part) for name, part in shards(weights).items()} == {
        "model.safetensors": ["a", "b"],
        "model-2.safetensors": ["c", "d"],
        "model-3.safetensors": ["e"],
    }


def test_an_imported_model_is_not_written_over(imported, tmp_path):
    run, *_ = imported
    assert run.info["source"].endswith(".pth") and run.config.model.output == "P1000"
    with pytest.raises(FileError, match="has a run already"):
        import_model(LAWT / run.info["source"], run.folder)


SPOILED = {
    "'decoder' is missing": lambda saved: saved.pop("decoder"),
    "'operation' is missing": lambda saved: saved["params"].pop("operation"),
    "'singular_values' is none of": lambda saved: saved["params"].update(operation="singular_values"),
    "several sizes, 2 to 5": lambda saved: saved["params"].update(max_dimension=5),
    "'layers.1.ffn.lin1.weight' is missing": lambda saved: saved["encoder"].pop("layers.1.ffn.lin1.weight"),
    "its output layer is not": lambda saved: saved["decoder"].update({"proj.weight": torch.zeros(30_329, 16)}),
    "size mismatch for": lambda saved: saved["params"].update(dec_emb_dim=32),
    "encoder.layers.0.ffn.midlin.weight is not": lambda saved: saved["encoder"].update(
        {"layers.0.ffn.midlin.weight": torch.zeros(3)}
    ),
    "other entries than up to 10": lambda saved: saved["params"].update(max_input_coeff=100),
    "'params' is missing": lambda saved: saved.clear(),
    "is no released model: ": None,  # not a file of torch.save
}


@pytest.mark.parametrize("message", SPOILED)
def test_what_is_no_released_model(message, tmp_path, capsys):
    path = tmp_path / "model.pth"
    if SPOILED[message]:
        saved = torch.load(LAWT / "inversion-2x2.pth", weights_only=True)
        SPOILED[message](saved)
        torch.save(saved, path)
    else:
        path.write_bytes(b"no checkpoint")
    assert cli.main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and str(path) in told[0] and message in told[0]
    assert not (tmp_path / "run").exists()


def test_names_may_begin_with_module_and_positions_may_be_many(tmp_path):
    saved = torch.load(LAWT / "inversion-2x2.pth", weights_only=True)
    for side in ("encoder", "decoder"):
        positions = saved[side]["position_embeddings.weight"]
        saved[side]["position_embeddings.weight"] = torch.cat([positions, torch.ones(4096 - 128, positions.shape[1])])
        saved[side] = {f"module.{name}": tensor for name, tensor in saved[side].items()}
    torch.save(saved, tmp_path / "model.pth")
    one, other = (
        import_model(path, tmp_path / path.parent.name) for path in (tmp_path / "model.pth", LAWT / "inversion-2x2.pth")
    )
    assert files.read_sums(one)["model.safetensors"] == files.read_sums(other)["model.safetensors"]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "PREDICTIONS", tmp_path / "predictions")
    return tmp_path


@pytest.mark.parametrize("name", [*NAMES, "inversion-2x2-decodable"])
def test_predictions_of_the_official_evaluator(name, stored):
    assert cli.main(["import", str(LAWT / f"{name}.pred"), "--name", "theirs"]) == 0
    table = judged("theirs")
    assert len(table) == 200
    known = json.loads((LAWT / f"{name.removesuffix('-decodable')}.json").read_text(encoding="utf-8"))
    if name in NAMES:  # the first 60 are those of the json
        errors = [np.inf if one["error"] is None else one["error"] for one in known]
        np.testing.assert_allclose(table.error[:60], errors, rtol=1e-8)
    else:
        assert np.isfinite(table.error).all() and table.error.min() > 0.05
    for taken in ("theirs", "eigenvectors-3x3"):
        with pytest.raises(FileError, match="choose another --name"):
            import_predictions(LAWT / f"{name}.pred", taken)


def test_what_is_damaged_or_of_another_length(stored, capsys):
    lines = (LAWT / "inversion-2x2-decodable.pred").read_text(encoding="utf-8").split("\n")
    answer = next(i for i, line in enumerate(lines) if line.startswith("0 "))
    for change, wrong in (("'E-3'", "'E-3', '+'"), (", 'E-3']", "]"), ("'V2', 'V2'", "'V2', 'V3'"), ("'+'", "'x'")):
        changed = [*lines]
        changed[answer] = lines[answer].replace(change, wrong, 1)
        assert changed != lines
        (stored / "one.pred").write_text("\n".join(changed), encoding="utf-8")
        name = f"one{len(list(stored.glob('predictions/*')))}"
        import_predictions(stored / "one.pred", name)
        assert np.isinf(judged(name).error[0]) and np.isfinite(judged(name).error[1:]).all()
    for number, more in ((7, ""), (8, ""), (10, ""), (10, lines[10][:30])):  # the second entry cut
        (stored / "cut.pred").write_text("\n".join([*lines[:number], more]), encoding="utf-8")
        assert cli.main(["import", str(stored / "cut.pred"), "--name", "cut"]) == 2
        assert "line 7: no entry of predictions begins here" in capsys.readouterr().err
