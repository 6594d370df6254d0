"""What a training is made of: the options of the two recipes, and the presets that produced the runs in data/runs.

A preset is a task, a size, a spectrum, a recipe and a budget. Any option can be changed on the command line
(`python -m mathtransformer train eigenvalues-5x5-laplace --width 256`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace

from .encodings import choose
from .model import ModelOptions
from .problems import ENTRIES, MAX_SIZE, SPECTRA, TASKS, get_task


@dataclass(frozen=True)
class TrainOptions:
    """Optimisation and data; the defaults are the `fast` recipe (README: how it departs from the paper).

    batch: examples a step. optimizer: "muon" (see muon.py) for the matrices of the layers and AdamW for the rest, or
    "adamw" for all. warmup: steps of linear warm-up, at most a tenth of the budget. schedule: "linear"
    keeps the learning rate, then takes it to zero over the last `decay` of the budget; "cosine" goes to a tenth
    over all of it. clip: largest gradient norm. exact_targets: solve the matrix as rounded to its tokens
    (the paper solves it first, and rounds it after). canonical_sign: first component of each
    target eigenvector positive. precision: "bfloat16" (automatic mixed precision), "float32", or "auto", which is
    bfloat16 where it is fast.
    """

    batch: int = 64
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    beta2: float = 0.95
    warmup: int = 200
    schedule: str = "linear"
    decay: float = 0.5
    clip: float = 1.0
    exact_targets: bool = True
    canonical_sign: bool = True
    precision: str = "auto"

    def __post_init__(self):
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule={self.schedule!r}: choose linear or cosine")
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"optimizer={self.optimizer!r}: choose muon or adamw")
        if self.precision not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"precision={self.precision!r}: choose auto, bfloat16 or float32")
        if (
            not 1 <= self.batch <= 1_000_000
            or not 0 < self.learning_rate < math.inf
            or not self.clip > 0
            or self.warmup < 0
        ):
            raise ValueError("batch must be from 1 to 1,000,000, learning_rate and clip positive, warmup not negative")
        if not 0 < self.decay <= 1 or not 0 <= self.beta2 < 1:
            raise ValueError("decay must be in (0, 1] and beta2 in [0, 1)")

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at a step, `progress` being the share of the budget that is spent."""
        warmup = min(1.0, max((step + 1) / max(self.warmup, 1), progress / 0.1))
        if self.schedule == "linear":
            decay = min(1.0, (1 - progress) / self.decay)
        else:
            decay = 0.1 + 0.9 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return self.learning_rate * warmup * max(decay, 0.0)


# The paper's own size is width 512, 8 heads, 6 + 1 layers (inversion: 516 and 12 heads), which a laptop cannot
# train: `paper` keeps everything else and takes the width and depth of `fast`, so that the two can be compared.
# Its 10,000 warm-up steps and its cosine over 4 million steps shrink to the budget at hand.
RECIPES: dict[str, tuple[ModelOptions, TrainOptions]] = {
    "fast": (ModelOptions(), TrainOptions()),
    "paper": (
        ModelOptions(
            embedding="token",
            output="P1000",
            positions="sequence",
            triangle=False,
            canonical_input=False,
            block="post-norm",
            components=0.0,
            decoding="greedy",
        ),
        TrainOptions(
            optimizer="adamw",
            learning_rate=1e-4,
            beta2=0.999,
            warmup=10_000,
            schedule="cosine",
            clip=5.0,
            exact_targets=False,
            canonical_sign=False,
        ),
    ),
}


# What runs did that were trained before these options were there, and do not name them.
BEFORE = {"model": {"components": 0.0, "cotrain": True, "canonical_input": False}, "training": {"optimizer": "adamw"}}


@dataclass(frozen=True)
class Config:
    """All that determines a training, apart from the machine.

    Budget: `examples`, or `minutes` of training, or both, and then it ends with what is spent first.

    start: a run whose weights to begin with; with row-column positions its size and task may be others.
    """

    name: str
    task: str
    size: int
    spectrum: str = "semicircle"
    entries: str = "uniform"
    recipe: str = "fast"
    seed: int = 0
    examples: int | None = None
    minutes: float | None = None
    start: str | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    training: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self):
        task = get_task(self.task)
        choose("spectrum", self.spectrum, SPECTRA)
        choose("entries", self.entries, ENTRIES)
        choose("recipe", self.recipe, RECIPES)
        if not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"size must be from 1 to {MAX_SIZE}, got {self.size}")
        if not task.symmetric and self.spectrum != "semicircle":
            raise ValueError(f"{self.task} has no spectrum to choose, got {self.spectrum!r}")
        budgets = [budget for budget in (self.examples, self.minutes) if budget is not None]
        if not budgets:
            raise ValueError("give a budget: examples or minutes")
        if not all(0 < budget < math.inf for budget in budgets) or not 0 <= self.seed < 2**63:
            raise ValueError("the budget must be positive and finite, and the seed from 0 to 2^63 - 1")

    def to_json(self) -> dict:
        return asdict(self)

    def flat(self) -> dict:
        """All options by name, wherever they live."""
        values = self.to_json()
        model, training = values.pop("model"), values.pop("training")
        return {**values, **model, **training}

    @classmethod
    def from_json(cls, values: dict) -> Config:
        try:
            model, training = ({**BEFORE[part], **values[part]} for part in ("model", "training"))
            parts = {"model": ModelOptions(**model), "training": TrainOptions(**training)}
            return cls(**{**values, **parts})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a configuration of this version: {error}") from None

    def changed(self, **options) -> Config:
        """A copy with options changed, wherever they live: Config, ModelOptions or TrainOptions."""
        if options.get("minutes") is not None:
            options.setdefault("examples", None)
        elif options.get("examples") is not None:
            options.setdefault("minutes", None)
        model = {f.name: options.pop(f.name) for f in fields(ModelOptions) if f.name in options}
        training = {f.name: options.pop(f.name) for f in fields(TrainOptions) if f.name in options}
        parts = {"model": replace(self.model, **model), "training": replace(self.training, **training)}
        return replace(self, **parts, **options)


