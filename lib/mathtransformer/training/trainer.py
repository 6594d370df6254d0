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
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..data.tasks import get_task
from ..files import FileError
from ..interrupts import Interrupted, Signals
from ..model.transformer import Transformer
from . import checkpoints, runs
from .batches import Batches
from .compiling import compiled as compiled_model
from .compiling import uses_bfloat16
from .config import Config, Phase
from .distributed import Group
from .optimizers import make_optimizers
from .progress import Progress, passed

BAR = "{percentage:5.1f} % |{bar}| {elapsed} < {remaining} {postfix}"

log = logging.getLogger("mathtransformer")


class Trainer:
    """One training: model, optimizers, data and counters, and how they are saved and restored."""

    # Where a training is, besides its step. phase: the number of the current one. began: step, examples and seconds
    # when it began. warm: step and progress when its warm-up began. restarts: where published weights were taken up.
    PLACE = ("examples", "seconds", "phase", "began", "warm", "restarts")

    def __init__(self, config: Config, folder: Path, *, group: Group | None = None, compiled: bool = True):
        torch.manual_seed(config.seed)
        self.config, self.folder, self.group, self.compiled = config, folder, group or Group(), compiled
        self.device = torch.device(self.group.device)
        self.model = Transformer(get_task(config.task), config.size, config.model).to(self.device)
        for phase in config.phases:
            self.group.share(phase.batch)
        self.log = Progress(self.model, config.spectrum, config.entries)
        self.step, self.examples, self.seconds, self.restarts = 0, 0, 0.0, []
        self.saved = "nothing is saved yet"
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
                f"anew with a lower --learning-rate (of each --phase), and another --out, or --force; {self.saved}"
            )
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.model.zero_grad()
        self.step, self.examples = self.step + 1, self.examples + self.current.batch
        if self.group.first:
            self.log.losses.append(value)
        return value

    def facts(self) -> dict:
        """How a training is done here, for its first line and run.json."""
        return {
            "parameters": self.model.parameter_count(),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "processes": self.group.size,
            "bfloat16": self.bfloat16,
            "compiled": self.compiled,
        }

    def evaluate(self) -> None:
        counters = {"step": self.step, "examples": self.examples, "seconds": round(self.seconds, 1)}
        self.log.evaluate(self.progress, **counters, learning_rate=self.learning_rate)

    def save(self, last: bool = True) -> None:
        """The checkpoint, then what others read, so that a crash in between leaves a checkpoint that is as far.

        FileError if that cannot be written; before the last time that is no reason to lose what is being learned: say
        so, and try again later.
        """
        try:
            self.save_checkpoint()
            self.saved = f"the checkpoint of step {self.step} is intact"
            self.publish()
        except OSError as error:
            told = f"could not save at step {self.step} ({error.strerror}): {self.saved}"
            if last:
                raise FileError(f"{self.folder}: {told}; mend that, then give the same command again") from None
            log.warning("%s; training goes on", told)

    def place(self) -> dict:
        return {name: getattr(self, name) for name in self.PLACE}

    def save_checkpoint(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for kind, optimizer in self.optimizers.items():
            for i, values in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{i}.{name}": tensor for name, tensor in values.items()}
        progress = {name: getattr(self.log, name) for name in ("rows", "losses", "due", "seconds")}
        state = {"config": self.config.to_json(), "step": self.step, "bfloat16": self.bfloat16, "log": progress}
        checkpoints.save(self.folder, tensors, state | self.place())

    def publish(self) -> None:
        info = {"config": self.config.to_json(), "finished": self.finished, "steps": self.step}
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        info |= self.place() | self.facts() | {"versions": versions, "last": self.log.rows[-1]}
        runs.publish(self.folder, self.model, pd.DataFrame(self.log.rows), info)

    def restore(self, tensors: dict[str, torch.Tensor], state: dict) -> None:
        """Go on from what `checkpoints.begun` found: bit for bit from a checkpoint; from published weights at their
        place in the phases, with new optimizer state and a new warm-up."""
        parts: dict[str, dict] = {kind: {} for kind in ("model", *self.optimizers)}
        for name, tensor in tensors.items():
            kind, _, key = name.partition(".")
            parts[kind][key] = tensor
        self.model.load_state_dict(parts["model"])
        for name in ("step", *self.PLACE):
            setattr(self, name, state.get(name))
        for name, value in state["log"].items():
            setattr(self.log, name, value)
        self.batches = self.make_batches()
        if "finished" not in state:
            self.restore_optimizers(parts, state["bfloat16"])
        else:  # published
            self.warm = {"step": self.step, "progress": self.progress}
            self.log.due = passed(self.progress)
            self.restarts = [*self.restarts, {"step": self.step, "from": "published weights, in half precision"}]
            log.warning("%s: no checkpoint here, going on from the weights of step %d", self.folder, self.step)

    def restore_optimizers(self, parts: dict[str, dict[str, torch.Tensor]], bfloat16: bool) -> None:
        for kind, optimizer in self.optimizers.items():
            values: dict[int, dict] = {}
            for name, tensor in parts[kind].items():
                i, _, key = name.partition(".")
                values.setdefault(int(i), {})[key] = tensor
            optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
        self.saved = f"the checkpoint of step {self.step} is intact"
        if bfloat16 != self.bfloat16:
            old, new = (("single precision", "bfloat16")[used] for used in (bfloat16, self.bfloat16))
            log.warning("%s was begun in %s, goes on in %s: not with the same bits", self.folder, old, new)

    def start_from(self, name: str) -> None:
        """Begin with the weights of another run, whose size and task may differ if positions="row-column".

        What that run may lack begins as it is: weights that show components, and with block="pre-norm" further layers,
        which change nothing at first.
        """
        run = runs.load_run(name)
        if run.config.model.query_key_norm != self.config.model.query_key_norm:
            raise ValueError(
                f"the weights of {name} do not fit: query_key_norm={run.config.model.query_key_norm} there"
            )
        weights, begun = run.model.state_dict(), self.model.state_dict().items()
        layers = ("encoder.", "decoder.") if self.config.model.block == "pre-norm" else ()
        own = {key: tensor for key, tensor in begun if key.startswith(("components.", *layers))}
        try:
            self.model.load_state_dict({**own, **weights})
        except RuntimeError as error:
            raise ValueError(f"the weights of {name} do not fit: {str(error).splitlines()[1].strip()}") from None

    def run(self, save_every: float, show: bool) -> int:
        """Train to the end of the last phase, or until SIGTERM or Ctrl-C. Returns 0, or 128 + the signal's number."""
        first, name = self.group.first, self.folder.name
        with Signals() as signals:
            try:
                with signals.at_once():
                    self.compile()
                    if first:
                        self.log.fit_to(self.current.minutes)
            except Interrupted as stop:
                log.info("%s: %s before it began", name, stop)
                return stop.status
            if first:
                log.info("%s: %s", name, ", ".join(f"{fact} {value}" for fact, value in self.facts().items()))
            with tqdm(total=100, disable=not (show and first), bar_format=BAR) as bar:
                received = self.loop(signals, save_every, bar)
            if first and self.log.rows:
                self.save()
                if self.finished:
                    (self.folder / checkpoints.CHECKPOINT).unlink(missing_ok=True)
            if received:
                log.info("%s: stopped at step %d; %s", name, self.step, self.saved)
            return 128 + received if received else 0

    def loop(self, signals: Signals, save_every: float, bar: tqdm) -> int:
        """Train to the end, or until any of the processes receives a signal; returns that, or 0."""
        last_save = time.monotonic()
        while not self.finished:
            if self.group.first and self.log.is_due(self.progress, self.seconds):
                with suppress(Interrupted), signals.at_once():
                    self.evaluate()
            # The clock, and with it the end of a phase, is the first process's.
            self.seconds, received = self.group.largest(self.seconds * self.group.first, signals.received)
            if received:
                return int(received)
            if self.progress >= 1:
                self.phase += 1
                if not self.finished:
                    self.begin_phase(self.phase)
                continue
            begun = time.perf_counter()
            loss = self.train_step()
            self.seconds += time.perf_counter() - begun
            if self.step % 20 == 0:
                bar.n = 100 * (self.phase + min(self.progress, 1)) / len(self.config.phases)
                bar.set_postfix_str(f"loss {loss:.3f}, {self.examples / self.seconds:,.0f} examples/s")
            if self.group.first and time.monotonic() - last_save > save_every:
                self.save(last=False)
                last_save = time.monotonic()
        return 0
