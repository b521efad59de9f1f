"""Every failure a client can see: one catalogue of reasons, and their way into and out of google.rpc.Status.

The server raises `fail(reason, message)`; the edge sends `to_status()` or `trailing_metadata()`; the client reads it
back with `from_rpc_error`. Codes follow one rule: INVALID_ARGUMENT is wrong whenever it is sent, FAILED_PRECONDITION is
wrong after what came before it, OUT_OF_RANGE names a frame that is not there, ABORTED ends a stream but not its
session, UNAVAILABLE passes.
"""

from __future__ import annotations

import enum
import logging
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from liveact.v1 import avatar_pb2

DOMAIN = "liveact"
DETAILS_KEY = "grpc-status-details-bin"
DEFAULT_RETRY_S = 1.0
MAX_TEXT_BYTES = 512
"""Longest message or metadata value sent: proxies refuse trailers beyond 8 KiB, and the text stands there thrice."""

_log = logging.getLogger(__name__)


class Kind(enum.Enum):
    """The google.rpc detail that an error carries beside its ErrorInfo."""

    REQUEST = "BadRequest"
    STATE = "PreconditionFailure"
    QUOTA = "QuotaFailure"
    RETRY = "RetryInfo"
    PLAIN = "ErrorInfo"
    NOTICE = "no error: an event of type NOTICE"


class Reason(NamedTuple):
    """What a stable reason stands for."""

    code: StatusCode
    kind: Kind
    meaning: str
    field: str = ""
    """The request field it concerns, as a path from StreamAvatarRequest or the unary request."""


_INVALID, _STATE, _RANGE = StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION, StatusCode.OUT_OF_RANGE
_ABORTED, _FULL, _AWAY = StatusCode.ABORTED, StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE
_ABSENT, _DENIED, _UNKNOWN = StatusCode.NOT_FOUND, StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED

