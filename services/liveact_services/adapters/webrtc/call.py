"""One viewer and its session, from the offer to the end of either."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import av
from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from google.protobuf import json_format

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.adapters.utterances import Utterances
from liveact_services.adapters.webrtc.gate import GateRules, VoiceGate
from liveact_services.adapters.webrtc.tracks import Show
from liveact_services.client import AvatarClient, AvatarSession, ClientError, MediaError, Moment, play

CONNECT_S = 30.0
"""How long media may take to find its way before the session is given up."""
CHANNEL_WORDS = ("interrupt", "update")
"""Requests that a viewer may send over the data channel."""

log = logging.getLogger(__name__)


class OfferError(ValueError):
    """An offer that cannot be answered; the message says what is accepted."""


class Call:
    """Open one with `open`; it ends by itself with the session or the connection, or by `end`."""

    def __init__(self, client: AvatarClient, session: AvatarSession, ice: tuple[str, ...], gate: GateRules) -> None:
        agreed = session.session
        self.name = agreed.name
        self._client, self._session, self._gate_rules = client, session, gate
        self._show = Show(agreed.fps, agreed.audio_format.sample_rate_hz)
        self._utterances = Utterances(session)
        self._gate = VoiceGate(agreed.audio_format.sample_rate_hz, gate)
        servers = [RTCIceServer(urls=url) for url in ice]
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._channels: list[RTCDataChannel] = []
        self._connected = asyncio.Event()
        self._over = False
        self._listeners: list[Callable[[], object]] = []
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._peer.on("connectionstatechange", self._state_changed)
        self._peer.on("track", self._track_came)
        self._peer.on("datachannel", self._channel_came)

    @classmethod
    async def open(
        cls,
        client: AvatarClient,
        portrait: bytes | str,
        options: dict[str, Any],
        *,
        ice: tuple[str, ...] = (),
        gate: GateRules = GateRules(),
    ) -> Call:
        """A call whose session is admitted. `portrait` and `options` are `AvatarClient.session`'s.

        It takes the client over and closes it. Raises `ClientError`.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(client)
            session = await stack.enter_async_context(client.session(portrait, **options))
            call = cls(client, session, ice, gate)
            call._stack = stack.pop_all()
        return call

    async def answer(self, offer: str) -> str:
        """The SDP that answers an offer's, with all candidates; the call runs from then on. Raises `OfferError`."""
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        except Exception as error:
            raise OfferError(f"the offer is no SDP that can be answered ({type(error).__name__}: {error})") from None
        kinds = [transceiver.kind for transceiver in self._peer.getTransceivers()]
        if "video" not in kinds or "audio" not in kinds:
            raise OfferError(f"the offer has {', '.join(kinds) or 'no media'}: accepted is one with audio and video")
        self._peer.addTrack(self._show.video)
        self._peer.addTrack(self._show.sound)
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        self._begin(self._watch())
        self._begin(self._play())
        return str(self._peer.localDescription.sdp)

    async def end(self) -> None:
        """End the session and the connection. Ending twice is no error."""
        if self._over:
            return
        self._over = True
        for told in self._listeners:
            told()
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(5):
                await self._client.delete_session(self.name)
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        self._show.end()
        await self._peer.close()
        await self._stack.aclose()
        log.info("%s has ended; frames left out for a slow line: %d", self.name, self._show.video.left_out)

    def when_over(self, told: Callable[[], object]) -> None:
        """Have it called once the call ends, at once where it has."""
        self._listeners.append(told)
        if self._over:
            told()

    # ---- what comes from the viewer ----------------------------------------------------------------------------------------

    def _track_came(self, track: Any) -> None:
        if track.kind == "audio":
            self._begin(self._listen(track))

    async def _listen(self, track: Any) -> None:
        """The microphone, as long as it is there."""
        resampler = av.AudioResampler(
            format="s16", layout="mono", rate=self._session.session.audio_format.sample_rate_hz
        )
        with suppress(MediaStreamError, ClientError):
            await self._session.ready()
            while True:
                for part in resampler.resample(await track.recv()):
                    voice, ended = self._gate.feed(part.to_ndarray()[0])
                    if len(voice):
                        await self._utterances.hear(voice.tobytes(), part.sample_rate, 1)
                    if ended:
                        await self._utterances.end()

    def _channel_came(self, channel: RTCDataChannel) -> None:
        self._channels.append(channel)
        channel.on("message", lambda text: self._begin(self._obey(channel, text)))

    async def _obey(self, channel: RTCDataChannel, text: str | bytes) -> None:
        """A request in JSON, as the API's `StreamAvatarRequest` is written; what is wrong with it is said on the channel."""
        try:
            request = json_format.Parse(text, pb2.StreamAvatarRequest())
            word = request.WhichOneof("payload")
            if word not in CHANNEL_WORDS:
                raise ValueError(f"{word or 'an empty request'}: accepted are {', '.join(CHANNEL_WORDS)}")
            await self._session.ready()
            if word == "interrupt":
                self._gate.close()
                await self._utterances.interrupt()
            else:
                await self._session.send(request)
        except json_format.ParseError as error:
            why = f"the message is no request in JSON ({error}): accepted are {', '.join(CHANNEL_WORDS)}"
            _tell(channel, json.dumps({"error": why}))
        except (ValueError, ClientError) as error:
            _tell(channel, json.dumps({"error": str(error)}))

    # ---- what goes to the viewer -------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        """Frames when they are due, whether somebody sees them yet or not: the clock does not wait."""
        why = "the session has ended"
        try:
            async for item in play(self._session):
                if isinstance(item, Moment):
                    if self._connected.is_set():
                        self._show.put(item)
                else:
                    self._tell(json_format.MessageToJson(item, indent=None))
        except (ClientError, MediaError) as error:
            why = str(error)
            self._tell(json.dumps({"error": why}))
        finally:
            log.info("%s: %s", self.name, why)
            await self.end()

    def _tell(self, text: str) -> None:
        for channel in self._channels:
            _tell(channel, text)

    # ---- the connection ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connected.wait()
        except TimeoutError:
            log.warning("%s: no media came through within %g s", self.name, CONNECT_S)
            await self.end()

    async def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            await self.end()

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tell(channel: RTCDataChannel, text: str) -> None:
    if channel.readyState == "open":
        channel.send(text)
