"""The HTTP port: the same calls, credentials and errors as over gRPC, and the page's files."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from conftest import Service, pcm16, tone
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.web.app import FILES
from liveact_services.web.calls import SERVICE
from liveact_services.web.schema import schema
from liveact_services.web.speech import MAX_CHARACTERS, Speaker
from tenant_fixtures import Tenants, serving, session
from web_fixtures import post, reason, serving_page, socket

pytest_plugins = ["session_fixtures", "tenant_fixtures"]

VOICE = pcm16(tone(2.0))


def speech(utterance: str = "a", sequence: int = 0) -> pb.AudioChunk:
    return pb.AudioChunk(data=VOICE, utterance_id=utterance, sequence=sequence)


# ---- the real service ----------------------------------------------------------------------------------------------------


async def test_a_websocket_brings_the_frames_that_grpc_brings(
    service: Service, client: AvatarClient, portrait: bytes
) -> None:
    assert service.running.console is not None
    config = session(image=portrait, seed=5)
    async with client.stream(config) as stream:
        await stream.ready()
        await stream.send_audio(VOICE, "a")
        await stream.end_utterance("a")
        await stream.close()
        expected = [
            frame.data async for message in stream if isinstance(message, pb.VideoChunk) for frame in message.frames
        ]
    async with socket(service.running.console, config) as call:
        await call.until(pb.EVENT_TYPE_READY)
        await call.send(audio=speech())
        await call.send(end_utterance=pb.EndUtterance(utterance_id="a"))
        await call.send(close=pb.Close())
        said = await call.drain()
    assert [frame.data for frame in said.frames] == expected
    assert len(expected) >= 40
    assert (said.end, said.close_code, call.raw.protocol) == ({}, 1000, "liveact.v1")
    status, told = await post(service.running.console, f"{SERVICE}/GetSession", {"name": said.session.name})
    assert status == 200
    assert told["session"]["codec"] == "VIDEO_CODEC_RGB"


async def test_the_page_and_all_it_names_are_there(service: Service) -> None:
    assert service.running.console is not None
    async with aiohttp.ClientSession(service.running.console) as http, http.get("/") as answer:
        page = await answer.text()
        assert answer.status == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        for name in re.findall(r'(?:src|href)="([^#"]+)"', page):
            async with http.get(f"/{name}") as file:
                assert (name, file.status) == (name, 200)


def test_modules_import_what_is_there_and_every_element_they_seek_is_on_the_page() -> None:
    page = (FILES / "index.html").read_text()
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    modules = [*(FILES / "modules").glob("*.js")]
    assert len(modules) > 10
    for module in modules:
        text = module.read_text()
        for name in re.findall(r'(?:from|import\() ?"(\./[\w-]+\.js)"', text):
            assert (module.parent / name).is_file(), f"{module.name} imports {name}"
        for name in re.findall(r'addModule\("([^"]+)"', text):
            assert (FILES / name).is_file(), f"{module.name} loads {name}"
        assert set(re.findall(r'\bat\("([\w-]+)"\)', text)) <= ids, module.name


def test_the_schema_tells_every_field_of_the_stream() -> None:
    told = schema()["messages"]
    for message in (pb.StreamAvatarRequest, pb.StreamAvatarResponse, pb.Session, pb.Event, pb.VideoFrame):
        fields = {field.number: field.name for field in message.DESCRIPTOR.fields}
        assert {entry["number"]: entry["name"] for entry in told[message.DESCRIPTOR.name]} == fields
    assert schema()["enums"]["VideoCodec"]["VIDEO_CODEC_JPEG"] == pb.VIDEO_CODEC_JPEG


# ---- who may call --------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def guarded(redis_url: str, tenants: Tenants, in_process: None) -> AsyncIterator[tuple[str, str]]:
    """The page of a service that asks who calls, and a key to it."""
    key = tenants.add("acme")
    async with serving(redis_url, tenants=str(tenants.write())) as at, serving_page(at.gateway) as url:
        yield url, key


async def test_a_socket_needs_the_key_that_grpc_needs(guarded: tuple[str, str]) -> None:
    url, key = guarded
    async with socket(url, session()) as call:
        said = await call.drain()
    assert (said.reason, said.close_code) == ("CREDENTIALS_MISSING", 4016)
    assert said.responses[-1].event.reason == "CREDENTIALS_MISSING"
    async with socket(url, session(), key=key + "x") as call:
        assert (await call.drain()).reason == "CREDENTIALS_INVALID"
    async with socket(url, session(), key=key) as call:
        await call.until(pb.EVENT_TYPE_READY)
    async with socket(url, session(), headers={"authorization": f"Bearer {key}"}) as call:
        await call.until(pb.EVENT_TYPE_READY)


async def test_unary_calls_are_those_of_grpc(guarded: tuple[str, str]) -> None:
    url, key = guarded
    authorization = f"Bearer {key}"
    status, error = await post(url, f"{SERVICE}/ListSessions")
    assert (status, error["code"], reason(error)) == (401, "unauthenticated", "CREDENTIALS_MISSING")
    async with socket(url, session(), key=key) as call:
        await call.until(pb.EVENT_TYPE_READY)
        status, told = await post(url, f"{SERVICE}/ListSessions", authorization=authorization)
        assert (status, [one["name"] for one in told["sessions"]]) == (200, [call.said.session.name])
        asked = pb.DeleteSessionRequest(name=call.said.session.name).SerializeToString()
        headers = {"authorization": authorization, "content-type": "application/proto"}
        assert await post(url, f"{SERVICE}/DeleteSession", asked, **headers) == (200, b"")
        await call.until(pb.EVENT_TYPE_CLOSED)
    status, error = await post(url, f"{SERVICE}/GetSession", {"name": "nobody"}, authorization=authorization)
    assert (status, reason(error)) == (400, "SESSION_NAME_INVALID")


async def test_a_page_of_another_site_is_refused(guarded: tuple[str, str]) -> None:
    url, key = guarded
    stranger = {"origin": "https://elsewhere.example"}
    async with socket(url, session(), key=key, headers=stranger) as call:
        assert (await call.drain()).reason == "ORIGIN_REFUSED"
    status, error = await post(url, f"{SERVICE}/ListSessions", authorization=f"Bearer {key}", **stranger)
    assert (status, reason(error)) == (403, "ORIGIN_REFUSED")
    own = url.rstrip("/")
    assert (await post(url, f"{SERVICE}/ListSessions", authorization=f"Bearer {key}", origin=own))[0] == 200


# ---- what is wrong -------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def page(redis_url: str, in_process: None) -> AsyncIterator[str]:
    async with serving(redis_url) as at, serving_page(at.gateway) as url:
        yield url


async def test_a_bad_request_gives_the_reason_that_grpc_gives(page: str) -> None:
    async with socket(page, session(fps=99)) as call:
        said = await call.drain()
    assert (said.reason, said.close_code) == ("FPS_UNSUPPORTED", 4003)
    assert "accepted are 10 to 30" in said.responses[-1].event.message


@pytest.mark.parametrize("frame", ["hello", b"\xff\xff"])
async def test_a_frame_that_is_no_request_is_told_so(page: str, frame: str | bytes) -> None:
    async with socket(page) as call:
        await (call.raw.send_str(frame) if isinstance(frame, str) else call.raw.send_bytes(frame))
        assert (await call.drain()).reason == "MESSAGE_INVALID"


@pytest.mark.parametrize(
    ("method", "body", "kind", "expected"),
    [
        ("StreamAvatar", b"{}", "application/json", "METHOD_UNKNOWN"),
        ("enter", b"{}", "application/json", "METHOD_UNKNOWN"),
        ("GetSession", b"{", "application/json", "BODY_INVALID"),
        ("GetSession", b'{"nonsense": 1}', "application/json", "BODY_INVALID"),
        ("GetSession", b"\xff", "application/proto", "BODY_INVALID"),
        ("GetSession", b"name=a", "text/plain", "BODY_INVALID"),
        ("CreateAvatar", b"x" * (24 * 2**20 + 1), "application/proto", "BODY_INVALID"),
    ],
)
async def test_a_unary_call_that_is_none_is_told_so(
    page: str, method: str, body: bytes, kind: str, expected: str
) -> None:
    status, error = await post(page, f"{SERVICE}/{method}", body, **{"content-type": kind})
    assert (status, reason(error)) == (501 if expected == "METHOD_UNKNOWN" else 400, expected)


async def test_a_socket_that_breaks_leaves_a_session_that_another_resumes(page: str) -> None:
    async with socket(page, session()) as call:
        await call.until(pb.EVENT_TYPE_READY)
        await call.send(audio=speech())
        async for response in call:
            if response.video.frames:
                break
        token, had = call.said.session.resume_token, len(call.said.frames)
    resume = pb.SessionConfig(resume=pb.Resume(token=token, next_frame=had))
    async with socket(page, resume) as call:
        await call.send(end_utterance=pb.EndUtterance(utterance_id="a"))
        await call.send(close=pb.Close())
        said = await call.drain()
    assert said.end == {}
    assert said.session.next_sequence == 1
    assert [frame.index for frame in said.frames] == list(range(had, had + len(said.frames)))
    assert had + len(said.frames) >= 40, "all of two seconds"


# ---- text to voice -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_text_is_spoken_for_those_who_may_call(guarded: tuple[str, str]) -> None:
    url, key = guarded
    assert (await post(url, "speech", {"text": "Hello."}))[0] == 401
    if not Speaker().installed:
        pytest.skip("hibari-tts and onnxruntime are not installed")
    status, data = await post(url, "speech", {"text": "Hello there."}, authorization=f"Bearer {key}")
    assert status == 200
    samples = np.frombuffer(data, "<i2")
    assert len(samples) > 24000 * 0.4
    assert np.abs(samples).max() > 1000
    for bad in ({}, {"text": " "}, {"text": "a" * (MAX_CHARACTERS + 1)}, {"text": 1}, []):
        status, error = await post(url, "speech", json.dumps(bad).encode(), authorization=f"Bearer {key}")
        assert (status, reason(error)) == (400, "BODY_INVALID")


async def test_without_a_voice_speech_says_how_to_get_one(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveact_services.web.speech.PACKAGES", ("no_such_voice",))
    status, error = await post(page, "speech", {"text": "Hello."})
    assert (status, reason(error)) == (501, "SPEECH_UNAVAILABLE")
    assert "pip install" in error["message"]