REASONS: dict[str, Reason] = {
    # The stream's grammar.
    "CONFIG_MISSING": Reason(_STATE, Kind.STATE, "The stream's first message is not its config.", "config"),
    "CONFIG_REPEATED": Reason(_STATE, Kind.STATE, "A stream takes one config.", "config"),
    "CONFIG_TIMEOUT": Reason(_ABORTED, Kind.PLAIN, "The stream stayed open without sending its config."),
    "PAYLOAD_MISSING": Reason(_INVALID, Kind.REQUEST, "A message without content.", "payload"),
    "NOT_READY": Reason(_STATE, Kind.STATE, "Voice or an update was sent before READY.", "audio"),
    "STREAM_NOT_CLOSED": Reason(_ABORTED, Kind.PLAIN, "The stream ended without close; its session can be resumed."),
    # Voice.
    "AUDIO_ODD_BYTES": Reason(_INVALID, Kind.REQUEST, "The bytes are no whole number of samples.", "audio.data"),
    "AUDIO_EMPTY": Reason(_INVALID, Kind.REQUEST, "A piece of voice without samples.", "audio.data"),
    "AUDIO_TOO_LONG": Reason(_INVALID, Kind.REQUEST, "A piece of voice beyond one message's limit.", "audio.data"),
    "AUDIO_NOT_FINITE": Reason(_INVALID, Kind.REQUEST, "A float sample is NaN or infinite.", "audio.data"),
    "AUDIO_OUT_OF_RANGE": Reason(_INVALID, Kind.REQUEST, "A float sample is far beyond -1 to 1.", "audio.data"),
    "AUDIO_RATE_UNSUPPORTED": Reason(
        _INVALID, Kind.REQUEST, "The sample rate is not accepted.", "config.audio_format.sample_rate_hz"
    ),
    "AUDIO_CHANNELS_UNSUPPORTED": Reason(
        _INVALID, Kind.REQUEST, "The number of channels is not accepted.", "config.audio_format.channels"
    ),
    "AUDIO_ENCODING_UNSUPPORTED": Reason(
        _INVALID, Kind.REQUEST, "The sample encoding is not accepted.", "config.audio_format.encoding"
    ),
    "AUDIO_CLIPPED": Reason(StatusCode.OK, Kind.NOTICE, "Samples beyond full scale were clipped.", "audio.data"),
    "VOICE_BACKLOG_FULL": Reason(_FULL, Kind.RETRY, "Too much voice waits to be turned into video.", "audio"),
    "SEQUENCE_GAP": Reason(_STATE, Kind.STATE, "A piece of voice is missing before this one.", "audio.sequence"),
    "SEQUENCE_REPEATED": Reason(_STATE, Kind.STATE, "This piece of voice was received before.", "audio.sequence"),
    "UTTERANCE_ID_INVALID": Reason(_INVALID, Kind.REQUEST, "An id has 1 to 64 characters.", "audio.utterance_id"),
    "UTTERANCE_UNKNOWN": Reason(_STATE, Kind.STATE, "No voice of this utterance came.", "end_utterance.utterance_id"),
    "UTTERANCE_INTERLEAVED": Reason(_STATE, Kind.STATE, "Another utterance is not ended yet.", "audio.utterance_id"),
    "UTTERANCE_ENDED": Reason(_STATE, Kind.STATE, "The utterance was ended before.", "audio.utterance_id"),
    "UTTERANCE_EMPTY": Reason(
        StatusCode.OK, Kind.NOTICE, "An utterance ended without voice.", "end_utterance.utterance_id"
    ),
    # Media time, prompt, picture.
    "MEDIA_TIME_NEGATIVE": Reason(_INVALID, Kind.REQUEST, "Media time counts from 0.", "update.from_pts_us"),
    "PROMPT_TOO_LONG": Reason(_INVALID, Kind.REQUEST, "The prompt is beyond 4,096 bytes of UTF-8.", "config.prompt"),
    "PROMPT_NOT_TEXT": Reason(_INVALID, Kind.REQUEST, "The prompt holds control characters.", "config.prompt"),
    "PORTRAIT_MISSING": Reason(_INVALID, Kind.REQUEST, "Neither an image nor an avatar was named.", "config.portrait"),
    "IMAGE_EMPTY": Reason(_INVALID, Kind.REQUEST, "The image has no bytes.", "config.image"),
    "IMAGE_TOO_LARGE": Reason(_INVALID, Kind.REQUEST, "The image file is beyond 16 MiB.", "config.image"),
    "IMAGE_TOO_MANY_PIXELS": Reason(_INVALID, Kind.REQUEST, "The image unpacks to too many pixels.", "config.image"),
    "IMAGE_TOO_SMALL": Reason(_INVALID, Kind.REQUEST, "The image is too small to show a face.", "config.image"),
    "IMAGE_FORMAT_UNSUPPORTED": Reason(_INVALID, Kind.REQUEST, "The image is no PNG, JPEG or WebP.", "config.image"),
    "IMAGE_ANIMATED": Reason(_INVALID, Kind.REQUEST, "The image has more than one picture.", "config.image"),
    "IMAGE_TRUNCATED": Reason(_INVALID, Kind.REQUEST, "The image file ends early or is damaged.", "config.image"),
    "SIZE_UNSUPPORTED": Reason(_INVALID, Kind.REQUEST, "The picture size is not accepted.", "config.width"),
    "FPS_UNSUPPORTED": Reason(_INVALID, Kind.REQUEST, "The frame rate is not accepted.", "config.fps"),
    "CODEC_UNSUPPORTED": Reason(_INVALID, Kind.REQUEST, "The video codec is not accepted.", "config.codec"),
    "PACING_UNSUPPORTED": Reason(_INVALID, Kind.REQUEST, "The pacing is not accepted.", "config.pacing"),
    "IDLE_POLICY_UNSUPPORTED": Reason(_INVALID, Kind.REQUEST, "The idle policy is not accepted.", "config.idle_policy"),
    # Credit.
    "ACK_BEYOND_SENT": Reason(_RANGE, Kind.REQUEST, "A frame was acknowledged that was not sent.", "ack.next_frame"),
    "ACK_BACKWARDS": Reason(_STATE, Kind.STATE, "An earlier frame than the last was acknowledged.", "ack.next_frame"),
    "ACK_TIMEOUT": Reason(_ABORTED, Kind.PLAIN, "The credit is used up and nothing was acknowledged for too long."),
    # Avatars.
    "AVATAR_NOT_FOUND": Reason(_ABSENT, Kind.PLAIN, "The caller has no such avatar."),
    "AVATAR_NAME_INVALID": Reason(_INVALID, Kind.REQUEST, "An avatar's name is avatars/{id}.", "name"),
    "PORTRAIT_NOT_ALLOWED": Reason(_DENIED, Kind.PLAIN, "The caller may not send portraits of its own.", "config.image"),
    "CONSENT_MISSING": Reason(
        _INVALID, Kind.REQUEST, "The caller has to name the consent of the person shown.", "config.consent"
    ),
    "CONSENT_INVALID": Reason(
        _INVALID, Kind.REQUEST, "A consent reference is text of 256 characters at most.", "config.consent"
    ),
    "DISPLAY_NAME_TOO_LONG": Reason(_INVALID, Kind.REQUEST, "A name has 128 characters at most.", "display_name"),
    # Sessions.
    "SESSION_NOT_FOUND": Reason(_ABSENT, Kind.PLAIN, "The caller has no such session."),
    "SESSION_NAME_INVALID": Reason(_INVALID, Kind.REQUEST, "A session's name is sessions/{id}.", "name"),
    "SESSION_EXISTS": Reason(StatusCode.ALREADY_EXISTS, Kind.PLAIN, "A session of this id was admitted before."),
    "SESSION_BUSY": Reason(_ABORTED, Kind.RETRY, "Another stream is attached to the session."),
    "SESSION_TAKEN_OVER": Reason(_ABORTED, Kind.PLAIN, "Another stream, or another server, has the session by now."),
    "SESSION_STATE_CONFLICT": Reason(_ABORTED, Kind.PLAIN, "The session is in a state that does not allow this."),
    "SESSION_ENDED": Reason(_STATE, Kind.STATE, "The session was closed or failed."),
    "SESSION_EXPIRED": Reason(_STATE, Kind.STATE, "The session's time ran out."),
    "SESSION_LOST": Reason(_AWAY, Kind.RETRY, "What held the session died, and it could not go on elsewhere."),
    "RESUME_TOKEN_INVALID": Reason(_DENIED, Kind.PLAIN, "The resume token fits no session.", "config.resume.token"),
    "RESUME_TOKEN_EXPIRED": Reason(_STATE, Kind.STATE, "The session expired before the resume.", "config.resume.token"),
    "RESUME_FRAME_UNAVAILABLE": Reason(
        _RANGE, Kind.REQUEST, "The frame asked for can no longer, or not yet, be sent.", "config.resume.next_frame"
    ),
    # Tenants.
    "CREDENTIALS_MISSING": Reason(_UNKNOWN, Kind.PLAIN, "The call carries neither an API key nor a token."),
    "CREDENTIALS_INVALID": Reason(_UNKNOWN, Kind.PLAIN, "The API key or token is not accepted."),
    "CREDENTIALS_EXPIRED": Reason(_UNKNOWN, Kind.PLAIN, "The time of the API key or token has passed."),
    "CREDENTIALS_REVOKED": Reason(_UNKNOWN, Kind.PLAIN, "The API key, or the trust in the token's issuer, was withdrawn."),
    "TENANT_UNKNOWN": Reason(_DENIED, Kind.PLAIN, "The caller is no tenant of this service."),
    "TENANT_DISABLED": Reason(_DENIED, Kind.PLAIN, "The caller's tenant is disabled."),
    "AUTHENTICATION_UNAVAILABLE": Reason(_AWAY, Kind.RETRY, "The keys that verify tokens cannot be fetched."),
    "QUOTA_SESSIONS": Reason(_FULL, Kind.QUOTA, "The caller's sessions have reached their number."),
    "QUOTA_STREAMS": Reason(_FULL, Kind.QUOTA, "The caller's streams at once have reached their number."),
    "QUOTA_FRAME_SIZE": Reason(_FULL, Kind.QUOTA, "The picture is larger than the caller's quota.", "config.width"),
    "QUOTA_MINUTES": Reason(_FULL, Kind.QUOTA, "The caller's minutes of video of this day (UTC) are used up."),
    "QUOTA_REQUESTS": Reason(_FULL, Kind.QUOTA, "The caller makes requests faster than its quota."),
    # The browser's transport.
    "ORIGIN_REFUSED": Reason(_DENIED, Kind.PLAIN, "A page of another site called."),
    "METHOD_UNKNOWN": Reason(StatusCode.UNIMPLEMENTED, Kind.PLAIN, "No unary method has this name."),
    "BODY_INVALID": Reason(_INVALID, Kind.PLAIN, "The body is not the method's request as JSON or protobuf."),
    "MESSAGE_INVALID": Reason(_INVALID, Kind.REQUEST, "A WebSocket frame is no binary StreamAvatarRequest.", "payload"),
    "SPEECH_UNAVAILABLE": Reason(StatusCode.UNIMPLEMENTED, Kind.PLAIN, "No voice that speaks text is installed."),
    # The service.
    "CAPACITY": Reason(_AWAY, Kind.RETRY, "Every replica is full."),
    "STORE_UNAVAILABLE": Reason(_AWAY, Kind.RETRY, "The session store does not answer, or takes no writes."),
    "SHUTTING_DOWN": Reason(_AWAY, Kind.RETRY, "This server stops."),
    "INTERNAL": Reason(StatusCode.INTERNAL, Kind.PLAIN, "Something failed on the server; its log knows the incident."),
}  # fmt: skip


