"""A call's status where HTTP is spoken."""

from __future__ import annotations

from grpc import StatusCode

_HTTP_STATUS = {
    StatusCode.INVALID_ARGUMENT: 400, StatusCode.FAILED_PRECONDITION: 400, StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401, StatusCode.PERMISSION_DENIED: 403, StatusCode.NOT_FOUND: 404,
    StatusCode.ABORTED: 409, StatusCode.ALREADY_EXISTS: 409, StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNIMPLEMENTED: 501, StatusCode.UNAVAILABLE: 503, StatusCode.DEADLINE_EXCEEDED: 504,
}  # fmt: skip
"""As Connect maps them; every other code is 500."""


def http_status(code: StatusCode) -> int:
    """The HTTP status of a gRPC code."""
    return _HTTP_STATUS.get(code, 500)
