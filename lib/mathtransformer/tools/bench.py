"""What this machine can do: problems generated, training steps and predictions, and how near the ceiling they come."""

from __future__ import annotations

import platform
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..data.encodings import encoding
from ..data.tasks import TASKS, get_task, sample
from ..evaluation.answers import answer, test_set
from ..model.transformer import Transformer
from ..training.batches import BLOCK, Batches
from ..training.compiling import numbers_next_to_zero_as_zero
from ..training.config import Config
from ..training.trainer import Trainer

SIZES = (3, 5)
TRAININGS = ((3, 128), (5, 128), (5, 256), (5, 512))  # sizes and widths


def per_second(work: Callable[[], int], seconds: float) -> float:
    """Best rate of three: `work` does a piece of it and returns how many things it did."""
    work()
    best = 0.0
    for _ in range(3):
        done, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds / 3:
            done += work()
        best = max(best, done / (time.perf_counter() - begun))
    return best


def ceiling(dtype: torch.dtype, seconds: float, size: int = 1024) -> float:
    """GFLOP/s of a large matrix product, the most that any model can get."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return per_second(lambda: (a @ b, 2 * size**3)[1], seconds) / 1e9


def generation(task: str, size: int, seconds: float) -> float:
    """Problems generated and encoded (inputs and targets) a second."""
    rng, fp15 = np.random.default_rng(0), encoding("FP15")

    def work() -> int:
        inputs, targets = sample(task, size, 4096, rng)
        fp15.encode(inputs), fp15.encode(targets)
        return 4096

    return per_second(work, seconds)


def flops(config: Config) -> float:
    """Floating-point operations of the matrix products of one training example, forward and backward."""
    model = Transformer(get_task(config.task), config.size, config.model)
    with FlopCounterMode(display=False) as counter:
        model(*Batches(model, config, batch=1)[0]).backward()
    return counter.get_total_flops()


def training(task: str, size: int, seconds: float, width: int = 128, compiled: bool = True) -> dict:
    """The fast recipe at a task, size and width: `examples` a second with all that a training does, `GFLOP` a second of
    the model's own products, milliseconds of a step (`step`) and of what it does besides (`optimizers`, and `drawing`
    its examples), `predictions` a second, and the `precision` of the training."""
    config = Config.of(task, size, {"minutes": 1000}, width=width)
    with tempfile.TemporaryDirectory() as folder, numbers_next_to_zero_as_zero():
        trainer = Trainer(config, Path(folder), compiled=compiled)
        trainer.compile()
        steps = per_second(lambda: (trainer.train_step(), 1)[1], seconds)
        blocks = per_second(lambda: (trainer.batches.draw(0), 1)[1], seconds)
        for weights in trainer.model.parameters():
            weights.grad = torch.randn_like(weights)
        updates = per_second(lambda: ([each.step() for each in trainer.optimizers.values()], 1)[1], seconds)
    inputs, _ = test_set(trainer.model.task, size, 500)
    solved = per_second(lambda: len(answer(trainer.model, inputs)), seconds)
    examples = steps * config.phases[0].batch
    return {
        "examples": examples,
        "GFLOP": examples * flops(config) / 1e9,
        "step": 1e3 / steps,
        "optimizers": 1e3 / updates,
        "drawing": 1e3 / blocks / BLOCK,
        "predictions": solved,
        "precision": "bfloat16" if trainer.bfloat16 else "float32",
    }


def processor() -> str:
    """What the system calls its processor, and its model's number where that is known."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"model\s+: (.+)\nmodel name\s+: (.+)", text)
    return f"{found[2]}, model {found[1]}" if found else platform.processor() or platform.machine()


def bench(seconds: float = 2.0) -> pd.DataFrame:
    """Tidy table: what, task, size, width, value, unit, threads, processor. Each measurement takes about `seconds`."""
    rows = []

    def add(what: str, value: float, unit: str, task: str = "", size: int | str = "", width: int | str = "") -> None:
        value = float(f"{value:.4g}")
        rows.append({"what": what, "task": task, "size": size, "width": width, "value": value, "unit": unit})
        print(f"{what:38} {task:13} {size!s:2} {width!s:4} {value:12,.1f} {unit}", flush=True)

    limits = {name: ceiling(getattr(torch, name), seconds) for name in ("bfloat16", "float32")}
    for name, limit in limits.items():
        add(f"matrix product, {name}", limit, "GFLOP/s")
    for task in TASKS:
        for size in SIZES:
            add("generation and encoding", generation(task, size, seconds), "problems/s", task, size)
    for size, width in TRAININGS:  # one task: each costs half a minute of compilation the first time
        rates, where = training("eigenvectors", size, seconds, width), ("eigenvectors", size, width)
        add("training, fast recipe", rates["examples"], "examples/s", *where)
        share = 100 * rates["GFLOP"] / limits[rates["precision"]]
        add(f"training, of the {rates['precision']} ceiling", share, "%", *where)
        for part in ("step", "optimizers", "drawing"):
            add(f"training, {part}", rates[part], "ms", *where)
        add("prediction", rates["predictions"], "problems/s", *where)
    return pd.DataFrame(rows).assign(threads=torch.get_num_threads(), processor=processor())