class ServiceError(Exception):
    """A failure that the client is told of. Raised where it is known, translated once, at the edge.

    The code comes from `REASONS`. An unknown reason is a KeyError and a notice a ValueError: mistakes of the caller.
    """

    # Instance attributes only: Ray rebuilds a remote error as a subclass that looks attributes up on its cause, and a
    # class-level default would hide them.
    def __init__(
        self,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        quota_subject: str | None = None,
        precondition: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        entry = REASONS[reason]
        if entry.kind is Kind.NOTICE:
            raise ValueError(f"{reason} is a notice: it is sent as an event and ends nothing")
        super().__init__(reason, message)
        self.reason = reason
        self.message = _sendable(message)
        self.code = entry.code
        self.field = field or entry.field or None
        self.retry_after_s = DEFAULT_RETRY_S if retry_after_s is None and entry.kind is Kind.RETRY else retry_after_s
        self.quota_subject = quota_subject or ("tenant" if entry.kind is Kind.QUOTA else None)
        self.precondition = precondition or (reason if entry.kind is Kind.STATE else None)
        self.metadata = {name: _sendable(value) for name, value in (metadata or {}).items()}

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses have other constructors; errors cross processes.
        return _restore, (type(self), self.args, self.__dict__)

    def to_status(self) -> status_pb2.Status:
        """The google.rpc.Status: ErrorInfo first, then every detail that applies."""
        text = self.message
        details: list[Any] = [error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)]
        if self.field:
            details.append(
                error_details_pb2.BadRequest(
                    field_violations=[error_details_pb2.BadRequest.FieldViolation(field=self.field, description=text)]
                )
            )
        if self.precondition:
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=self.precondition, subject=self.field or "session", description=text
            )
            details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
        if self.quota_subject:
            excess = error_details_pb2.QuotaFailure.Violation(subject=self.quota_subject, description=text)
            details.append(error_details_pb2.QuotaFailure(violations=[excess]))
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(self.retry_after_s * 1000))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=text)
        for detail in details:
            status.details.add().Pack(detail)
        return status

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        """The trailer that carries `to_status()`, for `set_trailing_metadata` (Serve's context takes a list only)."""
        return [(DETAILS_KEY, self.to_status().SerializeToString())]


