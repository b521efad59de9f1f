"""What a resuming client is made of: the requests it keeps, what it has of a session, and what it takes for final."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import RequestsForgotten
from liveact_services.client.progress import Acks, Progress
from liveact_services.client.request_log import RequestLog
from liveact_services.client.resuming import is_final
from liveact_services.errors import ClientError


def test_only_what_was_sent_is_ever_dropped() -> None:
    journal = RequestLog(keep_bytes=1_000)
    for n in range(10):
        assert journal.append(pb.StreamAvatarRequest(audio=pb.AudioChunk(data=bytes(200), sequence=n))) == n
    assert journal.kept_bytes == journal.unsent_bytes > 4_000
    journal.forget(5)
    assert [_sequence(journal) for _ in range(10)] == list(range(10))
    assert journal.unsent_bytes == 0
    assert journal.kept_bytes <= 1_000
    journal.rewind(8)
    assert (_sequence(journal), _sequence(journal), journal.next()) == (8, 9, None)
    with pytest.raises(RequestsForgotten):
        journal.rewind(0)
    with pytest.raises(ClientError, match="11 of the session's requests; 10 were made"):
        journal.rewind(11)


def _sequence(journal: RequestLog) -> int:
    request = journal.next()
    assert request is not None
    journal.advance()
    return request.audio.sequence


@pytest.mark.parametrize("fps", [20, 24, 30])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_sound_that_follows_on_is_never_taken_for_a_repeat(fps: int, rate: int) -> None:
    """Times are rounded to microseconds, and a block need not begin on a sample."""
    progress = Progress(rate)
    for block in range(500):
        start, stop = (21 + 32 * (block - 1) if block else 0), 21 + 32 * block
        samples = stop * rate // fps - start * rate // fps
        span = pb.AudioSpan(pts_us=round(start / fps * 1e6), data=bytes(2 * samples), block=block)
        assert progress.fresh(span) is span
        assert progress.fresh(span) is None


@pytest.mark.parametrize(
    ("error", "in_a_call", "to_a_resume"),
    [
        (ClientError(StatusCode.UNAVAILABLE, "refused"), False, False),
        (ClientError(StatusCode.NOT_FOUND, "Application not found"), False, False),
        (ClientError(StatusCode.UNAUTHENTICATED, "no"), True, True),
        (ClientError(StatusCode.RESOURCE_EXHAUSTED, "full", "QUOTA_STREAMS"), True, False),
        (ClientError(StatusCode.UNAVAILABLE, "full", "CAPACITY"), True, False),
        (ClientError(StatusCode.ABORTED, "busy", "SESSION_BUSY"), False, False),
        (ClientError(StatusCode.UNAVAILABLE, "lost", "SESSION_LOST"), True, True),
        (ClientError(StatusCode.PERMISSION_DENIED, "no", "RESUME_TOKEN_INVALID"), True, True),
    ],
)
def test_what_is_final_depends_on_what_it_answers(error: ClientError, in_a_call: bool, to_a_resume: bool) -> None:
    assert (is_final(error), is_final(error, resuming=True)) == (in_a_call, to_a_resume)


def test_who_acknowledges_in_large_steps_gets_credit_after_a_resume() -> None:
    acks = Acks()
    acks.shown(10)
    acks.sent(10)
    acks.resumed(160)
    assert acks.due() is None
    acks.shown(150)
    assert acks.due() is None, "the frames up to 160 are there to be shown"
    acks.hungry = True
    assert acks.due() == 160
    acks.sent(160)
    acks.shown(155)
    assert acks.due() is None


def test_an_acknowledgement_that_may_be_lost_is_repeated_after_a_resume() -> None:
    acks = Acks()
    acks.shown(20)
    acks.sent(20)
    assert acks.due() is None
    acks.resumed(20)
    assert acks.due() == 20


def interrupted(next_request: int, played_s: int) -> pb.Event:
    told = pb.Interrupted(next_request=next_request)
    told.played.FromSeconds(played_s)
    return pb.Event(type=pb.EVENT_TYPE_INTERRUPTED, interrupted=told)


def test_an_interrupt_is_told_once_though_another_server_answers_it_again_with_other_words() -> None:
    progress = Progress()
    assert progress.fresh(interrupted(7, 1)) is not None
    progress.resumed()
    assert progress.fresh(interrupted(7, 1)) is None, "the same server, the same words"
    progress.resumed()
    assert progress.fresh(interrupted(7, 0)) is None, "another: nothing was acknowledged to it yet"
    assert progress.fresh(interrupted(12, 3)) is not None, "a second interrupt"
    old = Progress()
    assert [old.fresh(interrupted(0, played)) is None for played in (1, 2)] == [False, False], (
        "a server that says nothing"
    )
