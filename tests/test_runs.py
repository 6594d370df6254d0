"""Training and its folders: resuming, refusing, and never losing what was there."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from mathtransformer import files, load_run, sample
from mathtransformer.data.encodings import encoding
from mathtransformer.data.tasks import TASKS
from mathtransformer.files import FileError
from mathtransformer.interrupts import Interrupted
from mathtransformer.model.transformer import Transformer
from mathtransformer.training import begin, compiling, progress, runs, trainer
from mathtransformer.training.batches import Batches
from mathtransformer.training.config import Config, Phase
from mathtransformer.training.presets import PRESETS
from mathtransformer.training.trainer import Trainer

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "components": 5.0, "optimizer": "muon", "precision": "float32"}
BATCH = 16


def tiny(examples=640, preset="eigenvectors-3x3", **options) -> Config:
    return PRESETS[preset].config.changed(**{"examples": examples, "batch": BATCH, **TINY, **options})


def train(config, folder, **options):
    return begin.train(config, folder, compiled=False, show=False, threads=1, device="cpu", **options)


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
    assert sorted(path.name for path in trained.iterdir()) == sorted([*runs.PUBLISHED, files.SUMS, files.LOCK])
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
    with pytest.raises(FileError, match="seed: 0, now 1.*--out.*--force"):
        train(tiny(seed=1), copy)
    assert (copy / "model.safetensors").read_bytes() == before
    assert train(tiny(seed=1), copy, force=True) == 0
    assert (copy / "model.safetensors").read_bytes() != before


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_resuming_is_exact(tmp_path):
    torch.set_num_threads(1)
    whole = Trainer(tiny(), tmp_path, compiled=False)
    for _ in range(12):
        whole.train_step()
    half = Trainer(tiny(), tmp_path, compiled=False)
    for _ in range(5):
        half.train_step()
    half.evaluate()
    half.save()
    rest = Trainer(tiny(), tmp_path, compiled=False)
    rest.restore()
    assert rest.log.rows == half.log.rows
    for _ in range(7):
        rest.train_step()
    assert torch.equal(weights(rest), weights(whole))
    assert rest.log.losses == whole.log.losses[5:]


def test_resuming_in_another_precision_is_said(tmp_path, caplog):
    begun = Trainer(tiny(precision="float32"), tmp_path, compiled=False)
    begun.evaluate()
    begun.save()
    for bfloat16, warned in ((False, False), (True, True)):
        rest = Trainer(tiny(precision="float32"), tmp_path, compiled=False)
        rest.bfloat16 = bfloat16  # as if measured on another processor
        rest.restore()
        assert ("begun in single precision, goes on in bfloat16" in caplog.text) is warned


def test_a_finished_run_is_left_alone(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert train(tiny(), copy) == 0
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_going_on_with_other_options_is_refused(copy, tmp_path):
    begun = Trainer(tiny(), tmp_path, compiled=False)
    begun.evaluate()
    begun.save()
    for folder in (copy, tmp_path):  # finished, then cut short
        for options, told in (({"seed": 1}, "seed: 0, now 1"), ({"examples": 320}, "phases: '640 examples.*now '320")):
            with pytest.raises(FileError, match=told):
                train(tiny(**options), folder)


def test_bfloat16_is_used_where_it_is_faster(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for speed, used in ((4.0, True), (1.2, False), (0.5, False)):
        seconds = {torch.bfloat16: 1 / speed, torch.float32: 1.0}
        monkeypatch.setattr(compiling, "product_seconds", seconds.get)
        compiling.bfloat16_is_fast.cache_clear()
        assert compiling.uses_bfloat16("auto", cpu) is used
        assert compiling.uses_bfloat16("auto", cuda) and not compiling.uses_bfloat16("float32", cuda)
        assert compiling.uses_bfloat16("bfloat16", cpu)
    compiling.bfloat16_is_fast.cache_clear()


def batches(batch=16, config=None, **options):
    config = config or tiny()
    return Batches(Transformer(TASKS[config.task], config.size, config.model), batch, **options)


def test_examples_depend_on_seed_and_step_only():
    first, second = (batches() for _ in range(2))
    later = [first[step] for step in (0, 63, 64, 200)]
    for expected, step in zip(reversed(later), (200, 64, 63, 0)):
        assert all(torch.equal(a, b) for a, b in zip(expected, second[step]))
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(batches(seed=1)[0][0], first[0][0])


def test_components_are_those_of_the_inputs():
    inputs, _, components = batches()[3]
    matrices = encoding("FP15").decode(inputs.numpy()[..., None])
    expected = TASKS["eigenvectors"].components(matrices)
    np.testing.assert_allclose(components.numpy(), expected, atol=1e-5)
    assert len(batches(config=tiny(components=0.0))[3]) == 2


def test_targets_of_rounded_singular_matrices():
    """Among 300,000 2x2 matrices a few are singular after rounding; none may stop a training."""
    examples = batches(2048, PRESETS["inversion-2x2"].config)
    for number in range(3):
        _, targets, *_ = examples.draw(number)
        values = encoding("FP15").decode(targets.numpy())
        assert np.isfinite(values).all() and np.abs(values).max() < 1e8


def test_unknown_run_names_the_near_ones():
    with pytest.raises(ValueError, match="eigenvectors-3x3"):
        load_run("eigenvector-3x3")
    with pytest.raises(FileError, match="not a folder"):
        load_run("no/such/folder")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(contents):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "write", refuse)
    with pytest.raises(FileError, match="cannot write into.*Permission denied.*--out"):
        train(tiny(), tmp_path / "run")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write({path: b"old"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write({path: b"new"})
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_budget_in_minutes_ends_in_time(tmp_path):
    config = PRESETS["eigenvalues-3x3-laplace"].config.changed(minutes=0.05, batch=BATCH, **TINY)
    assert train(config, tmp_path / "run") == 0
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert 3 <= log.seconds.iloc[-1] < 4
    assert log.learning_rate.iloc[-1] < 1e-6


def test_a_run_can_start_from_another_size(trained, tmp_path):
    config = tiny(64, size=4, start=str(trained))
    larger = Trainer(config, tmp_path, compiled=False)
    larger.start_from(config.start)
    assert torch.equal(weights(larger), torch.cat([p.flatten() for p in load_run(trained).model.parameters()]))
    assert train(config, tmp_path / "larger") == 0
    assert load_run(tmp_path / "larger").config.start == str(trained)
    with pytest.raises(ValueError, match="do not fit"):
        train(config.changed(width=32), tmp_path / "wider")


def test_a_run_with_components_can_start_from_one_without(tmp_path):
    train(tiny(64, components=0.0), tmp_path / "without")
    config = tiny(64, start=str(tmp_path / "without"))
    begun = Trainer(config, tmp_path, compiled=False)
    untrained = begun.model.components.weight.clone()
    begun.start_from(config.start)
    stored = load_run(tmp_path / "without").model
    assert torch.equal(begun.model.encoder[0].feedforward.hidden.weight, stored.encoder[0].feedforward.hidden.weight)
    assert torch.equal(begun.model.components.weight, untrained)


def test_two_trainings_cannot_share_a_folder(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with files.lock(copy):
        for options in ({}, {"force": True}):
            with pytest.raises(FileError, match="another process"):
                train(tiny(), copy, **options)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert train(tiny(), copy) == 0


def test_phases_have_their_own_budget_batch_and_rate(tmp_path):
    """Cut in the second phase and given again, a training ends with the same bits."""
    second = {"examples": 256, "batch": 32, "learning_rate": 1e-3, "decay": 1.0}
    config = tiny(phases=(Phase(320, batch=16), Phase(**second)))
    assert train(config, tmp_path / "whole") == 0
    run = load_run(tmp_path / "whole")
    assert run.info["steps"] == 20 + 8 and run.info["examples"] == 576
    rates = run.log.set_index("examples").learning_rate
    assert rates[320] < rates[rates.index > 320].max() < 1.05e-3 and rates[576] == 0
    part = Trainer(config, tmp_path / "part", compiled=False)
    (tmp_path / "part").mkdir()
    for _ in range(23):
        part.agree(0)
        part.log.is_due(part.progress, 1e9) and part.evaluate()
        part.train_step()
    assert part.phase == 1 and part.current.batch == 32
    part.save()
    assert train(config, tmp_path / "part") == 0
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part"))
    assert one == other


def cut(folder, steps=20):
    """A run whose training was cut after some steps."""
    begun = Trainer(tiny(), folder, compiled=False)
    folder.mkdir()
    begun.evaluate()
    for _ in range(steps):
        begun.train_step()
    begun.evaluate()
    begun.save()
    return folder


def test_published_weights_go_on_at_their_place(tmp_path, caplog):
    folder = cut(tmp_path / "run")
    (folder / runs.CHECKPOINT).unlink()  # as on another machine
    begun = Trainer(tiny(), folder, compiled=False)
    begun.restart()
    assert begun.step == 20 and begun.progress == pytest.approx(0.5)
    assert begun.learning_rate == pytest.approx(2e-3 / 200)  # a warm-up of its own
    assert train(tiny(), folder) == 0 and "going on from the weights of step 20" in caplog.text
    info = load_run(folder).info
    assert info["steps"] == 40 and info["finished"]
    assert info["restarts"] == [{"step": 20, "from": "published weights, in half precision"}]


def test_the_further_of_checkpoint_and_published_counts(tmp_path):
    """A newer run may come with `git pull`, while an older checkpoint is still here."""
    old, new = cut(tmp_path / "old", 10), cut(tmp_path / "new", 20)
    assert runs.begun(new) == "checkpoint"
    for name in (*runs.PUBLISHED, files.SUMS):
        shutil.copy(new / name, old / name)
    assert runs.begun(old) == "published"
    assert train(tiny(), old) == 0 and load_run(old).info["restarts"][0]["step"] == 20


def test_a_gradient_that_is_not_finite_leaves_the_weights(tmp_path):
    begun = Trainer(tiny(), tmp_path, compiled=False)
    begun.train_step()
    before = weights(begun).clone()
    loss = begun.loss_function

    def spoiled(*batch):  # finite, with an infinite gradient
        value = loss(*batch)
        return value + (value - value.detach()).clamp(min=0).sqrt()

    begun.loss_function = spoiled
    with pytest.raises(FloatingPointError, match="gradient (nan|inf) at step 1.*nothing is saved yet"):
        begun.train_step()
    assert torch.equal(weights(begun), before) and begun.step == 1


def test_sha256sums_are_those_of_the_program(trained):
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("there is no program sha256sum here")
    checked = subprocess.run([program, "-c", files.SUMS], cwd=trained, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count(": OK") == 3


def test_evaluations_keep_to_the_budget(tmp_path, monkeypatch):
    """Where one would take longer than the training, it takes fewer problems, and few are made."""
    judge, asked = progress.judge, []

    def slow(model, inputs, targets):
        asked.append(len(inputs))
        time.sleep(0.002 * len(inputs))
        return judge(model, inputs, targets)

    monkeypatch.setattr(progress, "judge", slow)
    monkeypatch.setattr(progress, "FREE", 0.0)
    begun = time.monotonic()
    config = tiny().changed(minutes=0.05, batch=BATCH)
    assert train(config, tmp_path / "run") == 0
    assert time.monotonic() - begun < 3 * 3 and set(asked) == {50}
    assert load_run(tmp_path / "run").log.problems.eq(50).all()


@pytest.mark.parametrize("work", ["compile", "judge"])
def test_a_signal_ends_what_may_be_dropped_at_once(tmp_path, monkeypatch, work):
    def endless(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = time.monotonic()
    if work == "compile":
        monkeypatch.setattr(trainer, "compiled_model", endless)
        assert begin.train(tiny(), tmp_path, show=False, threads=1, device="cpu") == 128 + signal.SIGTERM
    else:
        folder = cut(tmp_path / "run")
        monkeypatch.setattr(Trainer, "evaluate", endless)
        monkeypatch.setattr(progress.Progress, "fit_to", lambda *_: None)
        assert train(tiny(), folder) == 128 + signal.SIGTERM
        assert load_run(folder).info["steps"] >= 20 and runs.begun(folder) == "checkpoint"
    assert time.monotonic() - before < 20


def test_a_compiler_that_fails_is_told_by_its_last_line(caplog, monkeypatch):
    def failing(model):
        raise RuntimeError("command line\nx.cpp:1: fatal error: no such file\n249 more lines")

    monkeypatch.setattr(compiling.torch, "compile", failing)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: "/usr/bin/g++")
    model = torch.nn.Linear(1, 1)
    assert compiling.compiled(model, [torch.zeros(1)], False) is None
    assert "torch.compile failed (RuntimeError: x.cpp:1: fatal error: no such file)" in caplog.text
    monkeypatch.setattr(compiling.torch, "compile", lambda model: (_ for _ in ()).throw(Interrupted(15)))
    with pytest.raises(Interrupted):
        compiling.compiled(model, [torch.zeros(1)], False)


def test_stored_runs_are_found_before_folders_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eigenvectors-3x3").mkdir()
    assert runs.find("eigenvectors-3x3") == runs.RUNS / "eigenvectors-3x3"
    with pytest.raises(FileError, match="this is not a run"):
        load_run("./eigenvectors-3x3")


def test_the_home_of_the_data_can_be_chosen(tmp_path):
    words = [sys.executable, "-c", "from mathtransformer import paths; print(paths.RUNS)"]
    told = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "MATHTRANSFORMER_HOME": str(tmp_path)}
    )
    assert told.stdout.strip() == str(tmp_path.resolve() / "data" / "runs")