fail = ServiceError
"""How an error reads where it is raised: `raise fail("AUDIO_ODD_BYTES", "3 bytes are no whole number of samples")`."""


def notice(reason: str, message: str, *, pts_us: int = 0, utterance_id: str = "", block: int = 0) -> avatar_pb2.Event:
    """The event that tells a client of something odd that was accepted. Raises ValueError for an error's reason."""
    if REASONS[reason].kind is not Kind.NOTICE:
        raise ValueError(f"{reason} is an error, not a notice")
    return avatar_pb2.Event(
        type=avatar_pb2.EVENT_TYPE_NOTICE,
        reason=reason,
        message=_sendable(message),
        pts_us=pts_us,
        utterance_id=utterance_id,
        block=block,
    )


def internal(error: BaseException) -> ServiceError:
    """The unexpected, as a client may see it: an incident id. The error itself and its traceback go to the log only."""
    incident = secrets.token_hex(6)
    _log.error("incident %s: %s", incident, type(error).__name__, exc_info=error, extra={"incident": incident})
    return ServiceError(
        "INTERNAL",
        f"something failed on the server; its log knows incident {incident}",
        metadata={"incident": incident},
    )


def as_service_error(error: BaseException) -> ServiceError:
    """The edge's one translation: a ServiceError as it is, also if a remote call wrapped it; all else is `internal`."""
    innermost: Any = error
    while isinstance(cause := getattr(innermost, "cause", None), BaseException):
        innermost = cause
    return innermost if isinstance(innermost, ServiceError) else internal(error)


