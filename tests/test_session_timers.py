"""What a session's limits make due, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from liveact_services.config import SessionLimits
from liveact_services.gateway.session_timers import EXPIRING_S, KEEP_S, Due, SessionTimers, Standing

LIMITS = SessionLimits(idle_timeout_s=100, detached_timeout_s=30, max_duration_s=1000, ack_timeout_s=60)
WATCHED = Standing(ready=True, attached=True, out_of_credit=False, store_behind=False)


class Clocks:
    """Timers, and the time."""

    def __init__(self, age_s: float = 0.0) -> None:
        self.now = 5000.0
        self.timers = SessionTimers(LIMITS, age_s, lambda: self.now)

    def after(self, seconds: float, standing: Standing = WATCHED) -> Due | None:
        self.now += seconds
        found = self.timers.due(standing)
        return None if found is None else found[0]


@pytest.mark.parametrize("said", ["heard", "attached"])
def test_a_session_that_hears_nothing_expires_and_any_word_begins_anew(said: str) -> None:
    clocks = Clocks()
    assert clocks.after(100) is None
    getattr(clocks.timers, said)()
    assert clocks.after(100) is None
    assert clocks.after(0.1) is Due.EXPIRE


def test_a_session_without_a_stream_expires_but_not_while_nobody_could_resume_it() -> None:
    clocks, alone = Clocks(), replace(WATCHED, attached=False)
    clocks.timers.left()
    assert clocks.after(30, alone) is None
    assert clocks.after(1000 - 60, replace(alone, store_behind=True)) is None
    assert clocks.after(29, alone) is None, "its time stood still"
    assert clocks.after(2, alone) is Due.EXPIRE


def test_who_was_sent_the_whole_credit_and_acknowledges_nothing_is_cut_off() -> None:
    clocks, full = Clocks(), replace(WATCHED, out_of_credit=True)
    assert clocks.after(50) is None
    clocks.timers.heard()
    assert clocks.after(60, full) is None, "it counts from when the credit ran out"
    clocks.timers.heard()
    clocks.timers.acked()
    assert clocks.after(60, full) is None
    assert clocks.after(0.1, full) is Due.CUT_OFF
    assert clocks.after(0.0, replace(full, ready=False)) is None


def test_a_session_lasts_so_long_and_is_told_once_before() -> None:
    clocks = Clocks(age_s=900)
    assert clocks.after(100 - EXPIRING_S) is None
    assert [clocks.after(seconds) for seconds in (0.1, 0.1, EXPIRING_S - 0.3)] == [Due.WARN, None, None]
    assert clocks.after(0.2) is Due.EXPIRE
    assert Clocks(age_s=1000.1).after(0, replace(WATCHED, attached=False)) is Due.EXPIRE


def test_replicas_are_told_every_so_often() -> None:
    clocks = Clocks()
    told = []
    for _ in range(10):
        clocks.now += KEEP_S / 2.5
        told.append(clocks.timers.keep())
    assert told == [False, False, True] * 3 + [False]
