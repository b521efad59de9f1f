"""A real Chromium on the console: its microphone is fed from a file, and it measures for itself what it shows and plays."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from liveact_services.conductor.stages import BlockPlan, EncodedFrame, VideoPart
from stage_fixtures import ScriptedStages

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BIN_S = 0.01
"""Width of a step in the levels that `modules/trace.js` notes."""
WINDOW_S, STEP_S, REACH_S = 1.2, 0.2, 1.5
MIN_AGREEMENT, MIN_SPREAD = 0.95, 0.01

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "dark"},
    "phone": PHONE,
}


def chromium() -> str:
    """Where Chromium is. Skips the test where there is none."""
    pytest.importorskip("playwright", reason="playwright is not installed (pip install -e '.[browser]')")
    found = os.environ.get("LIVEACT_CHROMIUM") or next(
        (path for name in CHROMIUM if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.skip(f"no Chromium on the path ({', '.join(CHROMIUM)}); apt-get install chromium brings one")
    return found


@asynccontextmanager
async def browser(voice: Path) -> AsyncIterator[Browser]:
    """Chromium without a window, whose microphone says that sound file over and over."""
    path = chromium()
    from playwright.async_api import async_playwright

    flags = [
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={voice}", "--no-sandbox",
    ]  # fmt: skip
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=path, args=flags)
        yield opened
        await opened.close()


@asynccontextmanager
async def visit(browser: Browser, url: str, look: str = "light", query: str = "?trace") -> AsyncIterator[Page]:
    """The console, loaded. Fails at the end where the page threw."""
    context = await browser.new_context(permissions=["microphone"], accept_downloads=True, **LOOKS[look])
    page = await context.new_page()
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    await page.goto(url + query)
    await page.wait_for_selector("html[data-ready]")
    yield page
    await context.close()
    assert thrown == []


async def begin(page: Page, timeout_s: float = 60.0) -> None:
    """Start a session and wait until it hears."""
    await page.click("#start")
    await page.wait_for_selector("#mic:not([disabled])", timeout=1000 * timeout_s)


async def notes(page: Page) -> dict[str, Any]:
    """What the page has noted of the session: paints, heard, came, events, presses."""
    found: dict[str, Any] = await page.evaluate(
        "({paints: liveact.paints, heard: liveact.heard, came: liveact.came, events: liveact.events, presses: liveact.presses})"
    )
    return found


async def snap(page: Page) -> np.ndarray:
    """The canvas as it is: uint8 [H, W, 3]."""
    url: str = await page.evaluate("document.getElementById('picture').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def skews(found: dict[str, Any]) -> np.ndarray:
    """How far each painted frame lies behind the sound that leaves the loudspeaker at that moment, in seconds.

    The player's own idea of its clock is not asked. What was heard (levels by the audio context's time) is laid over what came
    (levels by media time): in every window with voice, the shift at which they agree tells which media time was heard at which
    context time. A frame's distance is that media time at its painting less its own. Windows in which the player stood still,
    or nobody spoke, agree nowhere and are left out.
    """
    heard, came = np.asarray(found["heard"], float), np.asarray(found["came"], float)
    paints = np.asarray([paint[:2] for paint in found["paints"]], float)
    (start, level), (first, voice) = (_gridded(levels) for levels in (heard, came))
    width, reach = round(WINDOW_S / BIN_S), round(REACH_S / BIN_S)
    result = []
    for at in range(0, len(level) - width, round(STEP_S / BIN_S)):
        begins = start + at * BIN_S
        piece = level[at : at + width]
        middle = begins + WINDOW_S / 2
        inside = (paints[:, 0] >= middle - STEP_S / 2) & (paints[:, 0] < middle + STEP_S / 2)
        if piece.std() < MIN_SPREAD or not inside.any():
            continue
        # The voice comes around again: looked for only near the frames shown, yet far beyond what would be allowed.
        near = round((paints[inside][0, 1] - WINDOW_S / 2 - first) / BIN_S)
        low, high = max(0, near - reach), min(len(voice) - width, near + reach)
        if low >= high:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(voice[low : high + width], width)
        agreement = windows @ (piece - piece.mean()) / width / np.maximum(windows.std(axis=1), 1e-6) / piece.std()
        if agreement.max() >= MIN_AGREEMENT:
            shift = begins - (first + (low + int(agreement.argmax())) * BIN_S)
            result.append(paints[inside, 0] - shift - paints[inside, 1])
    return np.concatenate(result) if result else np.empty(0)


def _gridded(levels: np.ndarray) -> tuple[float, np.ndarray]:
    """When the first was, and levels on a grid of `BIN_S` from there; 0 where nothing was."""
    start = float(levels[0, 0])
    places = np.rint((levels[:, 0] - start) / BIN_S).astype(int)
    grid = np.zeros(places.max() + 1)
    grid[places[places >= 0]] = levels[places >= 0, 1]
    return start, grid


class DrawnStages(ScriptedStages):
    """Stages that draw instead of computing: what a page does is seen apart from what a busy machine's models do."""

    def __init__(self) -> None:
        super().__init__(denoise_s=0.2, part_s=0.02)

    async def _parts(self, plan: BlockPlan, denoised: asyncio.Task[None]) -> AsyncIterator[VideoPart]:
        async for part in super()._parts(plan, denoised):
            yield dataclasses.replace(part, frames=tuple(_drawn(frame) for frame in part.frames))


def _drawn(frame: EncodedFrame) -> EncodedFrame:
    picture = np.full((64, 64, 3), 235, np.uint8)
    at = frame.index * 3 % 56
    picture[at : at + 8] = (75, 83, 214)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG")
    return dataclasses.replace(frame, data=file.getvalue())


def shots(folder: Path) -> Path:
    """Where screenshots go: LIVEACT_SCREENSHOTS, or the test's own folder."""
    place = Path(os.environ.get("LIVEACT_SCREENSHOTS", folder))
    place.mkdir(parents=True, exist_ok=True)
    return place
