"""What Ray says of calls that failed, as a session hears it."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError
from ray.serve.exceptions import RayServeException

from liveact_models.blob import StateError
from liveact_services.conductor.parts import ExportRefused, NoPlace, Part, PartLost
from liveact_services.conductor.stages import Pacing
from liveact_services.errors import ServiceError
from liveact_services.gateway.serve_stages import _fenced, _losses, _place
from liveact_services.placement.pins import NoReplica, Pin, ReplicaFull, ReplicaGone, Superseded
from liveact_services.vault.shelf import ExportMissing
from stage_fixtures import session_spec


def in_a_task(cause: Exception) -> Exception:
    """As a call's failure arrives from another process."""
    error = RayTaskError("function", "traceback", cause)
    return error.as_instanceof_cause()


def around(cause: Exception) -> Exception:
    """As Serve's router tells of an argument whose maker died."""
    error = RayServeException("an upstream actor died")
    error.__cause__ = in_a_task(cause)
    return error


LOST = ObjectLostError("00" * 28, None, "call")


@pytest.mark.parametrize("wrap", [lambda error: error, in_a_task, around])
@pytest.mark.parametrize(
    "error",
    [ReplicaGone("gone"), Superseded("late"), ActorDiedError(), ActorUnavailableError("away", None), LOST],
    ids=lambda error: type(error).__name__,
)
def test_what_has_gone_is_a_loss_however_it_is_wrapped(wrap: object, error: Exception) -> None:
    with pytest.raises(PartLost, match=type(error).__name__), _losses():
        raise wrap(error)  # type: ignore[operator]


@pytest.mark.parametrize("error", [StateError("STATE_CHECKSUM", "damaged"), ExportMissing("not held")])
def test_an_export_that_cannot_be_adopted_is_told_apart(error: Exception) -> None:
    with pytest.raises(ExportRefused, match=str(error)), _losses():
        raise in_a_task(error)


@pytest.mark.parametrize("wrap", [lambda error: error, in_a_task, around])
def test_the_word_that_a_later_owner_has_come_is_no_loss(wrap: object) -> None:
    with pytest.raises(ServiceError) as raised, _fenced(), _losses():
        raise wrap(Superseded("attempt 3 came after attempt 4"))  # type: ignore[operator]
    assert raised.value.reason == "SESSION_TAKEN_OVER"
    with pytest.raises(PartLost), _fenced(), _losses():
        raise wrap(ReplicaGone("gone"))  # type: ignore[operator]


def test_a_mistake_of_a_stage_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), _losses():
        raise in_a_task(ZeroDivisionError("a mistake"))


async def test_a_call_that_was_cancelled_elsewhere_is_a_loss_and_our_own_end_is_not() -> None:
    with pytest.raises(PartLost), _losses():
        raise asyncio.CancelledError

    async def wait() -> None:
        with _losses():
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_place_is_looked_for_on_every_replica_but_the_one_to_avoid() -> None:
    asked: list[str] = []

    async def call(key: str) -> str:
        asked.append(key)
        refused = Pin.parse(key).refused
        willing = [name for name in ("a", "b", "c") if name not in refused]
        if not willing:
            raise NoReplica("all have refused")
        if willing[0] != "c":
            raise in_a_task(ReplicaFull(willing[0]))
        return "c"

    spec = session_spec(Pacing.REALTIME, session="s", width=512, height=256)
    assert await _place(Part.DENOISER, spec, "a", call) == "c"
    assert asked == ["s~2.62144!a", "s~2.62144!a!b"], "a million pixels a second"
    with pytest.raises(NoPlace):
        await _place(Part.DECODER, spec, "c", call)
