"""The table that ends a run of tests/test_faults.py."""

from contextlib import contextmanager

import pytest

TRIED: dict[str, int] = {}
SURVIVED: dict[str, int] = {}


@contextmanager
def count(kind: str):
    TRIED[kind] = TRIED.get(kind, 0) + 1
    yield
    SURVIVED[kind] = SURVIVED.get(kind, 0) + 1


@pytest.fixture
def fault():
    """`with fault(kind):` counts one more fault of this kind, survived unless what follows in the block fails."""
    return count


def pytest_terminal_summary(terminalreporter):
    if not TRIED:
        return
    terminalreporter.section("faults")
    width = max(map(len, TRIED))
    terminalreporter.line(f"{'fault':{width}}  times tried  survived  lost")
    for kind, tried in sorted(TRIED.items()):
        survived = SURVIVED.get(kind, 0)
        terminalreporter.line(f"{kind:{width}}  {tried:11}  {survived:8}  {tried - survived:4}")
