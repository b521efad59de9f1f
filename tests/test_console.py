"""The console in a real Chromium: an uploaded portrait talks, sound and picture on one clock, interrupt, emotion, looks.

LIVEACT_CONSOLE_SECONDS says for how long the talk is measured (60), LIVEACT_SCREENSHOTS where pictures of the page are kept,
LIVEACT_CONSOLE_URL that a service of that address is looked at instead of one of the tests' own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import pytest_asyncio

from browser_fixtures import LOOKS, DrawnStages, begin, browser, chromium, notes, shots, skews, snap, visit
from conftest import EXAMPLES
from conftest import serving as serving_all
from liveact.v1 import avatar_pb2 as pb
from liveact_models.evaluate.judge import shipped_judge
from liveact_models.world.motion import EMOTIONS
from liveact_services.config import load_config
from liveact_services.gateway import deployment
from tenant_fixtures import Tenants, serving
from web_fixtures import serving_page

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytest_plugins = ["session_fixtures", "tenant_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("LIVEACT_CONSOLE_SECONDS", "60"))
SKEW_S = 0.06
BLOCK_S = 1.6
SILENT = 1e-3
"""Level below which nothing is heard; the voice is at some 0.1."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The console of the service as it is shipped, its weights included."""
    chromium()
    if "LIVEACT_CONSOLE_URL" in os.environ:
        yield os.environ["LIVEACT_CONSOLE_URL"]
        return
    config = load_config(port=0, http_port=0, data_dir=tmp_path_factory.mktemp("console"))
    with serving_all(config) as service:
        assert service.running.console is not None
        yield service.running.console


@pytest_asyncio.fixture
async def chrome() -> AsyncIterator[Browser]:
    async with browser(EXAMPLES / "voice.wav") as opened:
        yield opened


async def upload(page: Page, file: Path) -> None:
    await page.set_input_files("#portraits input[type=file]", file)


async def until_spoken(page: Page, timeout_s: float = 60) -> None:
    """Wait until voice is seen on the stage."""
    async with asyncio.timeout(timeout_s):
        while await page.inner_text("#state") != "Speaking":
            await asyncio.sleep(0.1)


