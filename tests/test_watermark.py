"""Marks on pictures: who gets which, that they are the same wherever a frame is made, and that they can be read."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import EXAMPLES
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames, block_slots
from liveact_services.cli.main import app
from liveact_services.client import Mp4Recorder
from liveact_services.conductor.local import LocalModels
from liveact_services.conductor.points import Opening, pack_opening, unpack_opening
from liveact_services.conductor.stages import Codec, Denoised, SessionSpec
from liveact_services.vae_decoder.decoding import Decoding
from liveact_services.vae_decoder.encoding import frame_encoder
from liveact_services.watermark.label import Label
from liveact_services.watermark.mark import votes
from liveact_services.watermark.marks import Marks
from liveact_services.watermark.payload import bits, digits
from liveact_services.watermark.reading import read
from stage_fixtures import session_spec
from tenant_fixtures import Tenants, serving, session
from test_audit import events_of

pytest_plugins = ["session_fixtures", "tenant_fixtures"]

SESSION = "5d0af7a1c0ffee42"


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


# ---- the invisible mark ------------------------------------------------------------------------------------------------------


def clip(side: int, frames: int = 53) -> list[np.ndarray]:
    """The portrait, swaying a little, with a sensor's noise: uint8 [side, side, 3] each."""
    noise = np.random.default_rng(3)
    still = portrait(side + 16)
    made = []
    for index in range(frames):
        x, y = 8 + round(6 * np.sin(index / 9)), 8 + round(4 * np.cos(index / 7))
        cut = still[y : y + side, x : x + side].astype(np.int16)
        made.append(np.clip(cut + noise.normal(0, 1.5, cut.shape).round().astype(np.int16), 0, 255).astype(np.uint8))
    return made


def encoded(frames: list[np.ndarray], path: Path) -> Path:
    """Through the service's own encoder into an MP4, a key frame at every block."""
    height, width = frames[0].shape[:2]
    encoder = frame_encoder(Codec.H264, width, height, 20)
    starts = {block_frames(block).start for block in range(4)}
    with Mp4Recorder(path) as recorder:
        recorder.open(
            pb.Session(
                width=width,
                height=height,
                fps=20,
                codec=pb.VIDEO_CODEC_H264,
                audio_format=pb.AudioFormat(sample_rate_hz=16000),
            )
        )
        for index, rgb in enumerate(frames):
            data = encoder.encode(rgb, index, index in starts)
            frame = pb.VideoFrame(
                index=index, pts_us=50_000 * index, key_frame=index in starts, codec=pb.VIDEO_CODEC_H264, data=data
            )
            recorder.video(pb.VideoChunk(frames=[frame]))
    return path


@pytest.mark.parametrize("side", [128, 256, 512])
def test_the_hidden_id_is_read_after_the_services_own_encoding(side: int, tmp_path: Path) -> None:
    frames = clip(side)
    marked = list(Marks(side, side, mark=SESSION).on(np.stack(frames)))
    found = read(encoded(marked, tmp_path / "marked.mp4"))
    assert found is not None
    assert found.session == SESSION[:8]
    assert found.frames == len(frames)
    assert found.strength > 0.25
    assert read(encoded(frames, tmp_path / "plain.mp4")) is None
    errors = np.concatenate([(a.astype(float) - b).ravel() for a, b in zip(frames, marked, strict=True)])
    assert 10 * np.log10(255**2 / np.mean(errors**2)) > 40, "decibels"


def test_label_and_hidden_id_go_together_also_in_jpeg() -> None:
    marked = Marks(256, 256, "AI-generated", "top-left", SESSION).on(np.stack(clip(256, 12)))
    encoder = frame_encoder(Codec.JPEG, 256, 256, 20)
    files = [encoder.encode(rgb, 0, True) for rgb in marked]
    said = np.mean([votes(np.array(Image.open(io.BytesIO(file)))) for file in files], axis=0)
    assert digits(said) == SESSION[:8]


def test_what_carries_no_mark_says_nothing() -> None:
    noise = np.random.default_rng(7)
    pictures = [portrait(side) for side in (96, 128, 256)]
    pictures += [np.roll(portrait(256), (noise.integers(64), noise.integers(64)), (0, 1)) for _ in range(100)]
    pictures += [noise.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(100)]
    assert [digits(votes(rgb)) for rgb in pictures] == [None] * len(pictures)


def test_an_id_of_any_form_can_be_hidden() -> None:
    for name in ("0000000000000000", "ffffffffffffffff", "my-own-session", "ab"):
        word = digits(bits(name))
        assert word is not None
        assert len(word) == 8
    assert digits(bits(SESSION)) == SESSION[:8]
    wrong = bits(SESSION)
    for place in range(len(wrong)):
        flipped = wrong.copy()
        flipped[place] *= -1
        assert digits(flipped) is None, "one wrong bit is noticed"


# ---- the same bytes wherever a frame is made -----------------------------------------------------------------------------------


def decoded(models: LocalModels, spec: SessionSpec, latents: list[np.ndarray], move_before: int | None) -> list[bytes]:
    """The session's raw frames; from that block on by another decoder, which adopts the first one's export."""
    decoding = Decoding(models.vae_decoder, spec, models.device)
    frames = []
    for block, array in enumerate(latents):
        if block == move_before:
            decoding = Decoding.adopt(models.vae_decoder, spec, models.device, decoding.snapshot("m")(), "m")
        for part in decoding.parts(block, Denoised(array, 0.0, 0.0)):
            frames += [frame.data for frame in part.frames]
    return frames


def test_a_session_that_moved_has_the_same_marked_bytes(models: LocalModels) -> None:
    rng = np.random.default_rng(5)
    latents = [rng.standard_normal((16, len(block_slots(block)), 16, 16)).astype(np.float32) for block in range(3)]
    plain = session_spec(width=128, height=128, session=SESSION)
    spec = dataclasses.replace(plain, label="AI-generated", mark=SESSION)
    whole = decoded(models, spec, latents, None)
    assert decoded(models, spec, latents, 2) == whole
    assert decoded(models, spec, latents, 1) == whole
    without = decoded(models, plain, latents, None)
    assert all(a != b for a, b in zip(whole, without, strict=True))
    said = np.mean([votes(np.frombuffer(data, np.uint8).reshape(128, 128, 3)) for data in whole], axis=0)
    assert digits(said) == SESSION[:8]
    assert unpack_opening(pack_opening(Opening(spec))).spec == spec, "who takes the session over marks alike"


def test_the_verify_command_tells_the_session(tmp_path: Path) -> None:
    marked = Marks(128, 128, mark=SESSION).on(np.stack(clip(128)))
    path = encoded(list(marked), tmp_path / "marked.mp4")
    result = CliRunner().invoke(app, ["verify", str(path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["watermark"]["session"] == SESSION[:8]
    plain = encoded(clip(128, 24), tmp_path / "plain.mp4")
    assert CliRunner().invoke(app, ["verify", str(plain)]).exit_code == 1
    (tmp_path / "text.mp4").write_text("no video")
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "text.mp4")]).exit_code == 3


def test_the_benchmark_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveact_services.cli.bench.watermark.SHIFTS", 5)
    plain = encoded(clip(128, 24), tmp_path / "plain.mp4")
    result = CliRunner().invoke(app, ["bench", "watermark", str(plain), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["frames"] == 24
    assert told["read"]["as served"] > 0.2
    assert (told["unmarked_read"], told["false_alarms"]) == (100, 0)
