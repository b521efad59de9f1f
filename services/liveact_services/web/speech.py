"""Text to voice for those who have no microphone at hand: an optional voice (hibari-tts), asked over HTTP."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from liveact_services.errors import as_service_error, fail
from liveact_services.web.calls import JSON, Endpoint, HttpContext, body_of, content_type, require_own_page

MAX_CHARACTERS = 600
PACKAGES = ("hibari", "onnxruntime")


class Speaker:
    """One English voice, loaded when it is first asked to speak. It speaks some hundred times faster than a person."""

    def __init__(self) -> None:
        self._voice: Any = None
        self._turn = threading.Lock()

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(package) is not None for package in PACKAGES)

    def speak(self, text: str) -> tuple[np.ndarray, int]:
        """The text's voice, float32 [n] in [-1, 1], and its rate in Hz. Raises `ServiceError` where no voice is installed."""
        if not self.installed:
            raise fail(
                "SPEECH_UNAVAILABLE", "no voice is installed here; pip install 'liveact-serve[speech]' brings one"
            )
        with self._turn:
            if self._voice is None:
                from hibari import Hibari

                self._voice = Hibari()
            return np.asarray(self._voice(text), np.float32), int(self._voice.sample_rate)


def speech(service: Any, speaker: Speaker) -> Endpoint:
    """The route that speaks {"text": ...}: PCM_S16LE, one channel, at the rate that its `x-sample-rate` says."""

    async def speak(request: Request) -> Response:
        context = HttpContext(request)
        try:
            require_own_page(request)
            await service.enter(context)
            samples, rate = await asyncio.to_thread(speaker.speak, await _text(request))
        except Exception as error:
            context.fail(as_service_error(error))
            return context.refusal()
        data = np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes()
        return Response(data, media_type="application/octet-stream", headers={"x-sample-rate": str(rate)})

    return speak


async def _text(request: Request) -> str:
    if content_type(request) != JSON:
        raise fail("BODY_INVALID", f"the content type is not {JSON}, which alone is accepted")
    try:
        body = json.loads(await body_of(request))
    except ValueError as error:
        raise fail("BODY_INVALID", f"no JSON: {error}") from None
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= MAX_CHARACTERS:
        raise fail("BODY_INVALID", f"text is missing, empty or too long: accepted are 1 to {MAX_CHARACTERS} characters")
    return text.strip()