def event(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(e for e in found["events"] if e["type"] == f"EVENT_TYPE_{kind}")


async def talk(page: Page, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[np.ndarray], float]:
    """Talk for SECONDS into the microphone and measure; gives the page's notes, pictures of the face and the loudest level.

    Fails where picture and sound were further apart than allowed, or a frame was shown twice.
    """
    await begin(page)
    await page.click("#mic")
    await until_spoken(page)
    pictures, level = [], 0.0
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - began < SECONDS:
        if len(pictures) < 60:
            pictures.append(await snap(page))
        level = max(level, await page.evaluate("liveact.page.level"))
        await asyncio.sleep(0.2)
    figures = (await page.inner_text("#figures")).replace("\n", " ")
    found = await notes(page)
    await page.click("#end")
    off = skews(found)
    told: dict[str, Any] = {"seconds": SECONDS, "painted": len(found["paints"]), "measured": len(off), "page": figures}
    if len(off):
        told |= {f"skew_{name}_ms": round(1000 * value, 1) for name, value in _spread(off).items()}
    with capsys.disabled():
        print(f"\n{json.dumps(told)}")
    # Pauses of the voice, and stalls of a busy machine, are not measured.
    assert len(off) > 0.1 * len(found["paints"]) > 10
    assert np.percentile(np.abs(off), 95) <= SKEW_S
    indices = [round(paint[1] * 20) for paint in found["paints"]]
    assert indices == sorted(set(indices)), "no frame is shown twice, or back"
    return found, pictures, level


# ---- on the real service -------------------------------------------------------------------------------------------------


async def test_an_uploaded_portrait_talks_in_step_with_its_sound(
    chrome: Browser, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with visit(chrome, url) as page:
        await upload(page, EXAMPLES / "portrait.jpg")
        _, pictures, level = await talk(page, capsys)
    assert level > 0.02, "heard at the page"
    mouth = shipped_judge().see(np.stack(pictures)).mouth[:, 0]
    assert mouth.max() - mouth.min() > 0.2, "the mouth opens and closes"


async def test_an_interrupt_is_heard_within_a_block(
    chrome: Browser, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with visit(chrome, url) as page:
        await interrupted(page, capsys)


async def interrupted(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupt a recording three times; the last old sound comes within a block, as the tap at the output hears it."""
    await begin(page)
    sound, picture = [], []
    for _ in range(3):
        await page.click("#tab-file")
        await page.click("#hello")
        await until_spoken(page)
        while await page.evaluate("liveact.page.level") < 0.02:
            await asyncio.sleep(0.02)
        await page.click("#interrupt")
        await asyncio.sleep(3.5)
        found = await notes(page)
        pressed, pressed_ms = found["presses"][-1]
        utterance = event({"events": found["events"][::-1]}, "INTERRUPTED")["utterance_id"]
        loud = [at for at, level in found["heard"] if level > SILENT and at > pressed]
        seen = [ms for *_, name, ms in found["paints"] if name == utterance and ms > pressed_ms]
        sound.append(max(loud) + 0.01 - pressed if loud else 0.0)
        picture.append((max(seen) - pressed_ms) / 1000 if seen else 0.0)
        async with asyncio.timeout(20):
            while await page.inner_text("#state") != "Listening":
                await asyncio.sleep(0.1)
    await page.click("#end")
    with capsys.disabled():
        print(f"\n{json.dumps({'sound_s': np.round(sound, 3).tolist(), 'picture_s': np.round(picture, 3).tolist()})}")
    assert max(sound) <= BLOCK_S


async def test_an_emotion_asked_for_while_it_speaks_is_seen(
    chrome: Browser, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with visit(chrome, url) as page:
        await begin(page)
        await page.click("#mic")
        await until_spoken(page)
        before = [await _later(page) for _ in range(30)]
        await page.check("input[value=Happy]", force=True)
        await page.wait_for_selector("#prompt-state:has-text('Acted from block')", timeout=60_000)
        block = event(await notes(page), "PROMPT_APPLIED")["block"]
        async with asyncio.timeout(60):
            while not await page.evaluate(f"document.querySelector('#blocks [data-now] b')?.textContent > {block}"):
                await asyncio.sleep(0.1)
        after = [await _later(page) for _ in range(30)]
        await page.click("#end")
    judge, happy = shipped_judge(), EMOTIONS.index("happy")
    shares = [float(judge.see(np.stack(pictures)).emotion[:, happy].mean()) for pictures in (before, after)]
    with capsys.disabled():
        print(f"\n{json.dumps({'happy_before': round(shares[0], 3), 'happy_after': round(shares[1], 3)})}")
    assert shares[1] > shares[0] + 0.3


async def test_a_recording_holds_picture_and_sound(chrome: Browser, url: str, tmp_path: Path) -> None:
    async with visit(chrome, url) as page:
        await begin(page)
        await page.click("#mic")
        await until_spoken(page)
        await page.click("#record")
        await asyncio.sleep(4)
        await page.click("#record")
        async with page.expect_download() as download:
            await page.click("#download")
        file = tmp_path / (await download.value).suggested_filename
        await (await download.value).save_as(file)
        await page.click("#end")
    with av.open(str(file)) as media:
        sound = np.concatenate([frame.to_ndarray().ravel() for frame in media.decode(audio=0)]).astype(float)
    with av.open(str(file)) as media:
        pictures = sum(1 for _ in media.decode(video=0))
    assert np.abs(sound).max() > 0.02
    assert pictures > 20


async def test_a_session_goes_on_after_its_connection_broke(chrome: Browser, url: str) -> None:
    async with visit(chrome, url) as page:
        await begin(page)
        await page.click("#tab-file")
        await page.click("#hello")
        await until_spoken(page)
        await page.evaluate("liveact.page.show.stream.socket.close()")
        async with asyncio.timeout(60):
            while not any(e["type"] == "EVENT_TYPE_SPEECH_ENDED" for e in (await notes(page))["events"]):
                await asyncio.sleep(0.2)
        assert await page.evaluate("liveact.page.show.stream.outages") == 1
        await page.click("#end")
        await page.wait_for_selector("#start:not([disabled])", timeout=60_000)
        found = await notes(page)
        assert await page.is_hidden("#trouble")
    came = np.asarray([at for at, _ in found["came"]])
    assert np.allclose(np.diff(came), 0.01, atol=1e-3), "sound comes once and without a gap"


async def test_h264_is_shown_where_the_browser_decodes_it(chrome: Browser, url: str) -> None:
    async with visit(chrome, url) as page:
        await page.wait_for_timeout(500)
        if not await page.evaluate("!!document.querySelector('#codec [value=VIDEO_CODEC_H264]')"):
            pytest.skip("this Chromium decodes no H.264")
        await page.click("#settings summary")
        await page.select_option("#codec", "VIDEO_CODEC_H264")
        await begin(page)
        await page.click("#tab-file")
        await page.click("#hello")
        await until_spoken(page)
        pictures = [await _later(page) for _ in range(20)]
        await page.click("#end")
    sight = shipped_judge().see(np.stack(pictures))
    assert np.ptp(sight.mouth[:, 0]) > 0.1, "a face whose mouth moves"


async def _later(page: Page) -> np.ndarray:
    await asyncio.sleep(0.1)
    return await snap(page)


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "median": float(np.median(values)), "p95": float(np.percentile(np.abs(values), 95)),
        "p99": float(np.percentile(np.abs(values), 99)), "max": float(np.abs(values).max()),
    }  # fmt: skip


# ---- the page alone ------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def drawn(redis_url: str, in_process: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The console of a Gateway of this process whose frames cost nothing."""
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: DrawnStages())
    async with serving(redis_url) as at, serving_page(at.gateway) as url:
        yield url


async def test_sound_and_picture_stay_together(chrome: Browser, drawn: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with visit(chrome, drawn) as page:
        _, _, level = await talk(page, capsys)
    assert level > 0.02


async def test_old_words_are_silent_within_a_block(
    chrome: Browser, drawn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with visit(chrome, drawn) as page:
        await interrupted(page, capsys)


# ---- looks, keys, errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", list(LOOKS))
async def test_the_page_is_accessible_and_looks_as_it_should(
    chrome: Browser, url: str, look: str, tmp_path: Path
) -> None:
    folder = shots(tmp_path)
    async with visit(chrome, url, look) as page:
        await page.wait_for_timeout(500)
        await page.screenshot(path=folder / f"{look}-before.png")
        assert await violations(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        await begin(page)
        await page.click("#tab-file")
        await page.click("#hello")
        await page.click("#settings summary")
        await page.click("#sessions-card summary")
        await until_spoken(page)
        await page.wait_for_timeout(6000)
        await page.screenshot(path=folder / f"{look}-live.png", full_page=True)
        assert await violations(page) == []
        await page.click("#end")


async def violations(page: Page) -> list[str]:
    """What axe finds wrong with the page as it is."""
    axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe-playwright-python is not installed")
    results = await axe.Axe().run(page)
    return [f"{v['id']}: {node['html']}" for v in results.response["violations"] for node in v["nodes"]]


async def test_everything_can_be_done_with_the_keyboard(chrome: Browser, url: str) -> None:
    async with visit(chrome, url) as page:
        await _tab_to(page, "start")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#mic:not([disabled])", timeout=60_000)
        await _tab_to(page, "tab-mic")
        await page.keyboard.press("ArrowRight")
        assert await _focused(page) == "tab-file"
        await _tab_to(page, "hello")
        await page.keyboard.press("Space")
        await until_spoken(page)
        await page.keyboard.press("Escape")
        async with asyncio.timeout(30):
            while not any(e["type"] == "EVENT_TYPE_INTERRUPTED" for e in (await notes(page))["events"]):
                await asyncio.sleep(0.1)
        await _tab_to(page, "end")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#start:not([disabled])", timeout=60_000)


async def _tab_to(page: Page, element: str) -> None:
    for _ in range(60):
        if await _focused(page) == element:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not reach {element}")


async def _focused(page: Page) -> str:
    found: str = await page.evaluate("document.activeElement.id")
    return found


async def test_bad_input_is_told_in_the_services_words(chrome: Browser, url: str, tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(b"not a picture at all")
    async with visit(chrome, url) as page:
        await upload(page, tmp_path / "face.png")
        await page.click("#start")
        await page.wait_for_selector("#trouble:not([hidden])", timeout=30_000)
        assert await page.inner_text("#trouble-reason") == "IMAGE_FORMAT_UNSUPPORTED"
        assert "PNG, JPEG" in await page.inner_text("#trouble-what")
        assert await page.is_enabled("#start")


@pytest.mark.usefixtures("in_process")
async def test_a_service_that_asks_who_calls_gets_a_key(chrome: Browser, redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme")
    async with (
        serving(redis_url, tenants=str(tenants.write())) as at,
        serving_page(at.gateway) as url,
        visit(chrome, url) as page,
    ):
        await page.wait_for_selector("#key-dialog[open]")
        assert await violations(page) == []
        await page.fill("#key", key + "x")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#key-trouble:not(:empty)")
        await page.fill("#key", key)
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#key-dialog:not([open])", state="attached")
        await page.click("#sessions-card summary")
        await page.wait_for_selector("#sessions td:has-text('None yet')")
        await begin(page)
        await page.wait_for_selector(
            "#sessions td:has-text('ready'), #sessions td:has-text('streaming')", timeout=30_000
        )


@pytest.mark.usefixtures("in_process")
async def test_the_pages_codec_writes_and_reads_what_protobuf_does(chrome: Browser, redis_url: str) -> None:
    request = pb.StreamAvatarRequest(
        config=pb.SessionConfig(
            image=bytes(range(256)), prompt="ä €", width=300, codec=pb.VIDEO_CODEC_JPEG, seed=2**40 + 1,
            audio_format=pb.AudioFormat(sample_rate_hz=16000), resume=pb.Resume(token="t", next_frame=2**33),
        )
    )  # fmt: skip
    response = pb.StreamAvatarResponse(
        video=pb.VideoChunk(
            frames=[pb.VideoFrame(index=i, pts_us=i * 50_000, key_frame=i == 0, data=bytes([i]) * 300) for i in range(3)],
            block=128, times=pb.StageTimes(denoise_us=1_234_567),
        )
    )  # fmt: skip
    async with serving(redis_url) as at, serving_page(at.gateway) as url, visit(chrome, url) as page:
        written = await page.evaluate(
            """() => Array.from(liveact.page.wire.encode("StreamAvatarRequest", {config: {
                image: Uint8Array.from({length: 256}, (_, i) => i), prompt: "ä €", width: 300, codec: "VIDEO_CODEC_JPEG",
                seed: 2 ** 40 + 1, audio_format: {sample_rate_hz: 16000}, resume: {token: "t", next_frame: 2 ** 33}}}))"""
        )
        assert pb.StreamAvatarRequest.FromString(bytes(written)) == request
        # Field 99 is of a newer service: it is passed over.
        data = [*response.SerializeToString(), 0x9A, 0x06, 0x02, 0x01, 0x02]
        read = await page.evaluate(
            "(data) => liveact.page.wire.decode('StreamAvatarResponse', Uint8Array.from(data))", data
        )
    assert [(f["index"], f["pts_us"], f["key_frame"]) for f in read["video"]["frames"]] == [
        (0, 0, True), (1, 50_000, False), (2, 100_000, False)
    ]  # fmt: skip
    assert (read["video"]["block"], read["video"]["times"]["denoise_us"]) == (128, 1_234_567)
    assert read["video"]["frames"][2]["data"][299] == 2
