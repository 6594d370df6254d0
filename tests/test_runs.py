"""The folders of runs: going on, refusing, and never losing what was there."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from small import cut, tiny, train, weights

from mathtransformer import files, load_run, sample
from mathtransformer.evaluation.answers import answer
from mathtransformer.files import FileError
from mathtransformer.training import checkpoints, progress, runs
from mathtransformer.training.trainer import Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "FREE", 1e9)  # every evaluation, however slow the machine
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


def test_unknown_run_names_the_near_ones():
    with pytest.raises(ValueError, match="eigenvectors-3x3"):
        load_run("eigenvector-3x3")
    with pytest.raises(FileError, match="not a folder"):
        load_run("no/such/folder")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(lock):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
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
    with pytest.raises(OSError, match=re.escape(str(path))):
        files.write({path: b"new"})
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


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


def test_a_deeper_run_starts_as_good_as_the_one_that_it_starts_from(trained, tmp_path):
    stored = load_run(trained)
    config = tiny(64, encoder_layers=3, decoder_layers=2, start=str(trained))
    deeper = Trainer(config, tmp_path, compiled=False)
    deeper.start_from(config.start)
    assert len(deeper.model.encoder) > len(stored.model.encoder)
    assert len(deeper.model.decoder) > len(stored.model.decoder)
    matrices = stored.like_training(50)
    assert np.array_equal(answer(deeper.model.eval(), matrices), stored.predict(matrices, any_scale=False))
    for other in ({"block": "post-norm"}, {"query_key_norm": True}):
        with pytest.raises(ValueError, match="do not fit"):
            train(config.changed(**other), tmp_path / "other-attention")
    assert train(config, tmp_path / "deeper") == 0
    with pytest.raises(ValueError, match="do not fit"):
        train(tiny(64, start=str(tmp_path / "deeper")), tmp_path / "fewer-layers")


def test_two_trainings_cannot_share_a_folder(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with files.lock(copy):
        for options in ({}, {"force": True}):
            with pytest.raises(FileError, match="another process"):
                train(tiny(), copy, **options)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert train(tiny(), copy) == 0


def test_published_weights_go_on_at_their_place(tmp_path, caplog):
    folder = cut(tmp_path / "run")
    (folder / checkpoints.CHECKPOINT).unlink()  # as on another machine
    begun = Trainer(tiny(), folder, compiled=False)
    begun.restore(*checkpoints.begun(folder))
    assert begun.step == 20 and begun.progress == pytest.approx(0.5)
    assert begun.learning_rate == pytest.approx(2e-3 / 200)  # a warm-up of its own
    assert train(tiny(), folder) == 0 and "going on from the weights of step 20" in caplog.text
    info = load_run(folder).info
    assert info["steps"] == 40 and info["finished"]
    assert info["restarts"] == [{"step": 20, "from": "published weights, in half precision"}]


def test_logits_of_mantissas_are_stored_in_single_precision(tmp_path):
    """They grow to thousands, where numbers in half precision are one apart."""
    trainer = Trainer(tiny(), tmp_path, compiled=False)
    logits = trainer.model.writer.head.mantissa
    torch.nn.init.normal_(logits.weight, std=10)
    trainer.log.rows = [{"loss": 1.0}]
    trainer.publish()
    stored = load_run(tmp_path).model.writer.head
    assert torch.equal(stored.mantissa.weight, logits.weight)
    assert torch.equal(stored.hidden.weight, trainer.model.writer.head.hidden.weight.half().float())


def test_the_further_of_checkpoint_and_published_counts(tmp_path):
    """A newer run may come with `git pull`, while an older checkpoint is still here."""
    old, new = cut(tmp_path / "old", 10), cut(tmp_path / "new", 20)
    assert "finished" not in checkpoints.begun(new)[1]
    for name in (*runs.PUBLISHED, files.SUMS):
        shutil.copy(new / name, old / name)
    assert checkpoints.begun(old)[1]["finished"] is False and checkpoints.begun(old)[1]["step"] == 20
    assert train(tiny(), old) == 0 and load_run(old).info["restarts"][0]["step"] == 20


def test_sha256sums_are_those_of_the_program(trained):
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("there is no program sha256sum here")
    checked = subprocess.run([program, "-c", files.SUMS], cwd=trained, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count(": OK") == 3


def test_stored_runs_are_found_before_folders_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eigenvectors-3x3").mkdir()
    assert runs.find("eigenvectors-3x3") == runs.RUNS / "eigenvectors-3x3"
    with pytest.raises(FileError, match="this is not a run"):
        load_run("./eigenvectors-3x3")
    assert runs.find(runs.find("./eigenvectors-3x3")) == tmp_path / "eigenvectors-3x3"  # nor is what was found


def test_the_home_of_the_data_can_be_chosen(tmp_path):
    words = [sys.executable, "-c", "from mathtransformer import paths; print(paths.RUNS)"]
    told = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "MATHTRANSFORMER_HOME": str(tmp_path)}
    )
    assert told.stdout.strip() == str(tmp_path.resolve() / "data" / "runs")


def test_a_library_without_runs_says_where_it_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    with pytest.raises(FileError, match=f"no run 'eigenvectors-3x3': {tmp_path} has none; MATHTRANSFORMER_HOME"):
        load_run("eigenvectors-3x3")
