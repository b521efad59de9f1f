"""The bridge with the real aiortc on both ends: a viewer's microphone in, face and voice out; the Gateway of this process."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

pytest.importorskip("aiortc", reason="needs the extra webrtc: pip install 'liveact-serve[webrtc]'")

import uvicorn
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame
from typer.testing import CliRunner

from avatar_fixtures import PaintingStages
from liveact.v1 import avatar_pb2 as pb
from liveact_services.adapters.webrtc.bridge import Bridge, BridgeRules
from liveact_services.adapters.webrtc.gate import GateRules, VoiceGate
from liveact_services.cli.exits import ExitCode
from liveact_services.cli.main import app
from liveact_services.client import AvatarClient
from liveact_services.gateway import deployment
from resume_fixtures import until
from tenant_fixtures import Serving, Tenants, picture, serving

pytest_plugins = ["session_fixtures", "tenant_fixtures"]

SIDE = 64
RATE = 48000
LOUD = 1000
"""Sound above this is the tone, below it silence and what the codec makes of that."""
SDP = {"content-type": "application/sdp"}


class Microphone(MediaStreamTrack):
    """A tone between two times, silence before and after, at the pace of a device."""

    kind = "audio"

    def __init__(self, begins_s: float = 1.0, lasts_s: float = 2.0) -> None:
        super().__init__()
        at = np.arange(round((begins_s + lasts_s + 60) * RATE)) / RATE
        tone = 12000 * np.sin(2 * np.pi * 500 * at)
        self._sound = np.where((at >= begins_s) & (at < begins_s + lasts_s), tone, 0).astype(np.int16)
        self._at = 0
        self._began: float | None = None

    async def recv(self) -> AudioFrame:
        self._began = self._began or time.monotonic()
        await asyncio.sleep(max(0.0, self._began + self._at / RATE - time.monotonic()))
        frame = AudioFrame.from_ndarray(self._sound[None, self._at : self._at + 960], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._at, Fraction(1, RATE)
        self._at += 960
        return frame


class Viewer:
    """A browser's part: it offers, and notes what it sees and hears and when."""

    def __init__(self, microphone: Microphone | None = None) -> None:
        self.peer = RTCPeerConnection()
        self.channel = self.peer.createDataChannel("liveact")
        self.peer.addTrack(microphone or Microphone(60.0))
        self.peer.addTransceiver("video", direction="recvonly")
        self.seen: list[tuple[float, float]] = []
        """When, and the grey of the picture."""
        self.heard: list[tuple[float, float]] = []
        """When, and the loudest sample of 20 ms."""
        self.told: list[dict[str, Any]] = []
        self.channel.on("message", lambda text: self.told.append(json.loads(text)))
        self.peer.on("track", lambda track: self._tasks.append(asyncio.create_task(self._take(track))))
        self._tasks: list[asyncio.Task[None]] = []

    async def offer(self) -> str:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return str(self.peer.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.told if event.get("type") == f"EVENT_TYPE_{kind}"]

    @property
    def loud(self) -> list[float]:
        """When the tone was heard."""
        return [when for when, level in self.heard if level > LOUD]

    async def _take(self, track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.seen.append((time.monotonic(), float(frame.to_ndarray(format="rgb24").mean())))
                else:
                    self.heard.append((time.monotonic(), float(np.abs(frame.to_ndarray().astype(int)).max())))
        except MediaStreamError:
            return

    async def close(self) -> None:
        await self.peer.close()
        for task in self._tasks:
            task.cancel()


class Site:
    """A bridge on a port, and what a browser says to it over HTTP."""

    def __init__(self, bridge: Bridge, url: str, http: aiohttp.ClientSession) -> None:
        self.bridge, self.url, self.http = bridge, url, http

    async def post(self, offer: str, query: str = "", **headers: str) -> tuple[int, str, Any]:
        """Status, body and headers of the answer to an offer."""
        async with self.http.post(f"{self.url}/whip{query}", data=offer, headers={**SDP, **headers}) as answer:
            return answer.status, await answer.text(), answer.headers

    async def meet(self, viewer: Viewer, query: str = "", **headers: str) -> str:
        """The viewer sees the face; gives the call's place."""
        status, text, told = await self.post(await viewer.offer(), query, **headers)
        assert status == 201, text
        assert told["content-type"].startswith("application/sdp")
        await viewer.accept(text)
        return str(told["location"])

    async def delete(self, place: str) -> int:
        async with self.http.delete(self.url + place) as answer:
            return answer.status


@asynccontextmanager
async def bridging(rules: BridgeRules) -> AsyncIterator[Site]:
    bridge = Bridge(rules)
    server = uvicorn.Server(uvicorn.Config(bridge.app(), "127.0.0.1", 0, log_level="error"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    async with aiohttp.ClientSession() as http:
        yield Site(bridge, url, http)
        await bridge.close()
    server.should_exit = True
    await task


@pytest_asyncio.fixture
async def gateway(in_process: None, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> AsyncIterator[Serving]:
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: PaintingStages())
    async with serving(redis_url) as gateway:
        yield gateway


@pytest_asyncio.fixture
async def site(gateway: Serving) -> AsyncIterator[Site]:
    rules = BridgeRules(
        gateway.address,
        picture(),
        size=(SIDE, SIDE),
        codec=pb.VIDEO_CODEC_RGB,
        max_calls=2,
        origins=("https://friend.example",),
    )
    async with bridging(rules) as site:
        yield site


async def test_a_viewer_speaks_and_sees_a_face_that_says_it_in_time(site: Site, gateway: Serving) -> None:
    viewer = Viewer(Microphone(begins_s=1.5, lasts_s=2.0))
    place = await site.meet(viewer)
    await until(lambda: len(viewer.loud) > 90 and viewer.heard[-1][0] - viewer.loud[-1] > 0.5)
    # Pictures are grey, each a little lighter: the viewer sees them in their order, all of them but for a few.
    greys = [grey for _, grey in viewer.seen]
    assert len(greys) > 40
    assert all(later > earlier - 1.5 for earlier, later in pairwise(greys))
    assert max(greys) > min(greys) + 30
    # The tone lasts as long as it was said, but for what the codec smears; on a busy machine it comes with pauses.
    assert 1.8 < viewer.loud[-1] - viewer.loud[0] < 4.0
    assert len(viewer.loud) == pytest.approx(100, abs=15)
    # Sound and picture are on one clock: at the tone's first frame that frame's picture is there.
    await until(lambda: bool(viewer.events("SPEECH_ENDED")))
    first = int(viewer.events("SPEECH_STARTED")[0]["ptsUs"]) / 50_000
    shown = next(when for when, grey in viewer.seen if grey >= first)
    assert abs(shown - viewer.loud[0]) < 0.5
    print(f"{len(greys)} pictures; sound came {1000 * (viewer.loud[0] - shown):.0f} ms after its picture")
    assert site.bridge.calls == 1
    assert await site.delete(place) == 200
    assert await site.delete(place) == 404
    assert site.bridge.calls == 0
    async with AvatarClient(gateway.address, token="") as client:
        (record,) = await client.list_sessions()
        assert record.state == pb.SESSION_STATE_CLOSED
        assert (record.width, record.height) == (SIDE, SIDE)
    await viewer.close()


async def test_an_interrupt_silences_the_face_and_nonsense_on_the_channel_is_answered(site: Site) -> None:
    viewer = Viewer(Microphone(begins_s=0.5, lasts_s=30.0))
    await site.meet(viewer)
    await until(lambda: len(viewer.loud) > 20)
    viewer.channel.send('{"interrupt": {}}')
    await until(lambda: bool(viewer.events("INTERRUPTED")))
    # The microphone goes on, and what comes now is another utterance's.
    await until(lambda: len(viewer.events("SPEECH_STARTED")) == 2)
    assert [event["utteranceId"] for event in viewer.events("SPEECH_STARTED")] == ["utterance-1", "utterance-2"]
    viewer.channel.send('{"update": {"prompt": "A person laughs."}}')
    await until(lambda: bool(viewer.events("PROMPT_APPLIED")))
    for nonsense, why in (
        ("{", "no request in json"),
        ('{"close": {}}', "accepted are interrupt, update"),
        ("{}", "an empty request"),
    ):
        before = len(viewer.told)
        viewer.channel.send(nonsense)
        await until(lambda before=before: any("error" in event for event in viewer.told[before:]))  # type: ignore[misc]
        assert why in next(event["error"] for event in viewer.told[before:] if "error" in event).lower()
    await viewer.close()


async def test_whoever_goes_first_the_other_hears_of_it(site: Site, gateway: Serving) -> None:
    viewer = Viewer()
    place = await site.meet(viewer)
    await until(lambda: len(viewer.seen) > 3)
    async with AvatarClient(gateway.address, token="") as client:
        await client.delete_session(f"sessions/{place.rpartition('/')[2]}")
        await until(lambda: site.bridge.calls == 0)
        await until(lambda: viewer.peer.connectionState == "closed")
        other = Viewer()
        await site.meet(other)
        await until(lambda: len(other.seen) > 3)
        await other.close()
        await until(lambda: site.bridge.calls == 0)
        async with asyncio.timeout(30):
            while {record.state for record in await client.list_sessions()} != {pb.SESSION_STATE_CLOSED}:
                await asyncio.sleep(0.05)
    await viewer.close()


async def test_what_cannot_be_is_refused_with_its_reason(site: Site) -> None:
    viewer = Viewer()
    offer = await viewer.offer()
    silent = RTCPeerConnection()
    silent.addTransceiver("audio")
    await silent.setLocalDescription(await silent.createOffer())
    asked: list[tuple[str, str, dict[str, str], int, str, str]] = [
        ("no sdp", "", {}, 400, "OFFER", "the offer has no media"),
        ("v=0\r\nm=video nonsense", "", {}, 400, "OFFER", "no SDP that can be answered"),
        (
            silent.localDescription.sdp,
            "",
            {},
            400,
            "OFFER",
            "the offer has audio: accepted is one with audio and video",
        ),
        (offer, "", {"content-type": "text/plain"}, 400, "OFFER", "accepted is application/sdp"),
        (offer, "?avatar=face.jpg", {}, 400, "OFFER", "avatars/ID"),
        (offer, "?size=big", {}, 400, "OFFER", "size=512x512"),
        ("x" * 70_000, "", {}, 400, "OFFER", "65536 bytes"),
        (offer, "?avatar=avatars/nobody", {}, 404, "AVATAR_NOT_FOUND", "nobody"),
        (offer, "?size=33x33", {}, 400, "SIZE_UNSUPPORTED", "multiples of"),
    ]
    for body, query, headers, status, reason, why in asked:
        got, text, _ = await site.post(body, query, **headers)
        told = json.loads(text)
        assert (got, told["reason"]) == (status, reason), text
        assert why in told["message"]
    assert site.bridge.calls == 0
    async with site.http.patch(f"{site.url}/whip/x") as answer:
        assert answer.status == 405
    async with site.http.get(f"{site.url}/") as answer:
        assert "LiveAct over WebRTC" in await answer.text()
    await viewer.close()
    await silent.close()


async def test_a_full_bridge_says_when_to_come_back_and_only_its_friends_pages_may_call(site: Site) -> None:
    viewers = [Viewer() for _ in range(2)]
    for viewer in viewers:
        await site.meet(viewer)
    status, text, told = await site.post("any")
    assert (status, json.loads(text)["reason"], told["retry-after"]) == (503, "CAPACITY", "5")
    async with site.http.get(f"{site.url}/healthz") as answer:
        assert await answer.json() == {"calls": 2, "max_calls": 2}
    for origin, allowed in (("https://friend.example", True), ("https://other.example", False)):
        ask = {"origin": origin, "access-control-request-method": "POST"}
        async with site.http.options(f"{site.url}/whip", headers=ask) as answer:
            assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
    for viewer in viewers:
        await viewer.close()


async def test_viewers_call_with_their_own_keys(in_process: None, redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme")
    async with (
        serving(redis_url, tenants=str(tenants.write())) as gateway,
        bridging(BridgeRules(gateway.address, picture())) as site,
        bridging(BridgeRules(gateway.address, picture(), token=key)) as open_to_all,
    ):
        viewer = Viewer()
        offer = await viewer.offer()
        assert json.loads((await site.post(offer))[1])["reason"] == "CREDENTIALS_MISSING"
        assert (await site.post(offer, authorization="Bearer wrong"))[0] == 401
        assert (await site.post(offer, authorization=f"Bearer {key}"))[0] == 201
        assert (await open_to_all.post(offer))[0] == 201
        await viewer.close()


def test_the_gate_passes_voice_with_what_came_just_before_and_ends_after_a_pause() -> None:
    gate = VoiceGate(1000, GateRules(threshold_db=-40, before_s=0.2, hang_s=0.5))
    quiet, loud = np.full(100, 10, np.int16), np.full(100, 5000, np.int16)
    passed = [gate.feed(piece) for piece in [quiet] * 5 + [loud] + [quiet] * 4 + [loud] + [quiet] * 6]
    assert [len(voice) for voice, _ in passed] == [0] * 5 + [300] + [100] * 10 + [0]
    assert [ended for _, ended in passed] == [False] * 15 + [True, False]
    assert not gate.open
    assert [len(gate.feed(piece)[0]) for piece in (quiet, loud)] == [0, 300]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--portrait", "nowhere.jpg"], "nowhere.jpg: cannot be read"),
        (["--port", "{taken}"], "cannot be listened on"),
        (["--tls-cert", "{file}", "--tls-key", "{file}"], "no certificate and its key, in PEM"),
        (["--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"], "no certificate and its key, in PEM"),
    ],
)
def test_a_bridge_that_cannot_be_says_why_in_a_line(options: list[str], why: str, tmp_path: Path) -> None:
    (tmp_path / "file.pem").write_text("no certificate")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"taken": taken.getsockname()[1], "file": tmp_path / "file.pem"}
        told = CliRunner().invoke(app, ["webrtc", *(option.format(**names) for option in options)])
    assert told.exit_code == ExitCode.BAD_INPUT
    assert why in told.stderr
    assert "Traceback" not in told.stderr