class ClientError(Exception):
    """A failed call as the client sees it. `reason` is empty where the service had no say: a proxy, the network.

    What is raised is the subclass for its code (`BadInput`, `Exhausted`, ...), where there is one.
    """

    def __new__(cls, code: StatusCode, *args: Any, **kwargs: Any) -> ClientError:
        chosen = BY_CODE.get(code, cls) if cls is ClientError else cls
        return super().__new__(chosen)

    def __init__(self, code: StatusCode, message: str, reason: str = "") -> None:
        super().__init__(code, message, reason)
        self.code = code
        self.message = message
        self.reason = reason
        self.field: str | None = None
        self.retry_after_s: float | None = None
        self.quota_subject: str | None = None
        self.precondition: str | None = None
        self.metadata: dict[str, str] = {}

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    @property
    def resumable(self) -> bool:
        """Whether a new stream with the resume token may go on: what a killed gateway, proxy or replica looks like."""
        return self.code in (StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.CANCELLED)


class BadInput(ClientError):
    """The request is wrong whenever it is sent; `field` says which part of it."""


class NotAuthenticated(ClientError):
    """No credentials came, or they are not accepted."""


class NotAllowed(ClientError):
    """The caller may not do this."""


class NotFound(ClientError):
    """There is no such avatar or session, or it is another's."""


class Exhausted(ClientError):
    """A quota is used up or the service is full; `retry_after_s` says when to come back."""


class WrongState(ClientError):
    """The request is wrong after what came before it; `precondition` names what does not hold."""


class Unavailable(ClientError):
    """The service cannot be reached, or not now; this passes."""


class DeadlineExceeded(ClientError):
    """There was no answer in time."""


class DataLost(ClientError):
    """Something is gone that nobody can bring back."""


BY_CODE: dict[StatusCode, type[ClientError]] = {
    StatusCode.INVALID_ARGUMENT: BadInput, StatusCode.OUT_OF_RANGE: BadInput,
    StatusCode.UNAUTHENTICATED: NotAuthenticated, StatusCode.PERMISSION_DENIED: NotAllowed,
    StatusCode.NOT_FOUND: NotFound, StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    StatusCode.FAILED_PRECONDITION: WrongState, StatusCode.ABORTED: WrongState,
    StatusCode.UNAVAILABLE: Unavailable, StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.DATA_LOSS: DataLost,
}  # fmt: skip
"""What a failed call is raised as; any other code is a plain `ClientError`."""


def from_rpc_error(error: grpc.RpcError) -> ClientError:
    """Reads back what `ServiceError` sent, from a blocking or asyncio call; without details, code and text remain."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return ClientError(StatusCode.UNKNOWN, str(error))
    client_error = ClientError(error.code() or StatusCode.UNKNOWN, error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                for packed in status_pb2.Status.FromString(value).details:
                    _read_detail(client_error, packed)
            except DecodeError:
                _log.warning("the server's error details are damaged and were left out")
    return client_error


def _read_detail(error: ClientError, packed: any_pb2.Any) -> None:
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    state, quota, retry = (
        error_details_pb2.PreconditionFailure(),
        error_details_pb2.QuotaFailure(),
        error_details_pb2.RetryInfo(),
    )
    if packed.Unpack(info) and info.domain == DOMAIN:
        error.reason = info.reason
        error.metadata = dict(info.metadata)
    elif packed.Unpack(request) and request.field_violations:
        error.field = request.field_violations[0].field
    elif packed.Unpack(state) and state.violations:
        error.precondition = state.violations[0].type
    elif packed.Unpack(quota) and quota.violations:
        error.quota_subject = quota.violations[0].subject
    elif packed.Unpack(retry):
        error.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000


def _sendable(text: str) -> str:
    """Valid UTF-8 of at most MAX_TEXT_BYTES: client input quoted in a message must not break the trailer."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_TEXT_BYTES:
        return data.decode()
    return data[: MAX_TEXT_BYTES - 3].decode("utf-8", "ignore") + "..."


def _restore(cls: type[ServiceError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ServiceError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error
