"""Marks on pictures: who gets which, that they are the same wherever a frame is made, and that they can be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from conftest import EXAMPLES
from liveact.v1 import avatar_pb2 as pb
from liveact_services.watermark.label import Label
from tenant_fixtures import Tenants, serving, session
from test_audit import events_of

pytest_plugins = ["session_fixtures", "tenant_fixtures"]


def portrait(side: int) -> np.ndarray:
    """The example's portrait, uint8 [side, side, 3]."""
    return np.array(Image.open(EXAMPLES / "portrait.jpg").convert("RGB").resize((side, side)))


# ---- who gets which ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
async def test_a_session_carries_what_service_tenant_or_client_want(redis_url: str, tenants: Tenants) -> None:
    bound, free = tenants.add("bound", visible_watermark=True), tenants.add("free")
    asked = session(watermark=pb.Watermark(visible=True))
    async with serving(redis_url, tenants=str(tenants.write())) as at:
        told = []
        for key, config in ((bound, session()), (free, session()), (free, asked)):
            async with at.client(key) as client, client.stream(config) as stream:
                await stream.ready()
                told.append(stream.session.watermark.visible)
                record = await client.get_session(stream.session.name)
                assert record.watermark == stream.session.watermark
                live = at.gateway._live[stream.session.name.removeprefix("sessions/")]
                assert live.spec.label == ("AI-generated" if told[-1] else "")
        assert told == [True, False, True]
        opened = [e for e in await events_of(redis_url, "free") if e["action"] == "session.opened"]
    assert [e.get("watermark") for e in opened] == [None, "visible"]
    trust = {"visible_watermark": True, "label": "Synthetic", "corner": "top-left"}
    async with serving(redis_url, trust=trust) as at, at.client() as client, client.stream(session()) as stream:
        await stream.ready()
        (live,) = at.gateway._live.values()
        assert (live.spec.label, live.spec.corner) == ("Synthetic", "top-left")


# ---- the label ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("corner", ["bottom-right", "top-left"])
def test_the_label_stands_in_its_corner_in_letters_that_can_be_read(side: int, corner: str) -> None:
    label = Label("AI-generated", side, side, corner)  # type: ignore[arg-type]
    assert label.text == ("AI-generated" if side >= 128 else "AI")
    for shade in (0, 255):
        frame = np.full((side, side, 3), shade, np.uint8)
        label.draw(frame)
        drawn = frame[label.rows, label.columns]
        outside = frame.copy()
        outside[label.rows, label.columns] = shade
        assert (outside == shade).all(), "nothing else is touched"
        letters, ground = int(drawn.max()), int(np.median(drawn))
        assert letters >= 220
        assert letters - ground > 100, "white letters on what is dark enough"
        rows = np.flatnonzero((drawn[..., 0] > ground + 60).any(1))
        assert rows[-1] - rows[0] + 1 >= 6, "letters of six pixels at least"
    assert (label.rows.stop == side) == corner.startswith("bottom")
    assert (label.columns.stop == side) == corner.endswith("right")
