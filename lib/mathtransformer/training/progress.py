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
SHARES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, *np.arange(0.1, 1.0, 0.05).round(2).tolist(), 1.0)
TOLERANCES = (0.01, 0.05, 0.25)
FREE = 10  # seconds of evaluations that no training is denied

log = logging.getLogger("mathtransformer")


class Progress:
    """Rows of log.csv, and when to add one.

    rows: one dict an evaluation. losses: of the steps since. due: the number of the next of SHARES. seconds: what
    evaluations took. problems: how many of the training's own spectrum each takes. watch: called with all rows, as a
    table, after each.
    """

    def __init__(self, model: Transformer, spectrum: str, entries: str):
        others = SPECTRA if model.task.symmetric else ()
        self.model, self.names, self.problems = model, list(others), PROBLEMS
        sets = [(PROBLEMS, spectrum), *((PROBLEMS // SHARE_OF_OTHERS, name) for name in others)]
        self.sets = [test_set(model.task, model.size, n, name, entries) for n, name in sets]
        self.rows: list[dict] = []
        self.losses: list[float] = []
        self.due, self.seconds = 0, 0.0
        self.watch: Callable[[pd.DataFrame], object] | None = None

    def fit_to(self, minutes: float | None) -> None:
        """Take fewer problems, but 50, where the evaluations would take more than a tenth of a budget in minutes."""
        begun = time.perf_counter()
        judge(self.model, *(part[:50] for part in self.sets[0]))
        each = (time.perf_counter() - begun) / 50 * (1 + len(self.names) / SHARE_OF_OTHERS)
        most = 0.1 * 60 * (minutes or math.inf) / len(SHARES) / each
        if most < PROBLEMS:
            self.problems = max(50, int(most))
            log.info("evaluated on %d problems each time, to keep to the budget", self.problems)

    def is_due(self, share: float, seconds: float) -> bool:
        """Whether to evaluate at a share of a phase, so many seconds into the training: at its beginning, at the end of
        each phase, and in between as long as evaluations take no more than a tenth of the time, and ten seconds."""
        if not self.rows or share >= 1:
            return True
        return share >= SHARES[self.due] and self.seconds <= 0.1 * seconds + FREE

    def evaluate(self, share: float, **counters) -> None:
        """Add a row: counters, the mean loss since the row before (`Transformer.forward`, components included), the
        shares of problems within 1, 5 and 25 % of every property, and for symmetric matrices the shares of a tenth as
        many problems of every spectrum that are right at 5 %. share: of the phase."""
        begun = time.perf_counter()
        few = math.ceil(self.problems / SHARE_OF_OTHERS)
        parts = [[part[:n] for part in each] for each, n in zip(self.sets, [self.problems, *[few] * len(self.names)])]
        judged = judge(self.model, *map(np.concatenate, zip(*parts)))
        row = counters | {"loss": float(np.mean(self.losses)) if self.losses else math.nan, "problems": self.problems}
        table = within(judged[: self.problems], tolerances=TOLERANCES)
        row |= {f"{r.property}_{100 * r.tolerance:g}%": r.proportion for r in table.itertuples()}
        right = (judged.error[self.problems :] < 0.05).to_numpy().reshape(-1, few).mean(1)
        row |= {f"on_{name}_5%": float(part) for name, part in zip(self.names, right)}
        self.rows.append(row)
        self.losses, self.due = [], passed(share)
        self.seconds += time.perf_counter() - begun
        if self.watch is not None:
            self.watch(pd.DataFrame(self.rows))


def passed(share: float) -> int:
    """How many of SHARES a phase has reached."""
    return sum(other <= share for other in SHARES)
