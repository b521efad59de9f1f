"""`liveact webrtc` as it is run, its page in a real Chromium, the service as it is shipped: a microphone in, a moving face out.

LIVEACT_SCREENSHOTS: where a picture of the page is kept.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiortc", reason="needs the extra webrtc: pip install 'liveact-serve[webrtc]'")

from browser_fixtures import LOOKS, browser, chromium
from conftest import EXAMPLES, Service, serving
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.config import load_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STATS = """async () => {
  const peer = liveact.peer;
  const found = {};
  for (const stat of (await peer.getStats()).values()) {
    if (stat.type === "inbound-rtp") found[stat.kind] = stat;
  }
  const face = document.getElementById("face");
  return { video: found.video, audio: found.audio, width: face.videoWidth, time: face.currentTime };
}"""
STATE = "document.getElementById('state').value"
PICTURE = """() => {
  const face = document.getElementById("face"), canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  canvas.getContext("2d").drawImage(face, 0, 0, 32, 32);
  return Array.from(canvas.getContext("2d").getImageData(0, 0, 32, 32).data);
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    chromium()
    with serving(load_config(port=0, http_port=0, data_dir=tmp_path_factory.mktemp("webrtc"))) as service:
        yield service


async def test_a_browser_talks_to_the_face_and_ends_it(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    bridge = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "liveact_services.cli.main", "webrtc", "--server", service.address, "--port", "0",
        "--portrait", str(EXAMPLES / "portrait.jpg"), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert bridge.stderr is not None
    try:
        async with asyncio.timeout(60):
            said = (await bridge.stderr.readline()).decode()
        (url,) = re.findall(r"http://\S+?(?=;)", said)
        async with browser(EXAMPLES / "voice.wav") as chrome:
            context = await chrome.new_context(permissions=["microphone"], **LOOKS["light"])
            page = await context.new_page()
            thrown: list[str] = []
            page.on("pageerror", lambda error: thrown.append(str(error)))
            await page.goto(url)
            await page.click("#start")
            await page.wait_for_function("document.getElementById('face').videoWidth > 0", timeout=60_000)
            told = await until_spoken(page)
            pictures = []
            for _ in range(10):
                pictures.append(await page.evaluate(PICTURE))
                await asyncio.sleep(0.3)
            found: dict[str, Any] = await page.evaluate(STATS)
            if folder := os.environ.get("LIVEACT_SCREENSHOTS"):
                await page.screenshot(path=str(Path(folder) / "webrtc.png"))
            await page.click("#interrupt")
            await page.wait_for_function(f"{STATE}.startsWith('interrupted')", timeout=20_000)
            await page.click("#start")
            assert await page.inner_text("#start") == "Start"
            await context.close()
            assert thrown == []
    finally:
        if bridge.returncode is None:
            bridge.send_signal(signal.SIGINT)
        await asyncio.wait_for(bridge.communicate(), 30)
    video, audio = found["video"], found["audio"]
    with capsys.disabled():
        print(
            f"\n{said.strip()}: {video['framesDecoded']} frames of {found['width']} px, {video.get('framesDropped', 0)} dropped; "
            f"frozen {video.get('freezeCount', 0)} times; sound of {audio['totalAudioEnergy']:.3g}; told {told!r}"
        )
    assert video["framesDecoded"] > 40
    assert audio["totalAudioEnergy"] > 1e-4, "the face is heard"
    assert len({tuple(picture) for picture in pictures}) > 5, "the face moves"
    async with AvatarClient(service.address) as client:
        (record,) = await client.list_sessions()
        assert record.state == pb.SESSION_STATE_CLOSED


async def until_spoken(page: Any) -> str:
    """Wait until the page tells that speech has begun; gives what it says."""
    async with asyncio.timeout(60):
        while not (said := str(await page.evaluate(STATE))).startswith("speech"):
            await asyncio.sleep(0.1)
    return said
