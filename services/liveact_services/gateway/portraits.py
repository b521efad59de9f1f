"""Whose face a session shows: the portrait's file, and what is known of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from liveact.v1 import avatar_pb2 as pb
from liveact_services.errors import fail
from liveact_services.sessions import AvatarStore, names


@dataclass(frozen=True)
class Source:
    """A portrait's file, as it was sent."""

    image: bytes
    avatar: str = ""
    """Id of the avatar it was made to; empty where it came with the stream."""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.image).hexdigest()


async def source(config: pb.SessionConfig, avatars: AvatarStore, tenant: str) -> Source:
    """The portrait that a config asks for. Raises `ServiceError`."""
    match config.WhichOneof("portrait"):
        case "image":
            return Source(config.image)
        case "avatar":
            avatar = names.avatar_id(config.avatar)
            return Source(await avatars.image(avatar, tenant), avatar)
        case _:
            raise fail("PORTRAIT_MISSING", "neither image nor avatar is set")