def preset(name: str, task: str, size: int, recipe: str = "fast", **options) -> Config:
    model, training = RECIPES[recipe]
    return Config(name, task, size, recipe=recipe, minutes=60, model=model, training=training).changed(**options)


# The 2x2 and 3x3 models behind the three results learn what they write and no more: otherwise what their failures
# retain could be what their encoder was taught. Those of eigenvalues write the eigenvectors, too (cotrain).
# And they read matrices as they are. Exceptions: inversion-3x3, which would take several times the examples;
# eigenvectors-3x3-components and -canonical, which show what that changes.
WRITTEN_ONLY = {"components": 0.0, "cotrain": True, "canonical_input": False, "optimizer": "adamw"}


def make_presets() -> dict[str, Config]:
    """Budgets are in examples, so that a run can be repeated exactly, except where equal time is the point."""
    presets = [
        preset("eigenvectors-3x3", "eigenvectors", 3, examples=1_200_000, beta2=0.98, **WRITTEN_ONLY),
        preset("inversion-2x2", "inversion", 2, examples=4_000_000, beta2=0.98, **WRITTEN_ONLY),
        preset("eigenvalues-5x5-plain", "eigenvalues", 5, examples=300_000, components=0.0, canonical_input=False),
        # Three recipes in equal time: what they save, and whether they change what failures retain.
        preset("eigenvectors-3x3-canonical", "eigenvectors", 3, minutes=13),
        preset("eigenvectors-3x3-components", "eigenvectors", 3, minutes=13, canonical_input=False),
        preset("eigenvectors-3x3-paper", "eigenvectors", 3, "paper", minutes=13),
        preset("eigenvectors-3x3-half", "eigenvectors", 3, examples=150_000, **WRITTEN_ONLY),
    ]
    for spectrum in SPECTRA:
        name = f"eigenvalues-3x3-{spectrum}"
        presets.append(preset(name, "eigenvalues", 3, spectrum=spectrum, examples=500_000, **WRITTEN_ONLY))
    return {config.name: config for config in presets}


def make_large_presets() -> dict[str, Config]:
    """Trainings that may take hours, to be done in legs: the budget is the total of all legs."""
    presets = [
        preset("eigenvalues-5x5-semicircle", "eigenvalues", 5, examples=200_000),
        preset("eigenvalues-5x5-laplace", "eigenvalues", 5, spectrum="laplace", examples=300_000),
        preset("eigenvalues-8x8-semicircle", "eigenvalues", 8, examples=2_000_000),
        preset("eigenvalues-8x8-laplace", "eigenvalues", 8, spectrum="laplace", examples=2_000_000),
        preset("eigenvectors-5x5", "eigenvectors", 5, examples=3_000_000),
        preset("eigenvectors-6x6", "eigenvectors", 6, examples=6_000_000),
        # 3x3 inversion was learned better with AdamW, 5x5 eigenvectors with Muon (LOG.md); the larger are untried.
        preset("inversion-3x3", "inversion", 3, examples=7_000_000, optimizer="adamw"),
        preset("inversion-4x4", "inversion", 4, examples=6_000_000, optimizer="adamw"),
        preset("inversion-5x5", "inversion", 5, examples=12_000_000, optimizer="adamw"),
    ]
    return {config.name: config for config in presets}


LEGS = make_large_presets()  # the presets trained in legs
# Of three ways to go on with 3x3 inversion, one run each, these with half the learning rate gave the most (LOG.md).
LATER_LEGS = {"batch": 256, "decay": 1.0}


def later_leg(config: Config, legs: int, given: Collection[str] = ()) -> Config:
    """The same for a leg that `legs` others came before, apart from options that were `given` (their names).

    All but the first have the options of LATER_LEGS, the second half the learning rate, those after it a quarter.
    """
    if not legs:
        return config
    options = LATER_LEGS | {"learning_rate": config.training.learning_rate / 2 ** min(legs, 2)}
    return config.changed(**{name: value for name, value in options.items() if name not in given})


PRESETS = make_presets() | LEGS
REPEATED = ("eigenvectors-3x3", "eigenvalues-3x3-semicircle", "eigenvalues-3x3-laplace")  # also with seeds 1 and 2


NAME = re.compile(rf"({'|'.join(TASKS)})-(\d+)x\2(?:-({'|'.join(SPECTRA)}))?(-paper)?")


def run_name(preset: str, seed: int) -> str:
    """Name of the run of a preset and seed: a folder of data/runs."""
    return preset if seed == 0 else f"{preset}-seed{seed}"


def get_preset(name: str) -> Config:
    """The preset of that name, or one made from any name TASK-NxN[-SPECTRUM][-paper], with a budget of an hour.

    Raises ValueError, with the near matches, for any other name.
    """
    if name not in PRESETS and (parts := NAME.fullmatch(name)):
        task, size, spectrum, paper = parts.groups()
        recipe = "paper" if paper else "fast"
        return preset(name, task, int(size), recipe, spectrum=spectrum or "semicircle", minutes=60)
    choose("preset", name, PRESETS)
    return PRESETS[name]
