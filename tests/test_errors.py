"""The catalogue of errors, and its way over a real gRPC call into the client's hands."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from ray.exceptions import RayTaskError

from liveact.v1 import avatar_pb2, avatar_pb2_grpc
from liveact_services.errors import (
    DETAILS_KEY,
    DOMAIN,
    REASONS,
    ClientError,
    Kind,
    ServiceError,
    as_service_error,
    fail,
    from_rpc_error,
    internal,
    notice,
)
from liveact_services.sessions import IllegalMove, LeaseLost, SessionState

ERRORS = sorted(name for name, entry in REASONS.items() if entry.kind is not Kind.NOTICE)
DETAILS: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RetryInfo,
)


def details_of(status: status_pb2.Status) -> dict[str, Message]:
    found = {}
    for packed in status.details:
        (detail,) = (detail for detail in (kind() for kind in DETAILS) if packed.Unpack(detail))
        found[type(detail).__name__] = detail
    return found


@pytest.mark.parametrize("reason", ERRORS)
def test_every_error_carries_its_code_its_reason_and_the_detail_of_its_kind(reason: str) -> None:
    status = fail(reason, "what was wrong").to_status()
    details = details_of(status)
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (reason, DOMAIN)
    assert status.code == REASONS[reason].code.value[0] != 0
    assert status.message == "what was wrong"
    assert REASONS[reason].kind.value in details
    assert REASONS[reason].meaning.endswith(".")


@pytest.mark.parametrize("reason", sorted(name for name, entry in REASONS.items() if entry.field))
def test_a_reasons_field_is_a_path_into_the_api(reason: str) -> None:
    requests = ("StreamAvatarRequest", "CreateAvatarRequest", "GetSessionRequest")
    roots = [avatar_pb2.DESCRIPTOR.message_types_by_name[name] for name in requests]
    assert any(_resolves(REASONS[reason].field.split("."), root) for root in roots)


def _resolves(path: list[str], message: Descriptor) -> bool:
    head, *rest = path
    if not rest and head in message.oneofs_by_name:
        return True
    field = message.fields_by_name.get(head)
    return field is not None and (not rest or _resolves(rest, field.message_type))


def test_whatever_passes_by_itself_says_when_to_try_again() -> None:
    for reason in ERRORS:
        if REASONS[reason].code is grpc.StatusCode.UNAVAILABLE:
            assert fail(reason, "m").retry_after_s == 1.0, reason
    assert fail("CAPACITY", "m", retry_after_s=2.5).retry_after_s == 2.5


def test_a_mistaken_reason_is_found_where_it_is_raised() -> None:
    with pytest.raises(KeyError, match="NO_SUCH_REASON"):
        fail("NO_SUCH_REASON", "m")
    with pytest.raises(ValueError, match="AUDIO_CLIPPED is a notice"):
        fail("AUDIO_CLIPPED", "m")
    with pytest.raises(ValueError, match="AUDIO_EMPTY is an error"):
        notice("AUDIO_EMPTY", "m")


def test_a_notice_is_an_event() -> None:
    event = notice("AUDIO_CLIPPED", "12 samples were clipped", utterance_id="u1", pts_us=40)
    assert (event.type, event.reason, event.utterance_id) == (avatar_pb2.EVENT_TYPE_NOTICE, "AUDIO_CLIPPED", "u1")


@pytest.mark.parametrize("text", ["x" * 100_000, "\ud800 lone surrogate", "線" * 50_000, "line\nline\x00"])
def test_quoted_input_cannot_break_the_trailer(text: str) -> None:
    error = fail("PROMPT_TOO_LONG", text, metadata={"prompt": text})
    [(key, value)] = error.trailing_metadata()
    assert key == DETAILS_KEY
    assert len(value) < 4096
    assert status_pb2.Status.FromString(value).message


def test_the_unexpected_reaches_the_log_and_not_the_client(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        try:
            raise RuntimeError("password=hunter2")
        except RuntimeError as unexpected:
            error = internal(unexpected)
    sent = error.to_status().SerializeToString()
    assert b"hunter2" not in sent
    assert b"Traceback" not in sent
    assert error.metadata["incident"] in error.message
    assert "hunter2" in caplog.text
    assert error.metadata["incident"] in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        fail("QUOTA_SESSIONS", "three", quota_subject="tenant:a", metadata={"limit": "3"}),
        LeaseLost("s1"),
        IllegalMove("s1", SessionState.EXPIRED, SessionState.STREAMING),
    ],
)
def test_errors_cross_processes_whole(error: ServiceError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.to_status() == error.to_status()
    # As a remote call raises it.
    remote = RayTaskError("fn", "traceback", error).as_instanceof_cause()
    assert isinstance(remote, ServiceError)
    assert as_service_error(remote) is error
    assert remote.to_status() == error.to_status()
    # A call that went through two replicas.
    assert as_service_error(RayTaskError("outer", "traceback", remote)) is error


def test_a_foreign_remote_error_is_internal() -> None:
    remote = RayTaskError("fn", "traceback with secrets", ValueError("secret")).as_instanceof_cause()
    assert as_service_error(remote).reason == "INTERNAL"
    assert "secret" not in as_service_error(remote).message


class Failing(avatar_pb2_grpc.AvatarServiceServicer):
    """Fails each call with the reason in its name, over the list form of trailers that Serve's context takes."""

    async def GetSession(
        self, request: avatar_pb2.GetSessionRequest, context: grpc.aio.ServicerContext
    ) -> avatar_pb2.GetSessionResponse:
        if request.name == "damaged":
            context.set_trailing_metadata([(DETAILS_KEY, b"\xff\xff\xff")])
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no details")
        error = fail(request.name, "größer", retry_after_s=1.5, metadata={"limit": "3"})
        context.set_trailing_metadata([("request_id", "r"), *error.trailing_metadata()])
        await context.abort(error.code, error.message)
        raise AssertionError("abort raises")


