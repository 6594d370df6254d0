"""What a training is made of: the problem, the options of the model and of the optimisation, and the schedule.

The learning rate of a step comes from `Phase.rate`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace

from ..checks import check_name, whole_number
from ..data.tasks import check_problem, get_task
from ..model.options import PAPER, ModelOptions


@dataclass(frozen=True)
class Phase:
    """A stretch of a training with its own budget, batch and learning rate. Most trainings have one.

    Budget: `examples`, or `minutes` of training time. batch: examples a step. The learning rate warms up over
    TrainOptions.warmup steps, at most a tenth of the budget, and falls linearly to zero over the last `decay` (a share)
    of the budget; with schedule "cosine" it goes to a tenth over all of it. ValueError for unfit values.
    """

    examples: int | None = None
    minutes: float | None = None
    batch: int = 64
    learning_rate: float = 2e-3
    decay: float = 0.5

    def __post_init__(self):
        budgets = [budget for budget in (self.examples, self.minutes) if budget is not None]
        if len(budgets) != 1 or not 0 < budgets[0] < math.inf:
            raise ValueError("give each phase a budget, positive and finite: examples or minutes")
        if not 1 <= self.batch <= 1_000_000 or not 0 < self.learning_rate < math.inf or not 0 < self.decay <= 1:
            raise ValueError("batch must be from 1 to 1,000,000, learning_rate positive, decay in (0, 1]")

    def progress(self, examples: int, seconds: float) -> float:
        """Share of the budget that is spent."""
        return examples / self.examples if self.examples else seconds / (60 * self.minutes)

    def rate(self, step: int, progress: float, options: TrainOptions, warm: float = 0.0) -> float:
        """Learning rate of a step. step: counted from where the warm-up began, which was at the share `warm` of the
        budget. progress: the share of the budget that is spent."""
        up = min(1.0, max((step + 1) / max(options.warmup, 1), (progress - warm) / 0.1))
        if options.schedule == "linear":
            down = min(1.0, (1 - progress) / self.decay)
        else:
            down = 0.1 + 0.9 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return self.learning_rate * up * max(down, 0.0)

    def __str__(self):
        budget = f"{self.examples:,} examples" if self.examples else f"{self.minutes:g} minutes"
        return f"{budget}, batch {self.batch}, learning rate {self.learning_rate:g}"


CHOICES = {
    "schedule": ("linear", "cosine"),
    "optimizer": ("muon", "adamw"),
    "precision": ("auto", "bfloat16", "float32"),
}


@dataclass(frozen=True)
class TrainOptions:
    """Optimisation and data; the defaults are the `fast` recipe (README: how it departs from the paper).

    optimizer: "muon" (optimizers.py) for the matrices of the layers and AdamW for the rest, or "adamw" for all. warmup,
    schedule: see Phase. weight_decay: share of each weight that a step at a rate of 1 takes away. clip: largest
    gradient norm. exact_targets: solve the matrix as rounded to its tokens (the paper solves it first, and rounds it
    after). canonical_sign: first component of each target eigenvector positive. precision: "bfloat16" (automatic mixed
    precision), "float32", or "auto", which is bfloat16 where it is fast.
    """

    optimizer: str = "muon"
    beta2: float = 0.95
    weight_decay: float = 0.0
    warmup: int = 200
    schedule: str = "linear"
    clip: float = 1.0
    exact_targets: bool = True
    canonical_sign: bool = True
    precision: str = "auto"

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            check_name(name, getattr(self, name), allowed)
        if not self.clip > 0 or self.warmup < 0 or not 0 <= self.beta2 < 1 or not 0 <= self.weight_decay <= 1:
            raise ValueError("clip must be positive, warmup not negative, beta2 in [0, 1), weight_decay in [0, 1]")


# The paper's own size is width 512, 8 heads, 6 + 1 layers (inversion: 516 and 12 heads), which a laptop cannot
# train: `paper` keeps everything else and takes the width and depth of `fast`, so that the two can be compared.
# Its 10,000 warm-up steps and its cosine over 4 million steps shrink to the budget at hand.
RECIPES: dict[str, tuple[ModelOptions, TrainOptions, dict]] = {  # and what its phases have
    "fast": (ModelOptions(), TrainOptions(), {}),
    "paper": (
        PAPER,
        TrainOptions("adamw", 0.999, 0.0, 10_000, "cosine", clip=5.0, exact_targets=False, canonical_sign=False),
        {"learning_rate": 1e-4},
    ),
}


@dataclass(frozen=True)
class Config:
    """All that determines a training, apart from the machine.

    phases: one after the other. start: a run whose weights to begin with; with row-column positions its size and task
    may be others; with pre-norm blocks it may have fewer layers. Raises ValueError or TypeError, naming what is wrong.
    """

    task: str
    size: int
    phases: tuple[Phase, ...]
    spectrum: str = "semicircle"
    entries: str = "uniform"
    seed: int = 0
    start: str | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    training: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self):
        check_problem(get_task(self.task), self.size, self.spectrum, self.entries)
        whole_number("seed", self.seed, 0, 2**63 - 1)
        if self.model.canonical_shift and not get_task(self.task).shifted:
            raise ValueError(f"canonical_shift: {self.task} of M is not known from that of M - cI")
        if not self.phases:
            raise ValueError("a training needs a phase")

    @classmethod
    def of(cls, task: str, size: int, *phases: dict, recipe: str = "fast", **options) -> Config:
        """The recipe for a problem. phases: fields of each Phase, an hour if none is given; options: see `changed`."""
        check_name("recipe", recipe, RECIPES)
        model, training, phase = RECIPES[recipe]
        schedule = tuple(Phase(**{**phase, **values}) for values in phases or [{"minutes": 60}])
        return cls(task, size, schedule, model=model, training=training).changed(**options)

    def changed(self, **options) -> Config:
        """A copy with options changed, wherever they live: Config, ModelOptions, TrainOptions, or (of one) Phase.

        A budget (examples or minutes) replaces all phases by one that is otherwise like the first.
        """
        split = {kind: {} for kind in (ModelOptions, TrainOptions, Phase, Config)}
        for name, value in options.items():
            split[next(kind for kind in split if name in {f.name for f in fields(kind)})][name] = value
        phases, given = self.phases, split[Phase]
        if given:
            if budget := {name: given.get(name) for name in ("examples", "minutes") if given.get(name) is not None}:
                given |= {"examples": None, "minutes": None, **budget}
            elif len(phases) > 1:
                raise ValueError(f"{', '.join(given)}: this training has {len(phases)} phases; give a budget, too")
            phases = (replace(phases[0], **given),)
        parts = {"model": replace(self.model, **split[ModelOptions])}
        parts |= {"training": replace(self.training, **split[TrainOptions]), "phases": phases}
        return replace(self, **{**parts, **split[Config]})

    def flat(self) -> dict:
        """All options by name, wherever they live; phases as one text each."""
        values = asdict(self)
        model, training = values.pop("model"), values.pop("training")
        values["phases"] = "; ".join(f"{phase}, decay {phase.decay:g}" for phase in self.phases)
        return {**values, **model, **training}

    def differences(self, other: Config) -> str:
        """What `other` has otherwise, as text for a message; empty if nothing."""
        old, new = self.flat(), other.flat()
        return "; ".join(f"{name}: {old[name]!r}, now {new[name]!r}" for name in new if old[name] != new[name])

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> Config:
        """The inverse of `to_json`. ValueError if the values are not those of this version."""
        try:
            parts = {"model": ModelOptions(**values["model"]), "training": TrainOptions(**values["training"])}
            parts["phases"] = tuple(Phase(**phase) for phase in values["phases"])
            return cls(**{**values, **parts})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a configuration of this version: {error!r}") from None
