"""What a tenant has: its avatars and its sessions' records."""

from __future__ import annotations

import asyncio
import hashlib

from liveact.v1 import avatar_pb2 as pb
from liveact_models.config import ModelConfig
from liveact_services.audit.event import Action
from liveact_services.audit.witness import Witness
from liveact_services.errors import ServiceError
from liveact_services.gateway import requests
from liveact_services.gateway.portraits import require_registering
from liveact_services.sessions import AvatarStore, SessionStore, names
from liveact_services.tenants.rules import Rules


class Catalogue:
    """The unary calls of one tenant. Every method raises `ServiceError`."""

    def __init__(
        self,
        avatars: AvatarStore,
        sessions: SessionStore,
        model: ModelConfig,
        tenant: str,
        rules: Rules,
        witness: Witness,
    ) -> None:
        self._avatars, self._sessions, self._model, self.tenant = avatars, sessions, model, tenant
        self._rules, self._witness = rules, witness

    async def create_avatar(self, request: pb.CreateAvatarRequest) -> pb.CreateAvatarResponse:
        """Check the portrait by preparing it, and keep the file: sessions may ask for it at any size."""
        about = {"portrait_sha256": await asyncio.to_thread(_sha256, request.image)}
        try:
            response = await self._create(request)
        except ServiceError as error:
            self._witness.tell(Action.AVATAR_REFUSED, reason=error.reason, **about)
            raise
        avatar = response.avatar
        self._witness.tell(Action.AVATAR_CREATED, avatar=names.avatar_id(avatar.name), consent=avatar.consent, **about)
        return response

    async def _create(self, request: pb.CreateAvatarRequest) -> pb.CreateAvatarResponse:
        consent = require_registering(request.consent, self._rules)
        width, height = self._model.limits.default
        picture = await asyncio.to_thread(requests.portrait, request.image, width, height)
        record = await self._avatars.create(
            self.tenant, request.display_name, request.image, picture.source_width, picture.source_height, consent
        )
        return pb.CreateAvatarResponse(avatar=record.to_proto())

    async def list_avatars(self) -> pb.ListAvatarsResponse:
        """Newest first."""
        return pb.ListAvatarsResponse(avatars=[r.to_proto() for r in await self._avatars.list(self.tenant)])

    async def delete_avatar(self, request: pb.DeleteAvatarRequest) -> pb.DeleteAvatarResponse:
        """Sessions that run with it go on."""
        avatar = names.avatar_id(request.name)
        await self._avatars.delete(avatar, self.tenant)
        self._witness.tell(Action.AVATAR_DELETED, avatar=avatar)
        return pb.DeleteAvatarResponse()

    async def get_session(self, request: pb.GetSessionRequest) -> pb.GetSessionResponse:
        """As it stands in the store."""
        record = await self._sessions.get(names.session_id(request.name), self.tenant)
        return pb.GetSessionResponse(session=record.to_proto())

    async def list_sessions(self) -> pb.ListSessionsResponse:
        """Newest first."""
        return pb.ListSessionsResponse(sessions=[r.to_proto() for r in await self._sessions.list(self.tenant)])

    async def close_session(self, request: pb.DeleteSessionRequest) -> pb.DeleteSessionResponse:
        """Closed in the store; one that has ended stays as it ended."""
        session = names.session_id(request.name)
        await self._sessions.close(session, self.tenant)
        self._witness.tell(Action.DELETED, session=session)
        return pb.DeleteSessionResponse()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
