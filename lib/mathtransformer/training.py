"""The training loop: fresh examples at every step, on a budget, saved so that nothing is lost.

The examples of a step depend on the seed and the step alone, and nothing else is random after the weights are
initialised: a training that is cut and resumed on the same machine, with the same threads, ends with the same
bits, provided that its budget is in examples (a budget in minutes decays the learning rate by the clock).
"""

from __future__ import annotations

import logging
import math
import os
import platform
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from . import runs
from .batches import Batches
from .config import Config
from .evaluation import judge, test_set
from .metrics import within
from .model import Transformer

TEST_PROBLEMS = 1000
# Shares of the budget at which the model is evaluated: dense at first, when the properties emerge.
EVALUATIONS = (0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, *np.arange(0.1, 1.0, 0.05).round(2), 1.0)

log = logging.getLogger("mathtransformer")


def learning_rate(config: Config, step: int, progress: float) -> float:
    """Learning rate at a step, `progress` being the share of the budget that is spent."""
    options = config.training
    warmup = min(1.0, max((step + 1) / max(options.warmup, 1), progress / 0.1))  # at most a tenth of the budget
    if options.schedule == "linear":
        decay = min(1.0, (1 - progress) / options.decay)
    else:
        decay = 0.1 + 0.9 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return options.learning_rate * warmup * max(decay, 0.0)


def bfloat16_is_fast() -> bool:
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(check())


class Trainer:
    """One training: model, optimizer, data and counters, and how they are saved and restored."""

    def __init__(self, config: Config, folder: Path, *, device: str = "cpu", compiled: bool = True):
        torch.manual_seed(config.seed)
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.model = Transformer(config.task, config.size, config.model).to(self.device)
        betas = (0.9, config.training.beta2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=betas, weight_decay=0.0, fused=True)
        self.batches = Batches(config, self.model.written)
        self.test = test_set(config, TEST_PROBLEMS)
        self.step, self.seconds, self.losses, self.rows = 0, 0.0, [], []
        self.legs: list[dict] = []  # where each earlier leg ended, see `extend`
        self.bfloat16 = self.device.type == "cuda" or bfloat16_is_fast()
        self.compiled = compiled and shutil.which("g++") is not None
        self.loss_function = torch.compile(self.model.loss) if self.compiled else self.model.loss

    @property
    def examples(self) -> int:
        return self.step * self.config.training.batch

    def since(self, counter: str) -> float:
        """Steps, seconds or rows since this leg began."""
        now = {"steps": self.step, "seconds": self.seconds, "rows": len(self.rows)}[counter]
        return now - (self.legs[-1][counter] if self.legs else 0)

    @property
    def progress(self) -> float:
        """Share of the leg's budget that is spent."""
        if self.config.examples:
            return self.since("steps") * self.config.training.batch / self.config.examples
        return self.since("seconds") / (60 * self.config.minutes)

    @property
    def learning_rate(self) -> float:
        return learning_rate(self.config, self.since("steps"), self.progress)

    def loss(self, step: int) -> torch.Tensor:
        inputs, targets = (part.to(self.device) for part in self.batches[step])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.loss_function(inputs, targets)

    def warm_up_compiler(self) -> None:
        """Compile on the first batch; where that fails, say so and go on without."""
        if not self.compiled:
            return
        try:
            self.loss(self.step).backward()
        except Exception as error:  # the compiler's own errors have no common class
            log.warning("torch.compile failed (%s): going on without it", str(error).splitlines()[0])
            self.compiled, self.loss_function = False, self.model.loss
        self.optimizer.zero_grad()

    def train_step(self) -> float:
        """One optimizer step. Raises FloatingPointError, leaving the weights untouched, if the loss is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        loss = self.loss(self.step)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"loss {value} at step {self.step}, learning rate {self.learning_rate:.3g}, {self.config.training}: "
                f"lower the learning rate; the last good checkpoint in {self.folder} is intact"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.losses.append(value)
        return value

    def evaluate(self) -> dict:
        """Add a row to the log: shares within 1, 5 and 25 % of every property, on a fixed set of fresh problems."""
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
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": tensor for name, tensor in values.items()}
        state = {name: getattr(self, name) for name in ("step", "seconds", "losses", "rows", "legs")}
        runs.save_checkpoint(self.folder, tensors, {"config": self.config.to_json(), **state})
        runs.write_log(self.folder, pd.DataFrame(self.rows))

    def restore(self) -> None:
        tensors, state = runs.load_checkpoint(self.folder)
        runs.check_same(self.folder, state["config"], self.config)
        weights = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(weights)
        optimizer: dict = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                optimizer.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer, "param_groups": groups})
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses, self.rows, self.legs = state["losses"], state["rows"], state.get("legs", [])

    def extend(self, info: dict) -> None:
        """Begin another leg from the published weights: a new warm-up and decay, the old counters and log."""
        run = runs.load_run(self.folder)
        for name in ("task", "size", "model"):
            if getattr(run.config, name) != getattr(self.config, name):
                old, new = getattr(run.config, name), getattr(self.config, name)
                raise runs.RunError(f"{self.folder} cannot be extended with another {name}: {old}, now {new}")
        self.model.load_state_dict(run.model.state_dict())
        self.step, self.seconds, self.rows = info["steps"], info["seconds"], run.log.to_dict("records")
        end = {"steps": self.step, "seconds": self.seconds, "rows": len(self.rows), "config": info["config"]}
        self.legs = [*info.get("legs", []), end]

    def start_from(self, name: str) -> None:
        """Begin with the weights of another run, whose size and task may differ if positions="row-column"."""
        try:
            self.model.load_state_dict(runs.load_run(name).model.state_dict())
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
            "device": self.device.type,
            "bfloat16": self.bfloat16,
            "compiled": self.compiled,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "last": self.rows[-1],
            "legs": self.legs,
        }
        runs.publish(self.folder, self.model, pd.DataFrame(self.rows), info)

    def run(self, save_every: float = 60.0, show: bool = True) -> int:
        """Train to the end of the budget, or until SIGTERM or Ctrl-C. Returns 0, or 128 + the signal's number."""
        with Signals() as signals:
            self.warm_up_compiler()
            last_save = time.monotonic()
            bar = tqdm(total=100, unit="%", disable=not show, bar_format=BAR, initial=100 * min(self.progress, 1))
            while self.progress < 1 and not signals.received:
                if self.progress >= EVALUATIONS[min(self.since("rows"), len(EVALUATIONS) - 1)]:
                    self.evaluate()
                begun = time.perf_counter()
                loss = self.train_step()
                self.seconds += time.perf_counter() - begun
                if self.step % 20 == 0:
                    bar.n = 100 * min(self.progress, 1)
                    bar.set_postfix_str(f"loss {loss:.3f}, {self.examples / self.seconds:,.0f} examples/s")
                if time.monotonic() - last_save > save_every:
                    self.save()
                    last_save = time.monotonic()
            if self.progress >= 1 or not self.rows:
                self.evaluate()
            bar.close()
            self.save()
            self.publish()
            return 128 + signals.received if signals.received else 0