@pytest_asyncio.fixture
async def address() -> AsyncIterator[str]:
    server = grpc.aio.server()
    avatar_pb2_grpc.add_AvatarServiceServicer_to_server(Failing(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def call(address: str, name: str) -> ClientError:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await avatar_pb2_grpc.AvatarServiceStub(channel).GetSession(  # type: ignore[no-untyped-call]
                avatar_pb2.GetSessionRequest(name=name), timeout=10
            )
    return from_rpc_error(caught.value)


def call_blocking(address: str, name: str) -> ClientError:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        avatar_pb2_grpc.AvatarServiceStub(channel).GetSession(  # type: ignore[no-untyped-call]
            avatar_pb2.GetSessionRequest(name=name), timeout=10
        )
    return from_rpc_error(caught.value)


@pytest.mark.parametrize("reason", ["AUDIO_ODD_BYTES", "NOT_READY", "QUOTA_SESSIONS", "SESSION_LOST"])
async def test_the_client_reads_what_the_server_raised(address: str, reason: str) -> None:
    sent = fail(reason, "größer", retry_after_s=1.5, metadata={"limit": "3"})
    for received in (await call(address, reason), await asyncio.to_thread(call_blocking, address, reason)):
        for name, value in vars(received).items():
            assert value == getattr(sent, name), name
    assert received.resumable == (reason == "SESSION_LOST")


async def test_a_client_survives_damaged_and_missing_details(address: str) -> None:
    damaged = await call(address, "damaged")
    assert (damaged.code, damaged.reason, damaged.resumable) == (grpc.StatusCode.UNAVAILABLE, "", True)
    nobody = await call("127.0.0.1:1", "SESSION_LOST")
    assert (nobody.code, nobody.reason, nobody.resumable) == (grpc.StatusCode.UNAVAILABLE, "", True)
    assert from_rpc_error(grpc.RpcError("bare")).code is grpc.StatusCode.UNKNOWN
