"""The training loop: fresh examples at every step, on a budget, saved so that nothing is lost.

The examples of a step depend on the seed and the step alone, and nothing else is random after the weights are
initialised: a training that is cut and resumed on the same machine, with the same threads and precision, ends with
the same bits, provided that its budget is in examples (one in minutes decays the learning rate by the clock). Several
processes can train one model together: they share each step's examples, so another number of them may resume it.
"""

from __future__ import annotations

import functools
import logging
import math
import platform
import shutil
import time
import timeit
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from . import runs
from .batches import Batches
from .config import Config, TrainOptions
from .evaluation import judge, test_set
from .metrics import within
from .model import Transformer
from .muon import Muon, layer_matrices
from .processes import Group, Signals

TEST_PROBLEMS = 1000
# Shares of the budget at which the model is evaluated: dense at first, when the properties emerge.
EVALUATIONS = (0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, *np.arange(0.1, 1.0, 0.05).round(2), 1.0)

log = logging.getLogger("mathtransformer")


def product_seconds(dtype: torch.dtype) -> float:
    """Best time of a matrix product of the size that a layer of a training step has."""
    a, b = torch.ones(1024, 128, dtype=dtype), torch.ones(128, 512, dtype=dtype)
    return min(timeit.repeat(lambda: a @ b, number=1, repeat=10))


@functools.cache
def bfloat16_is_fast() -> bool:
    """Measured, since a processor may have bfloat16 and be slower with it: a Xeon took twice as long (LOG.md)."""
    return 1.5 * product_seconds(torch.bfloat16) < product_seconds(torch.float32)


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    return precision == "bfloat16" or (precision == "auto" and (device.type == "cuda" or bfloat16_is_fast()))


def make_optimizers(model: Transformer, training: TrainOptions) -> dict[str, torch.optim.Optimizer]:
    matrices = layer_matrices(model) if training.optimizer == "muon" else []
    rest = [weights for weights in model.parameters() if not any(weights is other for other in matrices)]
    betas = (0.9, training.beta2)
    adamw = torch.optim.AdamW(rest, lr=training.learning_rate, betas=betas, weight_decay=0.0, fused=True)
    return {"optimizer": adamw} | ({"muon": Muon(matrices, lr=training.learning_rate)} if matrices else {})


