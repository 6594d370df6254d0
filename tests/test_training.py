"""The training itself: examples, steps, phases, precision, and how it ends."""

import os
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from faults import after_steps
from small import BATCH, TINY, cut, tiny, train, weights

from mathtransformer import load_run
from mathtransformer.data.encodings import encoding
from mathtransformer.data.matrices import SPECTRA
from mathtransformer.data.tasks import TASKS
from mathtransformer.interrupts import Interrupted
from mathtransformer.model.transformer import Transformer
from mathtransformer.training import begin, checkpoints, compiling, progress, trainer
from mathtransformer.training.batches import Batches
from mathtransformer.training.config import Phase
from mathtransformer.training.presets import PRESETS
from mathtransformer.training.trainer import Trainer


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
    rest.restore(*checkpoints.begun(tmp_path))
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
        rest.restore(*checkpoints.begun(tmp_path))
        assert ("begun in single precision, goes on in bfloat16" in caplog.text) is warned


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
    config = (config or tiny()).changed(**options)
    return Batches(Transformer(TASKS[config.task], config.size, config.model), config, batch)


def test_examples_depend_on_seed_and_step_only():
    first, second = (batches() for _ in range(2))
    later = [first[step] for step in (0, 63, 64, 200)]
    for expected, step in zip(reversed(later), (200, 64, 63, 0)):
        assert all(torch.equal(a, b) for a, b in zip(expected, second[step]))
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(batches(seed=1)[0][0], first[0][0])


def test_components_are_those_of_the_inputs():
    inputs, _, components = batches()[3]
    matrices = encoding("FP15").decode(inputs.numpy())
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


def test_a_budget_in_minutes_ends_in_time(tmp_path):
    config = PRESETS["eigenvalues-3x3-laplace"].config.changed(minutes=0.05, batch=BATCH, **TINY)
    assert train(config, tmp_path / "run") == 0
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert 3 <= log.seconds.iloc[-1] < 4
    assert log.learning_rate.iloc[-1] < 1e-6


def test_phases_have_their_own_budget_batch_and_rate(tmp_path, monkeypatch):
    """Cut in the second phase and given again, a training ends with the same bits."""
    monkeypatch.setattr(progress, "FREE", 1e9)  # every evaluation, however slow the machine
    second = {"examples": 256, "batch": 32, "learning_rate": 1e-3, "decay": 1.0}
    config = tiny(phases=(Phase(320, batch=16), Phase(**second)))
    assert train(config, tmp_path / "whole") == 0
    run = load_run(tmp_path / "whole")
    assert run.info["steps"] == 20 + 8 and run.info["examples"] == 576
    rates = run.log.set_index("examples").learning_rate
    assert rates[320] < rates[rates.index > 320].max() < 1.05e-3 and rates[576] == 0
    after_steps(monkeypatch, {23: lambda: signal.raise_signal(signal.SIGTERM)})
    assert train(config, tmp_path / "part") == 128 + signal.SIGTERM
    state = checkpoints.begun(tmp_path / "part")[1]
    assert state["step"] == 23 and state["phase"] == 1 and state["began"]["examples"] == 320
    assert train(config, tmp_path / "part") == 0
    assert load_run(tmp_path / "part").log.drop(columns="seconds").equals(run.log.drop(columns="seconds"))
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part"))
    assert one == other


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


def test_evaluations_keep_to_the_budget(tmp_path, monkeypatch):
    """Where one would take longer than the training, it takes fewer problems, and few are made."""
    judge, asked = progress.judge, []

    def slow(model, inputs, targets):
        asked.append(len(inputs))
        time.sleep(0.002 * len(inputs))
        return judge(model, inputs, targets)

    monkeypatch.setattr(progress, "judge", slow)
    monkeypatch.setattr(progress, "FREE", 0.0)
    training = Trainer(tiny().changed(minutes=0.1, batch=BATCH), tmp_path, compiled=False)
    assert training.run(save_every=60, show=False) == 0
    once = training.log.seconds / len(training.log.rows)
    assert once > 0.1 and set(asked) == {50, 50 + len(SPECTRA) * 5}
    # A tenth of the training, and the evaluations at its beginning and end.
    assert training.log.seconds < 0.1 * training.seconds + 3 * once
    assert len(training.log.rows) < 12  # of 28
    assert load_run(tmp_path).log.problems.eq(50).all()


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
        monkeypatch.setattr(progress, "judge", endless)
        assert train(tiny(), folder) == 128 + signal.SIGTERM
        assert load_run(folder).info["steps"] >= 20 and "finished" not in checkpoints.begun(folder)[1]
    assert time.monotonic() - before < 20


def test_a_compiler_that_fails_is_told_by_its_last_line(caplog, monkeypatch):
    def failing(model):
        raise RuntimeError("command line\nx.cpp:1: fatal error: no such file\n249 more lines")

    monkeypatch.setattr(compiling.torch, "compile", failing)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: "/usr/bin/g++")
    model = torch.nn.Linear(1, 1)
    assert compiling.compiled(model, [torch.zeros(1)], False) is None
    assert "torch.compile failed (RuntimeError: x.cpp:1: fatal error: no such file)" in caplog.text
    wrapped = RuntimeError("Error calling __set_name__")
    wrapped.__cause__ = Interrupted(15)
    for stop in (Interrupted(15), wrapped):
        monkeypatch.setattr(compiling.torch, "compile", lambda model: (_ for _ in ()).throw(stop))  # noqa: B023
        with pytest.raises(Interrupted):
            compiling.compiled(model, [torch.zeros(1)], False)


def test_a_training_does_not_pay_for_numbers_next_to_zero(tmp_path, monkeypatch):
    """Half of the time of a 5x5 step went into these. Before and after it they are kept."""
    step, kept = Trainer.train_step, []

    def subnormal():
        return bool((torch.full((8,), 1e-40) * 1.0).gt(0).all()) and np.float64(1e-300) * 1e-20 > 0

    def watched(trainer):
        kept.append(subnormal())
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", watched)
    assert subnormal()
    assert train(tiny(64), tmp_path / "run") == 0
    assert subnormal() and kept and not any(kept)
