"""The training loop: fresh examples at every step, phase by phase, saved so that nothing is lost.

The examples of a step depend on the seed and the step alone, and nothing else is random after the weights are
initialised: a training that is cut and resumed on the same machine, with the same threads and precision, ends with
the same bits, provided that its budgets are in examples (one in minutes decays the learning rate by the clock).
Several processes can train one model together: they share each step's examples, so another number of them may resume.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..data.tasks import get_task
from ..files import FileError
from ..interrupts import Interrupted, Signals
from ..model.transformer import Transformer
from . import runs
from .batches import Batches
from .compiling import compiled as compiled_model
from .compiling import uses_bfloat16
from .config import Config, Phase
from .distributed import Group
from .optimizers import make_optimizers
from .progress import Progress

BAR = "{percentage:5.1f} % |{bar}| {elapsed} < {remaining} {postfix}"

log = logging.getLogger("mathtransformer")


class Trainer:
    """One training: model, optimizers, data and counters, and how they are saved and restored."""

    # What a checkpoint holds besides tensors. phase: the number of the current one. began: step, examples and seconds
    # when it began. warm: step and progress when its warm-up began. restarts: where the training went on from
    # published weights.
    STATE = ("step", "examples", "seconds", "phase", "began", "warm", "restarts", "bfloat16")
    LOG_STATE = ("rows", "losses", "due", "seconds")

    def __init__(self, config: Config, folder: Path, *, group: Group | None = None, compiled: bool = True):
        torch.manual_seed(config.seed)
        self.config, self.folder, self.group, self.compiled = config, folder, group or Group(), compiled
        self.device = torch.device(self.group.device)
        self.model = Transformer(get_task(config.task), config.size, config.model).to(self.device)
        for phase in config.phases:
            self.group.share(phase.batch)
        self.log = Progress(self.model, config.spectrum, config.entries)
        self.step, self.examples, self.seconds, self.restarts = 0, 0, 0.0, []
        self.saved: int | None = None  # the step of the latest checkpoint
        # All processes in the same precision: single, if one of them is not faster in bfloat16.
        self.bfloat16 = not self.group.largest(not uses_bfloat16(config.training.precision, self.device))[0]
        self.optimizers = make_optimizers(self.model, config.training, self.bfloat16)
        self.loss_function = None if compiled else self.group.wrap(self.model)  # see `compile`
        self.begin_phase(0)

    def begin_phase(self, number: int) -> None:
        self.phase, self.log.due = number, 0
        self.began = {"step": self.step, "examples": self.examples, "seconds": self.seconds}
        self.warm = {"step": self.step, "progress": 0.0}
        self.batches = self.make_batches()

    def make_batches(self) -> Batches:
        batch = self.current.batch
        return Batches(self.model, self.config, batch, self.group.share(batch))

    @property
    def current(self) -> Phase:
        return self.config.phases[min(self.phase, len(self.config.phases) - 1)]

    @property
    def finished(self) -> bool:
        return self.phase == len(self.config.phases)

    @property
    def progress(self) -> float:
        """Share of the phase's budget that is spent."""
        return self.current.progress(self.examples - self.began["examples"], self.seconds - self.began["seconds"])

    @property
    def share(self) -> float:
        """Share of the training that is done, each phase counting alike."""
        return min((self.phase + min(self.progress, 1) * (not self.finished)) / len(self.config.phases), 1)

    @property
    def learning_rate(self) -> float:
        step, options = self.step - self.warm["step"], self.config.training
        return self.current.rate(step, self.progress, options, self.warm["progress"])

    def compile(self) -> None:
        """Compile on the first batch, in all processes or in none."""
        if self.compiled:
            function = compiled_model(self.model, self.batch(), self.bfloat16)
            self.compiled = not self.group.largest(function is None)[0]
            self.loss_function = self.group.wrap(function if self.compiled else self.model)

    def batch(self) -> list[torch.Tensor]:
        return [part.to(self.device) for part in self.batches[self.step]]

    def train_step(self) -> float:
        """One optimizer step. Raises FloatingPointError, leaving the weights untouched, if loss or gradient is not
        finite."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.loss_function(*self.batch())
        value = self.group.mean(loss.item())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip)
        if not math.isfinite(value) or not torch.isfinite(norm):
            raise FloatingPointError(
                f"loss {value:g}, gradient {norm:g} at step {self.step}, learning rate {self.learning_rate:.3g}: begin "
                f"anew with a lower --learning-rate and another --out, or --force; {self.what_is_saved()}"
            )
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.model.zero_grad()
        self.step, self.examples = self.step + 1, self.examples + self.current.batch
        if self.group.first:
            self.log.losses.append(value)
        return value

    def describe(self) -> str:
        where = f"{torch.get_num_threads()} threads" if self.device.type == "cpu" else str(self.device)
        where += f", {self.group.size} processes" if self.group.size > 1 else ""
        bfloat16, compiled = ("on" if value else "off" for value in (self.bfloat16, self.compiled))
        return f"{self.model.parameter_count():,} parameters, {where}, bfloat16 {bfloat16}, torch.compile {compiled}"

    def evaluate(self) -> None:
        counters = {"step": self.step, "examples": self.examples, "seconds": round(self.seconds, 1)}
        self.log.evaluate(**counters, learning_rate=self.learning_rate)

    def save(self) -> None:
        """The checkpoint, then what others read, so that a crash in between leaves a checkpoint that is as far."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for kind, optimizer in self.optimizers.items():
            for i, values in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{i}.{name}": tensor for name, tensor in values.items()}
        state = {name: getattr(self, name) for name in self.STATE}
        state |= {"log": {name: getattr(self.log, name) for name in self.LOG_STATE}}
        runs.save_checkpoint(self.folder, tensors, {"config": self.config.to_json(), **state})
        self.saved = self.step
        self.publish()

    def save_if_possible(self) -> None:
        """A full disk in mid-training is no reason to lose what is being learned: say so, and try again later."""
        try:
            self.save()
        except OSError as error:
            told = f"could not save at step {self.step} ({error.strerror}): training goes on; {self.what_is_saved()}"
            log.warning(told)

    def what_is_saved(self) -> str:
        return "nothing is saved yet" if self.saved is None else f"the checkpoint of step {self.saved} is intact"

    def publish(self) -> None:
        info = {
            "config": self.config.to_json(),
            "finished": self.finished,
            "steps": self.step,
            "examples": self.examples,
            "seconds": round(self.seconds, 1),
            "phase": self.phase,
            "began": self.began,
            "restarts": self.restarts,
            "threads": torch.get_num_threads(),
            "processes": self.group.size,
            "device": self.device.type,
            "bfloat16": self.bfloat16,
            "compiled": self.compiled,
            "parameters": self.model.parameter_count(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "last": self.log.rows[-1],
        }
        runs.publish(self.folder, self.model, pd.DataFrame(self.log.rows), info)

    def restore(self) -> None:
        """Go on from the checkpoint."""
        tensors, state = runs.load_checkpoint(self.folder)
        runs.check_same(self.folder, state["config"], self.config)
        self.model.load_state_dict({name[6:]: part for name, part in tensors.items() if name.startswith("model.")})
        for kind, optimizer in self.optimizers.items():
            values: dict = {}
            for name, tensor in tensors.items():
                if name.startswith(f"{kind}."):
                    _, i, key = name.split(".")
                    values.setdefault(int(i), {})[key] = tensor
            optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
        if state["bfloat16"] != self.bfloat16:
            old, new = (("single precision", "bfloat16")[used] for used in (state["bfloat16"], self.bfloat16))
            log.warning("%s was begun in %s, goes on in %s: not with the same bits", self.folder, old, new)
        for name in set(self.STATE) - {"bfloat16"}:
            setattr(self, name, state[name])
        for name in self.LOG_STATE:
            setattr(self.log, name, state["log"][name])
        self.saved, self.batches = self.step, self.make_batches()

    def restart(self) -> None:
        """Go on from published weights, at their place in the phases: new optimizer state, a new warm-up."""
        run = runs.load_run(self.folder)
        runs.check_same(self.folder, run.config, self.config)
        self.model.load_state_dict(run.model.state_dict())
        self.step, self.examples, self.seconds = (run.info[name] for name in ("steps", "examples", "seconds"))
        self.phase, self.began, self.log.rows = run.info["phase"], run.info["began"], run.log.to_dict("records")
        self.warm = {"step": self.step, "progress": self.progress}
        self.log.skip_to(self.progress)
        self.restarts = [*run.info["restarts"], {"step": self.step, "from": "published weights, in half precision"}]
        self.batches = self.make_batches()
        log.warning("%s: no checkpoint here, going on from the weights of step %d", self.folder, self.step)

    def start_from(self, name: str) -> None:
        """Begin with the weights of another run, whose size and task may differ if positions="row-column".

        A run that was not taught components has no weights to show them: those begin as they are.
        """
        weights = runs.load_run(name).model.state_dict()
        own = {key: tensor for key, tensor in self.model.state_dict().items() if key.startswith("components.")}
        try:
            self.model.load_state_dict({**own, **weights})
        except RuntimeError as error:
            raise ValueError(f"the weights of {name} do not fit: {str(error).splitlines()[1].strip()}") from None

    def run(self, save_every: float, show: bool) -> int:
        """Train to the end of the last phase, or until SIGTERM or Ctrl-C. Returns 0, or 128 + the signal's number."""
        first = self.group.first
        with Signals() as signals:
            try:
                with signals.at_once():
                    self.compile()
                    if first:
                        self.log.fit_to(self.current.minutes)
                        log.info("%s: %s", self.folder.name, self.describe())
            except Interrupted as stop:
                log.info("%s: %s before it began", self.folder.name, stop)
                return stop.status
            bar = tqdm(total=100, unit="%", disable=not (show and first), bar_format=BAR, initial=100 * self.share)
            last_save = time.monotonic()
            while not (received := self.agree(signals.received)) and not self.finished:
                total = self.seconds / self.share if self.share else 0.0
                if first and self.log.is_due(self.progress, total) and not self.evaluated(signals):
                    continue
                begun = time.perf_counter()
                loss = self.train_step()
                self.seconds += time.perf_counter() - begun
                if self.step % 20 == 0:
                    bar.n = 100 * self.share
                    bar.set_postfix_str(f"loss {loss:.3f}, {self.examples / self.seconds:,.0f} examples/s")
                if first and time.monotonic() - last_save > save_every:
                    self.save_if_possible()
                    last_save = time.monotonic()
            bar.close()
            if first and self.log.rows:
                self.end(signals)
            if received := received or signals.received:
                log.info("%s: stopped at step %d; %s", self.folder.name, self.step, self.what_is_saved())
            return 128 + received if received else 0

    def evaluated(self, signals: Signals) -> bool:
        """Evaluate, unless a signal cuts it short."""
        try:
            with signals.at_once():
                self.evaluate()
            return True
        except Interrupted:
            return False

    def agree(self, received: int) -> int:
        """Take over the first process's clock, and with it the end of a phase; returns the signal that any of the
        processes has received, or 0."""
        self.seconds, received = self.group.largest(self.seconds if self.group.first else 0.0, received)
        if not self.finished and self.progress >= 1:
            if self.phase + 1 < len(self.config.phases):
                self.begin_phase(self.phase + 1)
            else:
                self.phase += 1
        return int(received)

    def end(self, signals: Signals) -> None:
        if self.finished and self.log.rows[-1]["step"] != self.step and not self.evaluated(signals):
            self.phase -= 1  # to be evaluated when the same command is given again
        try:
            self.save()
            if self.finished:
                (self.folder / runs.CHECKPOINT).unlink(missing_ok=True)
        except OSError as error:
            raise FileError(
                f"cannot write into {self.folder}: {error.strerror}; mend that, then give the same command again "
                f"({self.what_is_saved()})"
            ) from None
