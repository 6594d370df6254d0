"""The log of a training: how good the model is on a fixed set of fresh problems, at set shares of each phase."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from ..data.matrices import SPECTRA
from ..evaluation.answers import judge, test_set
from ..evaluation.metrics import within
from ..model.transformer import Transformer

PROBLEMS = 1000
SHARE_OF_OTHERS = 10  # of every spectrum there are so many times fewer, to see what a training generalises to, and when
# Shares of a phase at which the model is evaluated: dense at first, when the properties emerge.
SHARES = (0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, *np.arange(0.1, 1.0, 0.05).round(2).tolist())
TOLERANCES = (0.01, 0.05, 0.25)
FREE = 10  # seconds of evaluations that no training is denied

log = logging.getLogger("mathtransformer")


class Progress:
    """Rows of log.csv, and when to add one. Evaluations take about a tenth of a training's time at most,
    or ten seconds.

    rows: one dict an evaluation. due: the number of the next of SHARES. seconds: what evaluations took. watch: called
    with all rows, as a table, after each evaluation.
    """

    def __init__(self, model: Transformer, spectrum: str, entries: str):
        self.model, self.problems = model, PROBLEMS
        self.test = test_set(model.task, model.size, PROBLEMS, spectrum, entries)
        others = SPECTRA if model.task.symmetric else ()
        few = PROBLEMS // SHARE_OF_OTHERS
        self.others = {name: test_set(model.task, model.size, few, name, entries) for name in others}
        self.rows: list[dict] = []
        self.losses: list[float] = []
        self.due, self.seconds = 0, 0.0
        self.watch: Callable[[pd.DataFrame], object] | None = None

    def fit_to(self, minutes: float | None) -> None:
        """Take fewer problems, but 50, where the evaluations would take more than a tenth of a budget in minutes."""
        begun = time.perf_counter()
        judge(self.model, *(part[:50] for part in self.test))
        each = (time.perf_counter() - begun) / 50 * (1 + len(self.others) / SHARE_OF_OTHERS)
        most = 0.1 * 60 * (minutes or math.inf) / len(SHARES)
        if most < PROBLEMS * each:
            self.problems = max(50, int(most / each))
            log.info("evaluated on %d problems each time, to keep to the budget", self.problems)

    def is_due(self, share: float, total_seconds: float) -> bool:
        """Whether to evaluate at this share of a phase. total_seconds: what the training will take, about."""
        if self.due >= len(SHARES) or share < SHARES[self.due]:
            return False
        self.skip_to(share)
        return not self.rows or self.seconds <= max(0.1 * total_seconds, FREE)

    def skip_to(self, share: float) -> None:
        self.due = sum(other <= share for other in SHARES)

    def evaluate(self, **counters) -> None:
        """Add a row: counters, the mean loss since the row before (`Transformer.forward`, components included), the
        shares of problems within 1, 5 and 25 % of every property, and for symmetric matrices the shares of a tenth as
        many problems of every spectrum that are right at 5 %."""
        begun = time.perf_counter()
        few = math.ceil(self.problems / SHARE_OF_OTHERS)
        asked = [(self.test, self.problems), *((problems, few) for problems in self.others.values())]
        parts = ([part[:n] for part in problems] for problems, n in asked)
        judged = judge(self.model, *map(np.concatenate, zip(*parts)))
        table = within(judged[: self.problems], tolerances=TOLERANCES)
        row = counters | {"loss": float(np.mean(self.losses)) if self.losses else math.nan, "problems": self.problems}
        row |= {f"{r.property}_{100 * r.tolerance:g}%": r.proportion for r in table.itertuples()}
        right = (judged.error[self.problems :] < 0.05).to_numpy().reshape(-1, few).mean(1)
        row |= {f"on_{name}_5%": float(share) for name, share in zip(self.others, right)}
        self.losses = []
        self.rows.append(row)
        self.seconds += time.perf_counter() - begun
        if self.watch is not None:
            self.watch(pd.DataFrame(self.rows))
