"""What a check is, and how checks are run: one after another, whatever the earlier ones found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

Status = Literal["passed", "failed", "skipped"]


class CheckError(ValueError):
    """What was checked does not hold; the message gives the place, both values and the remedy."""


class NotCheckedError(Exception):
    """There is nothing to check, or it cannot be checked here; the message gives the reason."""


class Check(NamedTuple):
    """One property."""

    title: str
    run: Callable[[], str]  # -> what was compared, for the table; raises CheckError or NotCheckedError


class Outcome(NamedTuple):
    """The result of a check."""

    title: str
    status: Status
    detail: str
    seconds: float


def run_checks(checks: Iterable[Check]) -> Iterator[Outcome]:
    """Runs each check. What a check raises, other than NotCheckedError, is a failure."""
    for check in checks:
        started_at, status = time.perf_counter(), "passed"
        try:
            detail = check.run()
        except NotCheckedError as reason:
            status, detail = "skipped", str(reason)
        # most can be caused by a damaged kernel; ImportError by a missing package, which must not hide other failures
        except (ValueError, LookupError, RuntimeError, OSError, ImportError) as error:
            status, detail = "failed", str(error)
        yield Outcome(check.title, status, detail, time.perf_counter() - started_at)
