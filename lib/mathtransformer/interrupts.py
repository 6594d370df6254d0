"""Ctrl-C and SIGTERM: a command ends at once and in one line, a training saves first."""

from __future__ import annotations

import signal
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal came; `status` is what the process should end with."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


def behind(error: BaseException | None) -> Interrupted | None:
    """The signal that an error came of. Python and PyTorch wrap what is raised while they define a class or compile."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__cause__
    return error


def raise_interrupted() -> None:
    """From now on a signal raises Interrupted, so that what was opened is closed."""

    def interrupt(number, frame):
        raise Interrupted(number)

    for number in NUMBERS:
        signal.signal(number, interrupt)


class Signals:
    """In a `with` block: notes the first signal in `received`.

    Within `at_once`, a signal raises Interrupted as well: for work that may be dropped, such as compiling.
    """

    def __enter__(self):
        self.received, self.urgent = 0, False
        self.before = {number: signal.signal(number, self.note) for number in NUMBERS}
        return self

    def note(self, number, frame):
        self.received = number
        if self.urgent:
            self.urgent = False  # once: what follows is the way out
            raise Interrupted(number)

    @contextmanager
    def at_once(self):
        if self.received:
            raise Interrupted(self.received)
        self.urgent = True
        try:
            yield
        finally:
            self.urgent = False

    def __exit__(self, *exception):
        for number, handler in self.before.items():
            signal.signal(number, handler)
