"""What a Gateway writes down of a call, at every level of its log: never a key, a token, a prompt, a voice or a face."""

from __future__ import annotations

import base64
import logging

import pytest

from liveact.v1 import avatar_pb2 as pb
from liveact_services.errors import ClientError
from tenant_fixtures import Tenants, picture, serving, session

pytest_plugins = ["session_fixtures", "tenant_fixtures"]

PROMPT = "A person whispers the word xylophone."
VOICE = b"\x07\x03" * 16000


@pytest.mark.usefixtures("in_process")
async def test_no_log_line_holds_what_a_client_said_or_who_it_is(
    redis_url: str, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    key = tenants.add("acme")
    with caplog.at_level(logging.DEBUG):
        async with serving(redis_url, tenants=str(tenants.write())) as at:
            async with at.client(key) as client:
                async with client.stream(session(prompt=PROMPT), resume=False) as stream:
                    await stream.ready()
                    token = stream.session.resume_token
                    await stream.send_audio(VOICE, "u")
                    await stream.update(PROMPT.upper())
                # What breaks a session is told, and what was sent is not.
                async with client.resume(token, 0) as again:
                    await again.ready()
                    wrong = pb.AudioChunk(data=VOICE, utterance_id="u", sequence=99)
                    await again.send(pb.StreamAvatarRequest(audio=wrong))
                    with pytest.raises(ClientError, match="SEQUENCE_GAP"):
                        async for _ in again:
                            pass
                await client.create_avatar(picture())
            async with at.client(key[:-1] + "x") as stranger:
                with pytest.raises(ClientError):
                    await stranger.list_avatars()
    lines = [record.getMessage() + str(record.__dict__.get("exc_text") or "") for record in caplog.records]
    ours = [line for record, line in zip(caplog.records, lines, strict=True) if record.name.startswith("liveact")]
    assert ours, "there is a log"
    told = "\n".join(lines)
    secrets = {
        "the key": key, "the key but for its end": key[:-4], "the token": token, "the prompt": "xylophone",
        "the voice": repr(VOICE[:16])[2:-1], "the voice in base64": base64.b64encode(VOICE[:30]).decode(),
        "the face": base64.b64encode(picture()[:30]).decode(),
    }  # fmt: skip
    found = [name for name, secret in secrets.items() if secret.lower() in told.lower()]
    assert found == []
