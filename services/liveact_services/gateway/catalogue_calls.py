"""The calls about avatars and sessions, each answered by the caller's catalogue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from liveact.v1 import avatar_pb2 as pb
from liveact_services.errors import as_service_error
from liveact_services.gateway.call_meter import refused
from liveact_services.gateway.catalogue import Catalogue
from liveact_services.gateway.status import set_status

if TYPE_CHECKING:
    from ray.serve.grpc_util import RayServegRPCContext

R = TypeVar("R")


class CatalogueCalls(ABC):
    """Half of `AvatarService`; who calls, and which sessions are live, the Gateway knows."""

    @abstractmethod
    async def catalogue(self, context: RayServegRPCContext) -> Catalogue:
        """The caller's, once the call is counted. Raises `ServiceError`."""

    @abstractmethod
    async def close_live(self, name: str, tenant: str) -> None:
        """Close the session if it is live here and that tenant's."""

    async def CreateAvatar(
        self, request: pb.CreateAvatarRequest, grpc_context: RayServegRPCContext
    ) -> pb.CreateAvatarResponse:
        """Check a portrait and keep it."""
        return await self._answer(grpc_context, pb.CreateAvatarResponse(), lambda mine: mine.create_avatar(request))

    async def ListAvatars(
        self, request: pb.ListAvatarsRequest, grpc_context: RayServegRPCContext
    ) -> pb.ListAvatarsResponse:
        """The caller's avatars."""
        return await self._answer(grpc_context, pb.ListAvatarsResponse(), lambda mine: mine.list_avatars())

    async def DeleteAvatar(
        self, request: pb.DeleteAvatarRequest, grpc_context: RayServegRPCContext
    ) -> pb.DeleteAvatarResponse:
        """Forget an avatar."""
        return await self._answer(grpc_context, pb.DeleteAvatarResponse(), lambda mine: mine.delete_avatar(request))

    async def GetSession(
        self, request: pb.GetSessionRequest, grpc_context: RayServegRPCContext
    ) -> pb.GetSessionResponse:
        """One session's record."""
        return await self._answer(grpc_context, pb.GetSessionResponse(), lambda mine: mine.get_session(request))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, grpc_context: RayServegRPCContext
    ) -> pb.ListSessionsResponse:
        """The caller's sessions."""
        return await self._answer(grpc_context, pb.ListSessionsResponse(), lambda mine: mine.list_sessions())

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, grpc_context: RayServegRPCContext
    ) -> pb.DeleteSessionResponse:
        """Close a session."""
        empty = pb.DeleteSessionResponse()
        return await self._answer(grpc_context, empty, lambda mine: self._delete_session(request, mine))

    async def _delete_session(self, request: pb.DeleteSessionRequest, mine: Catalogue) -> pb.DeleteSessionResponse:
        await self.close_live(request.name, mine.tenant)
        # Written either way: the record is the answer to whoever asks next.
        return await mine.close_session(request)

    async def _answer(self, context: RayServegRPCContext, empty: R, ask: Callable[[Catalogue], Awaitable[R]]) -> R:
        """What the caller's catalogue answers, or the status of what it failed with and an empty message.

        Returned and not raised: Serve passes an exception's code on, but the details in its trailers only with a message.
        """
        try:
            return await ask(await self.catalogue(context))
        except Exception as error:
            known = as_service_error(error)
            refused(known)
            set_status(context, known)
            return empty
