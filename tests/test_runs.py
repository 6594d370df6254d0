"""Training and its folders: resuming, refusing, and never losing what was there."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from mathtransformer import load_run, runs, trainer, training
from mathtransformer.batches import Batches
from mathtransformer.config import PRESETS, Config
from mathtransformer.encodings import encoding
from mathtransformer.problems import TASKS, sample

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "batch": 16, "components": 5.0, "optimizer": "muon"}


def tiny(examples=640, preset="eigenvectors-3x3", **options) -> Config:
    return PRESETS[preset].changed(examples=examples, **{**TINY, **options})


def train(config, folder, **options):
    return training.train(config, folder, compiled=False, show=False, threads=1, device="cpu", **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert train(tiny(), folder) == 0
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_what_a_training_leaves(trained):
    run = load_run(trained)
    assert run.info["finished"] and run.info["examples"] == 640 and run.info["steps"] == 40
    assert run.config == tiny()
    assert sorted(path.name for path in trained.iterdir()) == sorted(runs.RUN_FILES)
    log = run.log
    assert log.examples.iloc[-1] == 640 and log.step.is_monotonic_increasing
    assert log.learning_rate.iloc[-1] == 0 and log.learning_rate.max() == pytest.approx(2e-3, rel=0.05)
    assert {"error_5%", "eigenvalues_5%", "norm_5%", "orthogonality_5%"} <= set(log.columns)
    assert log.loss.iloc[-1] < log.loss.dropna().iloc[0]


def test_predictions_have_the_shape_of_targets(trained):
    run = load_run(trained)
    inputs, targets = sample("eigenvectors", 3, 7, np.random.default_rng(0))
    predictions = run.predict(inputs)
    assert predictions.shape == targets.shape and predictions.dtype == np.float64
    np.testing.assert_array_equal(run.predict(inputs, batch=2), predictions)
    np.testing.assert_array_equal(run.predict(torch.from_numpy(inputs)), predictions)
    assert run.predict(inputs[:0]).shape == (0, 4, 3)


def test_bad_inputs_to_predict(trained):
    run = load_run(trained)
    good, _ = sample("eigenvectors", 3, 3, np.random.default_rng(0))
    cases = {
        "3x3 matrices": np.eye(4)[None],
        "example 1 has a difference": good.copy(),
        "example 2 has NaN": good.copy(),
    }
    cases["example 1 has a difference"][1, 0, 1] += 1
    cases["example 2 has NaN"][2, 0, 0] = np.nan
    for message, inputs in cases.items():
        with pytest.raises(ValueError, match=message):
            run.predict(inputs)


def test_an_existing_run_is_not_overwritten(copy):
    before = (copy / "model.safetensors").read_bytes()
    with pytest.raises(runs.RunError, match="--resume.*--force"):
        train(tiny(seed=1), copy)
    assert (copy / "model.safetensors").read_bytes() == before
    assert train(tiny(seed=1), copy, force=True) == 0
    assert (copy / "model.safetensors").read_bytes() != before


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_resuming_is_exact(tmp_path):
    torch.set_num_threads(1)
    whole = training.Trainer(tiny(), tmp_path, compiled=False)
    for _ in range(12):
        whole.train_step()
    half = training.Trainer(tiny(), tmp_path, compiled=False)
    for _ in range(5):
        half.train_step()
    half.evaluate()
    half.save()
    rest = training.Trainer(tiny(), tmp_path, compiled=False)
    rest.restore()
    assert rest.rows == half.rows
    for _ in range(7):
        rest.train_step()
    assert torch.equal(weights(rest), weights(whole))
    assert rest.losses == whole.losses[5:]


def test_resuming_in_another_precision_is_said(tmp_path, caplog):
    begun = training.Trainer(tiny(precision="float32"), tmp_path, compiled=False)
    begun.save()
    for bfloat16, warned in ((False, False), (True, True)):
        rest = training.Trainer(tiny(precision="float32"), tmp_path, compiled=False)
        rest.bfloat16 = bfloat16  # as if measured on another processor
        rest.restore()
        assert ("begun in single precision, goes on in bfloat16" in caplog.text) is warned


def test_a_finished_run_is_left_alone(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert train(tiny(), copy, resume=True) == 0
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_resuming_with_other_options_is_refused(copy):
    for name in ("run.json", "model.safetensors"):  # finished, then cut short
        with pytest.raises(runs.RunError, match="seed: 0, now 1"):
            train(tiny(seed=1), copy, resume=True)
        (copy / name).unlink()


def test_bfloat16_is_used_where_it_is_faster(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for speed, used in ((4.0, True), (1.2, False), (0.5, False)):
        seconds = {torch.bfloat16: 1 / speed, torch.float32: 1.0}
        monkeypatch.setattr(trainer, "product_seconds", seconds.get)
        trainer.bfloat16_is_fast.cache_clear()
        assert trainer.uses_bfloat16("auto", cpu) is used
        assert trainer.uses_bfloat16("auto", cuda) and not trainer.uses_bfloat16("float32", cuda)
        assert trainer.uses_bfloat16("bfloat16", cpu)
    trainer.bfloat16_is_fast.cache_clear()


def test_examples_depend_on_seed_and_step_only():
    first, second = (Batches(tiny(), encoding("FP15")) for _ in range(2))
    later = [first[step] for step in (0, 63, 64, 200)]
    for expected, step in zip(reversed(later), (200, 64, 63, 0)):
        assert all(torch.equal(a, b) for a, b in zip(expected, second[step]))
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(Batches(tiny(seed=1), encoding("FP15"))[0][0], first[0][0])


def test_components_are_those_of_the_inputs():
    inputs, _, components = Batches(tiny(), encoding("FP15"))[3]
    matrices = encoding("FP15").decode(inputs.numpy()[..., None])
    expected = TASKS["eigenvectors"].components(matrices)
    np.testing.assert_allclose(components.numpy(), expected, atol=1e-5)
    assert len(Batches(tiny(components=0.0), encoding("FP15"))[3]) == 2


def test_targets_of_rounded_singular_matrices():
    """Among 300,000 2x2 matrices a few are singular after rounding; none may stop a training."""
    batches = Batches(PRESETS["inversion-2x2"].changed(batch=2048), encoding("FP15"))
    for number in range(3):
        _, targets, *_ = batches.draw(number)
        values = encoding("FP15").decode(targets.numpy())
        assert np.isfinite(values).all() and np.abs(values).max() < 1e8


def test_unknown_run_names_the_near_ones():
    with pytest.raises(ValueError, match="eigenvectors-3x3"):
        load_run("eigenvector-3x3")
    with pytest.raises(runs.RunError, match="not a folder"):
        load_run("no/such/folder")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(runs, "write_atomically", refuse)
    with pytest.raises(runs.RunError, match="cannot write into.*Permission denied.*--out"):
        train(tiny(), tmp_path / "run")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    runs.write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_budget_in_minutes_ends_in_time(tmp_path):
    config = PRESETS["eigenvalues-3x3-laplace"].changed(minutes=0.05, **TINY)
    assert train(config, tmp_path / "run") == 0
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert 3 <= log.seconds.iloc[-1] < 4
    assert log.learning_rate.iloc[-1] < 1e-6


def test_a_second_leg_goes_on_from_the_published_weights(copy):
    first = load_run(copy)
    log = first.log
    (copy / "checkpoint.safetensors").unlink()  # as in a clone
    assert train(tiny(320, decay=0.2), copy, extend=True) == 0
    run = load_run(copy)
    assert run.info["finished"] and run.info["steps"] == 60 and run.info["examples"] == 960
    assert [leg["steps"] for leg in run.info["legs"]] == [40]
    assert run.info["legs"][0]["config"] == first.config.to_json()
    assert run.info["seconds"] > first.info["seconds"]
    pd.testing.assert_frame_equal(run.log[: len(log)], log, check_dtype=False)
    rates = run.log.learning_rate[len(log) :]
    assert rates.iloc[0] < rates.max() and rates.iloc[-1] == 0  # a warm-up and a decay of its own
    assert run.log.loss.iloc[-1] < log.loss.iloc[-1]
    before = (copy / "model.safetensors").read_bytes()
    assert train(tiny(320, decay=0.2), copy, resume=True) == 0
    assert (copy / "model.safetensors").read_bytes() == before


def test_a_leg_cut_short_is_resumed_exactly(copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")
    config = tiny(320)
    assert train(config, copy, extend=True) == 0
    part = training.Trainer(config, other, compiled=False)
    part.extend(runs.read_info(other))
    for _ in range(7):
        part.train_step()
    part.save()
    with pytest.raises(runs.RunError, match="examples: 320, now 640"):
        train(tiny(640), other, resume=True)
    assert train(config, other, extend=True) == 0  # the leg that was begun, not a third one
    assert load_run(other).info["steps"] == 60
    assert (other / "model.safetensors").read_bytes() == (copy / "model.safetensors").read_bytes()


def test_a_leg_of_another_model_is_refused(copy):
    for options, message in (({"width": 32}, "another model"), ({"preset": "eigenvalues-3x3-laplace"}, "another task")):
        with pytest.raises(runs.RunError, match=message):
            train(
                tiny(**{"examples": 320, **options}) if "preset" in options else tiny(320).changed(**options),
                copy,
                extend=True,
            )


def test_a_cut_run_without_its_checkpoint_is_never_trained_over(copy):
    (copy / "checkpoint.safetensors").unlink()
    info = runs.read_info(copy) | {"finished": False}
    (copy / "run.json").write_text(runs.seal(info))
    before = (copy / "model.safetensors").read_bytes()
    with pytest.raises(runs.RunError, match="--extend"):
        train(tiny(), copy, resume=True)
    assert (copy / "model.safetensors").read_bytes() == before
    assert train(tiny(64), copy, extend=True) == 0


def test_a_run_can_start_from_another_size(trained, tmp_path):
    config = PRESETS["eigenvectors-3x3"].changed(size=4, examples=64, start=str(trained), **TINY)
    trainer = training.Trainer(config, tmp_path, compiled=False)
    trainer.start_from(config.start)
    assert torch.equal(weights(trainer), torch.cat([p.flatten() for p in load_run(trained).model.parameters()]))
    assert train(config, tmp_path / "larger") == 0
    assert load_run(tmp_path / "larger").config.start == str(trained)
    with pytest.raises(ValueError, match="do not fit"):
        train(config.changed(width=32), tmp_path / "wider")


def test_a_run_with_components_can_start_from_one_without(tmp_path):
    train(tiny(64, components=0.0), tmp_path / "without")
    config = tiny(64, start=str(tmp_path / "without"))
    trainer = training.Trainer(config, tmp_path, compiled=False)
    untrained = trainer.model.components.weight.clone()
    trainer.start_from(config.start)
    stored = load_run(tmp_path / "without").model
    assert torch.equal(trainer.model.encoder[0].feedforward.hidden.weight, stored.encoder[0].feedforward.hidden.weight)
    assert torch.equal(trainer.model.components.weight, untrained)


def test_two_trainings_cannot_share_a_folder(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with runs.lock(copy):
        for options in ({"resume": True}, {"force": True}):
            with pytest.raises(runs.RunError, match="another process"):
                train(tiny(), copy, **options)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert train(tiny(), copy, resume=True) == 0
