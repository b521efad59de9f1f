"""What the store knows of a session."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from google.protobuf.timestamp_pb2 import Timestamp

from liveact.v1 import avatar_pb2
from liveact_services.sessions.names import session_name
from liveact_services.sessions.states import SessionState
from liveact_services.tenants.tenant import DEFAULT_POOL

FieldValue = str | int | float


@dataclass(frozen=True)
class SessionRecord:
    """A session, as the hash `session:{id}` holds it. Times are seconds since the epoch, enums the proto's numbers."""

    id: str
    tenant: str
    state: SessionState
    width: int
    height: int
    fps: int
    sample_rate_hz: int
    channels: int
    encoding: int
    codec: int
    pacing: int
    idle_policy: int
    seed: int
    create_time: float
    update_time: float
    expire_time: float
    prompt: str = ""
    checkpoint: str = "untrained"
    """Weights its frames come from."""
    resume_hash: str = ""
    """sha256 of the resume token."""
    gateway: str = ""
    """Who holds or last held the lease."""
    denoiser: str = ""
    """Replica that holds the ConvKV memory."""
    decoder: str = ""
    """Replica that holds the VAE's feature cache."""
    token: int = 0
    """The newest fencing token given out for it."""
    block: int = 0
    """Blocks finished: the next block's index."""
    frame: int = 0
    """Video frames made."""
    weight: float = 1.0
    """Its tenant's share of a contended Denoiser."""
    pool: str = DEFAULT_POOL
    """The Denoisers meant for its tenant."""
    watermark: str = ""
    """The kinds of marks that its pictures carry, with a space between."""

    def to_hash(self) -> dict[str, str]:
        """Field names to text; a number reads back exactly."""
        return {field.name: encode(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_hash(cls, stored: Mapping[bytes, bytes]) -> SessionRecord:
        """The record of a stored hash. Versions mix in a rollout: fields unknown here are left out, later ones get defaults.

        Raises ValueError for a hash that lacks a field without default or holds what does not read.
        """
        optional = {f.name for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
        known = {name: read for name, read in _readers().items() if name.encode() in stored or name not in optional}
        try:
            return cls(**{name: read(stored[name.encode()].decode()) for name, read in known.items()})
        except (KeyError, ValueError) as error:
            raise ValueError(f"the stored session {stored.get(b'id', b'?')!r} does not read: {error}") from error

    def to_proto(self) -> avatar_pb2.Session:
        """As a client sees it: no resume token, and no limits, which are the stream's."""
        return avatar_pb2.Session(
            name=session_name(self.id),
            state=avatar_pb2.SessionState.ValueType(self.state),
            create_time=_timestamp(self.create_time),
            expire_time=_timestamp(self.expire_time),
            width=self.width,
            height=self.height,
            fps=self.fps,
            audio_format=avatar_pb2.AudioFormat(
                sample_rate_hz=self.sample_rate_hz,
                channels=self.channels,
                encoding=avatar_pb2.AudioEncoding.ValueType(self.encoding),
            ),
            codec=avatar_pb2.VideoCodec.ValueType(self.codec),
            pacing=avatar_pb2.Pacing.ValueType(self.pacing),
            idle_policy=avatar_pb2.IdlePolicy.ValueType(self.idle_policy),
            frames=self.frame,
            checkpoint=self.checkpoint,
            watermark=avatar_pb2.Watermark(**dict.fromkeys(self.watermark.split(), True)),
        )


WRITABLE = frozenset(field.name for field in dataclasses.fields(SessionRecord)) - {
    "id", "tenant", "state", "create_time", "update_time", "token", "weight", "pool", "watermark",
}  # fmt: skip
"""Fields a caller may change with a move; the store itself keeps the others."""


def encode(value: FieldValue) -> str:
    if isinstance(value, SessionState):
        return value.name
    return repr(value) if isinstance(value, float) else str(value)


@cache
def _readers() -> dict[str, Any]:
    """How each field is read back from text."""
    hints = get_type_hints(SessionRecord)
    return {name: SessionState.__getitem__ if kind is SessionState else kind for name, kind in hints.items()}


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1_000_000))
    return stamp
