"""Avatars: portraits prepared once, kept for their tenant."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from liveact.v1 import avatar_pb2
from liveact_services.errors import ServiceError, fail
from liveact_services.sessions.database import Clock, Database
from liveact_services.sessions.names import avatar_name, new_id

MAX_DISPLAY_NAME = 128


@dataclass(frozen=True)
class AvatarRecord:
    """An avatar without its picture."""

    id: str
    tenant: str
    display_name: str
    source_width: int
    source_height: int
    create_time: float
    """Seconds since the epoch."""
    consent: str = ""
    """Where the consent of the person shown is on file, as it was given."""

    def to_hash(self) -> dict[str, str]:
        return {name: str(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_hash(cls, stored: Mapping[bytes, bytes]) -> AvatarRecord:
        text = {name.decode(): value.decode() for name, value in stored.items()}
        return cls(
            id=text["id"],
            tenant=text["tenant"],
            display_name=text["display_name"],
            source_width=int(text["source_width"]),
            source_height=int(text["source_height"]),
            create_time=float(text["create_time"]),
            consent=text.get("consent", ""),
        )

    def to_proto(self) -> avatar_pb2.Avatar:
        created = Timestamp()
        created.FromMicroseconds(round(self.create_time * 1_000_000))
        return avatar_pb2.Avatar(
            name=avatar_name(self.id),
            display_name=self.display_name,
            create_time=created,
            source_width=self.source_width,
            source_height=self.source_height,
            consent=self.consent,
        )


class AvatarStore:
    """Every method raises STORE_UNAVAILABLE when Redis is away; another tenant's avatar is not found."""

    def __init__(self, database: Database, *, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, tenant: str, display_name: str, image: bytes, source_width: int, source_height: int, consent: str = ""
    ) -> AvatarRecord:
        """Keeps a prepared portrait (any bytes; the store does not look inside). Raises DISPLAY_NAME_TOO_LONG."""
        if len(display_name) > MAX_DISPLAY_NAME:
            raise fail(
                "DISPLAY_NAME_TOO_LONG",
                f"the display name has {len(display_name)} characters; accepted are {MAX_DISPLAY_NAME}",
            )
        record = AvatarRecord(new_id(), tenant, display_name, source_width, source_height, self._clock(), consent)
        pairs = [text for pair in record.to_hash().items() for text in pair]
        await self._database.run("avatar_create", self._keys(record.id, tenant), [record.id, image, *pairs])
        return record

    async def get(self, avatar_id: str, tenant: str) -> AvatarRecord:
        """Raises AVATAR_NOT_FOUND."""
        stored = await self._database.call(self._database.client.hgetall(self._database.key("avatar", avatar_id)))
        if not stored or stored[b"tenant"].decode() != tenant:
            raise _not_found(avatar_id)
        return AvatarRecord.from_hash(stored)

    async def image(self, avatar_id: str, tenant: str) -> bytes:
        """The prepared portrait. Raises AVATAR_NOT_FOUND."""
        return (await self.portrait(avatar_id, tenant))[1]

    async def portrait(self, avatar_id: str, tenant: str) -> tuple[AvatarRecord, bytes]:
        """The avatar with its prepared portrait. Raises AVATAR_NOT_FOUND."""
        record = await self.get(avatar_id, tenant)
        image = await self._database.call(self._database.client.get(self._database.key("avatar", avatar_id, "image")))
        if image is None:
            raise _not_found(avatar_id)
        return record, image

    async def list(self, tenant: str) -> list[AvatarRecord]:
        """The tenant's avatars, newest first."""
        client = self._database.client
        ids: set[bytes] = await self._database.call(client.smembers(self._database.key("tenant", tenant, "avatars")))
        pipeline = client.pipeline(transaction=False)
        for avatar_id in ids:
            pipeline.hgetall(self._database.key("avatar", avatar_id.decode()))
        hashes: list[dict[bytes, bytes]] = await self._database.call(pipeline.execute())
        records = [AvatarRecord.from_hash(stored) for stored in hashes if stored]
        return sorted(records, key=lambda record: (record.create_time, record.id), reverse=True)

    async def delete(self, avatar_id: str, tenant: str) -> None:
        """Forgets the avatar and its picture. Raises AVATAR_NOT_FOUND."""
        outcome, _ = await self._database.run("avatar_delete", self._keys(avatar_id, tenant), [avatar_id])
        if outcome == "MISSING":
            raise _not_found(avatar_id)

    def _keys(self, avatar_id: str, tenant: str) -> tuple[str, str, str]:
        key = self._database.key
        return key("avatar", avatar_id), key("avatar", avatar_id, "image"), key("tenant", tenant, "avatars")


def _not_found(avatar_id: str) -> ServiceError:
    return fail("AVATAR_NOT_FOUND", f"there is no avatar avatars/{avatar_id}")
