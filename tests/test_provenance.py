"""Content Credentials: recordings that are really signed and really read, and signers that are not fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner, Result

from avatar_peer import AvatarPeer
from avatar_peer import serving as serving_peer
from certificates import DAY, NOW, Authority
from conftest import EXAMPLES, ROOT
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.main import app
from liveact_services.client import Mp4Recorder
from liveact_services.provenance.credentials import Credentials
from liveact_services.provenance.errors import ProvenanceError

c2pa = pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

from liveact_services.provenance.manifest import Recording, read, sign  # noqa: E402

SHA = hashlib.sha256(b"a portrait").hexdigest()
SIDE, FRAMES = 64, 20


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def record(path: Path, seal: Any = None) -> Path:
    """A second of colours with its silence."""
    audio = pb.AudioFormat(sample_rate_hz=16000, channels=1)
    with Mp4Recorder(path, seal) as recorder:
        recorder.open(
            pb.Session(
                name="sessions/0a1b2c3d4e5f6071",
                width=SIDE,
                height=SIDE,
                fps=20,
                codec=pb.VIDEO_CODEC_RGB,
                audio_format=audio,
            )
        )
        recorder.audio(pb.AudioSpan(data=bytes(2 * 16000)))
        for index in range(FRAMES):
            pixels = np.full((SIDE, SIDE, 3), 10 * index, np.uint8)
            frame = pb.VideoFrame(
                index=index, pts_us=50_000 * index, key_frame=True, codec=pb.VIDEO_CODEC_RGB, data=pixels.tobytes()
            )
            recorder.video(pb.VideoChunk(frames=[frame]))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["es256", "es384", "ed25519", "ps256"])
def test_a_signed_recording_tells_how_it_was_made(tmp_path: Path, authority: Authority, kind: str) -> None:
    credentials = Credentials.load(*authority.signer(kind=kind))
    assert (credentials.algorithm, credentials.name) == (kind, "Signer")
    path = record(
        tmp_path / "a.mp4", lambda part, session: sign(part, Recording("a.mp4", SHA, "0a1b", "tiny"), credentials)
    )
    found = read(path)
    assert found is not None
    assert (found.state, found.signer, found.issuer) == ("Valid", "Signer", "Studio")
    assert (found.session, found.portrait_sha256, found.generated) == ("0a1b", SHA, True)
    assert found.actions == ("c2pa.created",)
    assert found.generator.startswith("LiveAct Serve ")
    trusted = read(path, authority.anchor.read_bytes())
    assert trusted is not None
    assert (trusted.state, trusted.faults) == ("Trusted", ())
    stranger = Authority(tmp_path, "Stranger")
    other = read(path, stranger.anchor.read_bytes())
    assert other is not None
    assert (other.state, other.faults) == ("Valid", ("signingCredential.untrusted",))
    with av.open(str(path)) as video:
        assert sum(1 for _ in video.decode(video=0)) == FRAMES, "it plays as before"


def test_a_recording_that_was_changed_is_found_out(tmp_path: Path, authority: Authority) -> None:
    credentials = Credentials.load(*authority.signer())
    path = record(tmp_path / "a.mp4", lambda part, _: sign(part, Recording("a.mp4"), credentials))
    data = bytearray(path.read_bytes())
    data[data.index(b"mdat") + 200] ^= 1
    path.write_bytes(data)
    found = read(path)
    assert found is not None
    assert found.state == "Invalid"
    assert "assertion.bmffHash.mismatch" in found.faults
    result = run("verify", path)
    assert result.exit_code == 1
    assert "do not hold" in result.stderr


def test_the_portrait_itself_is_not_in_the_manifest(tmp_path: Path, authority: Authority) -> None:
    credentials = Credentials.load(*authority.signer())
    path = record(tmp_path / "a.mp4", lambda part, _: sign(part, Recording("a.mp4", SHA), credentials))
    with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        (manifest,) = json.loads(reader.json())["manifests"].values()
    assert manifest["ingredients"][0]["instance_id"] == f"urn:sha256:{SHA}"
    assert manifest["ingredients"][0]["relationship"] == "inputTo"
    assert "thumbnail" not in json.dumps(manifest)


def test_a_recording_without_credentials_has_none(tmp_path: Path) -> None:
    assert read(record(tmp_path / "a.mp4")) is None
    result = run("verify", tmp_path / "a.mp4", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["credentials"] is None
    assert run("verify", tmp_path / "not there.mp4").exit_code == 3


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"end": NOW - DAY}, "valid from"),
    "an authority": ({"ca": True}, "is an authority's"),
    "for TLS": ({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "emailProtection"),
    "for anything": (
        {"purposes": (ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)}, "anyExtended",
    ),
    "for no purpose": ({"purposes": ()}, "extended key usage"),
    "that may not sign": ({"signs": False}, "digitalSignature"),
    "on another curve": ({"kind": "k1"}, "P-256"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNFIT)
def test_a_certificate_that_is_unfit_is_refused_before_anything_is_recorded(
    tmp_path: Path, authority: Authority, what: str
) -> None:
    profile, told = UNFIT[what]
    cert, key = authority.signer(**profile)
    result = run(
        "stream", EXAMPLES / "portrait.jpg", EXAMPLES / "voice.wav", "--server", "127.0.0.1:1",
        "--out", tmp_path / "x.mp4", "--c2pa-cert", cert, "--c2pa-key", key,
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    assert told in result.stderr
    assert "accepted is" in result.stderr
    assert not (tmp_path / "x.mp4.part").exists()


def test_files_that_are_no_credentials_are_refused(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.signer("one")
    other_cert, _ = authority.signer("other")
    alone = tmp_path / "alone.crt"
    lone = Authority(tmp_path, "Lone")
    alone.write_bytes(cert.read_bytes().split(b"-----BEGIN")[1].join([b"-----BEGIN", b""]) + lone.anchor.read_bytes())
    for wrong, told in (
        ((other_cert, key), "is not that of"), ((key, key), "no certificates"), ((cert, cert), "no private key"),
        ((tmp_path / "none", key), "cannot be read"), ((alone, key), "has not signed"),
    ):  # fmt: skip
        with pytest.raises(ProvenanceError, match=told):
            Credentials.load(*wrong)
    assert str(key.read_bytes()) not in repr(Credentials.load(cert, key))


async def test_the_stream_command_signs_what_it_records(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.signer()
    portrait = ROOT / "examples" / "portrait.jpg"
    async with serving_peer(AvatarPeer()) as address:
        import asyncio

        result = await asyncio.to_thread(
            run, "stream", portrait, EXAMPLES / "voice.wav", "--server", address, "--pacing", "fastest",
            "--out", tmp_path / "x.mp4", "--c2pa-cert", cert, "--c2pa-key", key,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    result = run("verify", tmp_path / "x.mp4", "--trust", authority.anchor, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])["credentials"]
    assert found["state"] == "Trusted"
    assert found["portrait_sha256"] == hashlib.sha256(portrait.read_bytes()).hexdigest()
    assert found["session"]