BAR = "{percentage:5.1f} % |{bar}| {elapsed} < {remaining} {postfix}"


class Signals:
    """Notes SIGTERM and SIGINT, so that the loop can save before it ends."""

    def __enter__(self):
        self.received = 0
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def note(self, number, frame):
        self.received = number

    def __exit__(self, *exception):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def train(
    config: Config,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    extend: bool = False,
    force: bool = False,
    device: str = "auto",
    threads: int | None = None,
    compiled: bool = True,
    show: bool = True,
) -> int:
    """Train one model into `folder`. Returns 0, or 128 + the signal's number if it was cut short (and saved).

    resume: go on with what was begun there, if anything. extend: the same, and if that is finished, train another
    leg with the budget of `config`. force: train anew, over what is there.
    """
    folder = Path(folder)
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: PyTorch sees no CUDA device here; use --device cpu")
    runs.prepare(folder, resume or extend, force)
    with runs.lock(folder):
        begun = runs.what_was_begun(folder)
        if begun == "finished" and not extend:
            runs.check_same(folder, runs.read_info(folder)["config"], config)
            log.info("%s is finished: nothing to do (--extend trains another leg)", folder)
            return 0
        if begun == "published" and not extend:
            raise runs.RunError(
                f"{folder} was cut short and its checkpoint is not here: train another leg from its weights "
                "with --extend, or anew with --force"
            )
        if threads:
            torch.set_num_threads(threads)
        trainer = Trainer(config, folder, device=device, compiled=compiled)
        if begun == "checkpoint":
            trainer.restore()
        elif begun:
            trainer.extend(runs.read_info(folder))
        elif config.start:
            trainer.start_from(config.start)
        log.info(
            "%s: %s parameters, %d threads, bfloat16 %s, torch.compile %s",
            folder.name, f"{sum(p.numel() for p in trainer.model.parameters()):,}", torch.get_num_threads(),
            "on" if trainer.bfloat16 else "off", "on" if trainer.compiled else "off",
        )  # fmt: skip
        return trainer.run(show=show)