class Trainer:
    """One training: model, optimizer, data and counters, and how they are saved and restored."""

    def __init__(self, config: Config, folder: Path, *, group: Group | None = None, compiled: bool = True):
        torch.manual_seed(config.seed)
        self.config, self.folder, self.group = config, folder, group or Group()
        self.device = torch.device(self.group.device)
        self.model = Transformer(config.task, config.size, config.model).to(self.device)
        self.optimizers = make_optimizers(self.model, config.training)
        self.batches = Batches(config, self.model.written, self.group.share(config.training.batch))
        self.test = test_set(config, TEST_PROBLEMS)
        self.step, self.seconds, self.losses, self.rows = 0, 0.0, [], []
        self.legs: list[dict] = []  # where each earlier leg ended, see `extend`
        self.saved: int | None = None  # the step of the latest checkpoint
        # All processes in the same precision: single, if one of them is not faster in bfloat16.
        self.bfloat16 = not self.group.largest(not uses_bfloat16(config.training.precision, self.device))[0]
        self.compiled = compiled and shutil.which("g++") is not None
        self.uncompiled = self.group.wrap(self.model)
        self.loss_function = torch.compile(self.uncompiled) if self.compiled else self.uncompiled

    @property
    def examples(self) -> int:
        before = self.legs[-1]["examples"] if self.legs else 0
        return before + self.since("steps") * self.config.training.batch

    def since(self, counter: str) -> float:
        """Steps, seconds or rows since this leg began."""
        now = {"steps": self.step, "seconds": self.seconds, "rows": len(self.rows)}[counter]
        return now - (self.legs[-1][counter] if self.legs else 0)

    @property
    def progress(self) -> float:
        """Share of the leg's budget that is spent."""
        examples, seconds = self.since("steps") * self.config.training.batch, self.since("seconds")
        budgets = [(examples, self.config.examples or math.inf), (seconds, 60 * (self.config.minutes or math.inf))]
        return max(spent / budget for spent, budget in budgets)

    @property
    def learning_rate(self) -> float:
        return self.config.training.rate(self.since("steps"), self.progress)

    def loss(self, step: int) -> torch.Tensor:
        batch = [part.to(self.device) for part in self.batches[step]]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.loss_function(*batch)

    def warm_up_compiler(self) -> None:
        """Compile on the first batch; where that fails, say so and go on without."""
        if not self.compiled:
            return
        try:
            self.loss(self.step).backward()
        except Exception as error:  # the compiler's own errors have no common class
            if self.group.size > 1:  # the others may have succeeded: all go on in the same way, or none
                raise
            log.warning("torch.compile failed (%.200r): going on without it", error)
            self.compiled, self.loss_function = False, self.uncompiled
        self.model.zero_grad()

    def train_step(self) -> float:
        """One optimizer step. Raises FloatingPointError, leaving the weights untouched, if the loss is not finite."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
        loss = self.loss(self.step)
        value = self.group.mean(loss.item())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"loss {value} at step {self.step}, learning rate {self.learning_rate:.3g}, {self.config.training}: "
                f"lower the learning rate; the last good checkpoint in {self.folder} is intact"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.model.zero_grad()
        self.step += 1
        if self.group.first:
            self.losses.append(value)
        return value

    def describe(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        where = f"{torch.get_num_threads()} threads" if self.device.type == "cpu" else str(self.device)
        where += f", {self.group.size} processes" if self.group.size > 1 else ""
        bfloat16, compiled = ("on" if value else "off" for value in (self.bfloat16, self.compiled))
        return f"{parameters:,} parameters, {where}, bfloat16 {bfloat16}, torch.compile {compiled}"

    def evaluate(self) -> dict:
        """Add a row to the log: shares within 1, 5 and 25 % of every property, on a fixed set of fresh problems.

        `loss` is the mean of `Transformer.forward` since the row before, the part of the components included.
        """
        self.model.eval()
        table = within(judge(self.model, self.config.task, *self.test), tolerances=(0.01, 0.05, 0.25))
        row = {
            "step": self.step,
            "examples": self.examples,
            "seconds": round(self.seconds, 1),
            "learning_rate": self.learning_rate,
            "loss": float(np.mean(self.losses)) if self.losses else math.nan,
        }
        row |= {f"{r.property}_{100 * r.tolerance:g}%": r.proportion for r in table.itertuples()}
        self.losses = []
        self.rows.append(row)
        self.model.train()
        return row

    def save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for kind, optimizer in self.optimizers.items():
            for i, values in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{i}.{name}": tensor for name, tensor in values.items()}
        state = {name: getattr(self, name) for name in ("step", "seconds", "losses", "rows", "legs", "bfloat16")}
        runs.save_checkpoint(self.folder, tensors, {"config": self.config.to_json(), **state})
        self.saved = self.step
        runs.write_log(self.folder, pd.DataFrame(self.rows))

    def save_if_possible(self) -> None:
        """A full disk in mid-training is no reason to lose what is being learned: say so, and try again later."""
        try:
            self.save()
        except OSError as error:
            log.warning(
                "could not save at step %d (%s): training goes on; %s", self.step, error.strerror, self.what_is_saved()
            )

    def what_is_saved(self) -> str:
        return "nothing is saved yet" if self.saved is None else f"the checkpoint of step {self.saved} is intact"

    def restore(self) -> None:
        tensors, state = runs.load_checkpoint(self.folder)
        runs.check_same(self.folder, state["config"], self.config)
        weights = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(weights)
        for kind, optimizer in self.optimizers.items():
            values: dict = {}
            for name, tensor in tensors.items():
                if name.startswith(f"{kind}."):
                    _, i, key = name.split(".")
                    values.setdefault(int(i), {})[key] = tensor
            optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses, self.rows, self.legs = state["losses"], state["rows"], state["legs"]
        self.saved = self.step
        if (begun := state.get("bfloat16", self.bfloat16)) != self.bfloat16:
            old, new = (("single precision", "bfloat16")[used] for used in (begun, self.bfloat16))
            log.warning("%s was begun in %s, goes on in %s: not with the same bits", self.folder, old, new)

    def extend(self, info: dict) -> None:
        """Begin another leg from the published weights: a new warm-up and decay, the old counters and log."""
        run = runs.load_run(self.folder)
        for name in ("task", "size", "model"):
            if getattr(run.config, name) != getattr(self.config, name):
                old, new = getattr(run.config, name), getattr(self.config, name)
                raise runs.RunError(f"{self.folder} cannot be extended with another {name}: {old}, now {new}")
        self.model.load_state_dict(run.model.state_dict())
        self.step, self.seconds, self.rows = info["steps"], info["seconds"], run.log.to_dict("records")
        end = {name: info[name] for name in ("steps", "examples", "seconds", "config")} | {"rows": len(self.rows)}
        self.legs = [*info.get("legs", []), end]

    def start_from(self, name: str) -> None:
        """Begin with the weights of another run, whose size and task may differ if positions="row-column".

        A run that was not taught components has no weights to show them: those begin as they are.
        """
        weights = runs.load_run(name).model.state_dict()
        own = {key: tensor for key, tensor in self.model.state_dict().items() if key.startswith("components.")}
        try:
            self.model.load_state_dict({**own, **weights})
        except RuntimeError as error:
            detail = str(error).splitlines()[1].strip()
            raise ValueError(f"the weights of {name} do not fit this model: {detail}") from None

    def publish(self) -> None:
        info = {
            "config": self.config.to_json(),
            "finished": self.progress >= 1,
            "steps": self.step,
            "examples": self.examples,
            "seconds": round(self.seconds, 1),
            "threads": torch.get_num_threads(),
            "processes": self.group.size,
            "device": self.device.type,
            "bfloat16": self.bfloat16,
            "compiled": self.compiled,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "last": self.rows[-1],
            "legs": self.legs,
        }
        runs.publish(self.folder, self.model, pd.DataFrame(self.rows), info)

    def run(self, save_every: float, show: bool) -> int:
        """Train to the end of the budget, or until SIGTERM or Ctrl-C. Returns 0, or 128 + the signal's number."""
        with Signals() as signals:
            self.warm_up_compiler()
            last_save = time.monotonic()
            show = show and self.group.first
            bar = tqdm(total=100, unit="%", disable=not show, bar_format=BAR, initial=100 * min(self.progress, 1))
            while not (received := self.agree(signals.received)) and self.progress < 1:
                if self.group.first and self.progress >= EVALUATIONS[min(self.since("rows"), len(EVALUATIONS) - 1)]:
                    self.evaluate()
                begun = time.perf_counter()
                loss = self.train_step()
                self.seconds += time.perf_counter() - begun
                if self.step % 20 == 0:
                    bar.n = 100 * min(self.progress, 1)
                    bar.set_postfix_str(f"loss {loss:.3f}, {self.examples / self.seconds:,.0f} examples/s")
                if self.group.first and time.monotonic() - last_save > save_every:
                    self.save_if_possible()
                    last_save = time.monotonic()
            bar.close()
            if self.group.first:
                self.end()
            return 128 + received if received else 0

    def agree(self, received: int) -> int:
        """Take over the first process's clock; returns the signal that any of the processes has received, or 0."""
        self.seconds, received = self.group.largest(self.seconds if self.group.first else 0.0, received)
        return int(received)

    def end(self) -> None:
        if not self.rows or (self.progress >= 1 and self.rows[-1]["step"] != self.step):
            self.evaluate()
        try:
            self.save()
            self.publish()
        except OSError as error:
            raise runs.RunError(
                f"cannot write into {self.folder}: {error.strerror}; mend that, then continue with --resume "
                f"({self.what_is_saved()})"
            ) from None


BAR = "{percentage:5.1f} % |{bar}| {elapsed} < {remaining} {postfix}"
