"""Weights from a hub: a real HTTP server here, files of the released names, and everything that can go wrong on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub_fixtures import COMMIT, HubState, hub_of
from liveact_models.weights import HubUnavailable, WeightsError
from liveact_models.weights.hub import PARTS, Hub
from liveact_models.weights.manifest import MANIFEST, Manifest
from liveact_models.weights.releases import release

SOULX = release("soulx-liveact")
MODEL, VOICE = (source.repo for source in SOULX.sources)
SHARDS = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
BIG = SHARDS[0]


PIECES = 64 * 1024


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    # The client writes 10 MiB at a time, more than these files have.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECES)
    noise = random.Random(5).randbytes
    model = {
        "config.json": b'{"dim": 64}', "README.md": b"hello", SHARDS[0]: noise(700_000), SHARDS[1]: noise(90_000),
        "diffusion_pytorch_model.safetensors.index.json": b"{}", "Wan2.1_VAE.pth": noise(40_000),
        "models_t5_umt5-xxl-enc-bf16.pth": noise(50_000), "google/umt5-xxl/spiece.model": noise(3000),
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth": noise(30_000), "xlm-roberta-large/vocab.json": b"{}",
        "optimizer.safetensors": noise(20_000),
    }  # fmt: skip
    voice = {"config.json": b"{}", "pytorch_model.bin": noise(60_000), "fairseq-ckpt.pt": noise(9000)}
    with hub_of({MODEL: model, VOICE: voice}) as hub:
        yield hub


def pull(hub: HubState, folder: Path, revision: str | None = None) -> Manifest:
    client = Hub(hub.endpoint, token=hub.token)
    return client.fetch(client.plan(SOULX, folder, revision))


def refused(hub: HubState, folder: Path, token: str | None = None, revision: str | None = None) -> WeightsError:
    client = Hub(hub.endpoint, token)
    with pytest.raises(WeightsError) as caught:
        client.fetch(client.plan(SOULX, folder, revision))
    return caught.value


def test_what_the_loader_reads_is_fetched_and_nothing_else(hub: HubState, tmp_path: Path) -> None:
    plan = Hub(hub.endpoint).plan(SOULX, tmp_path / "liveact")
    assert not (tmp_path / "liveact").exists(), "a plan changes nothing"
    assert [origin.commit for origin in plan.origins] == [COMMIT, COMMIT]
    manifest = Hub(hub.endpoint).fetch(plan)
    files = {str(p.relative_to(plan.folder)) for p in plan.folder.rglob("*") if p.is_file()}
    assert files == {*manifest.files, MANIFEST}
    for name, digest in manifest.files.items():
        content = (plan.folder / name).read_bytes()
        repo, held = (VOICE, name.split("/")[1]) if name.startswith("chinese") else (MODEL, name)
        assert content == hub.repos[repo][held]
        assert (digest.size, digest.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert "google/umt5-xxl/spiece.model" in files
    assert "chinese-wav2vec2-base/pytorch_model.bin" in files
    assert (
        not {"optimizer.safetensors", "xlm-roberta-large/vocab.json", "chinese-wav2vec2-base/fairseq-ckpt.pt"} & files
    )
    assert Manifest.read(plan.folder) == manifest
    assert manifest.complete


def test_a_second_pull_fetches_nothing_and_keeps_the_commit(hub: HubState, tmp_path: Path) -> None:
    pull(hub, tmp_path)
    hub.requests.clear()
    pull(hub, tmp_path)
    assert [path for _, path, _, _ in hub.requests] == [
        f"/api/models/{repo}/revision/{COMMIT}" for repo in (MODEL, VOICE)
    ]


def test_the_commit_of_the_voice_is_pinned_in_the_code(hub: HubState, tmp_path: Path) -> None:
    Hub(hub.endpoint).plan(SOULX, tmp_path)
    assert f"/api/models/{VOICE}/revision/{SOULX.sources[1].revision}" in [path for _, path, _, _ in hub.requests]
    hub.requests.clear()
    Hub(hub.endpoint).plan(SOULX, tmp_path, "a" * 40)
    assert hub.requests[0][1] == f"/api/models/{MODEL}/revision/{'a' * 40}"


def test_a_connection_that_breaks_goes_on_where_it_was(hub: HubState, tmp_path: Path) -> None:
    hub.cut_after[BIG] = [300_000]
    pull(hub, tmp_path)
    assert (tmp_path / BIG).read_bytes() == hub.repos[MODEL][BIG]
    resumed = hub.ranges(BIG)[-1]
    assert resumed is not None
    assert 0 < int(resumed.removeprefix("bytes=").rstrip("-")) <= 300_000


def test_a_killed_pull_goes_on_where_it_was(hub: HubState, tmp_path: Path) -> None:
    hub.stalls_at[BIG] = 300_000
    code = (
        f"from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {PIECES}\n"
        "import sys; from pathlib import Path; from liveact_models.weights.hub import Hub\n"
        "from liveact_models.weights.releases import release\n"
        "hub = Hub(); hub.fetch(hub.plan(release('soulx-liveact'), Path(sys.argv[1])))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "of-the-environment"}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    parts = tmp_path / PARTS
    try:
        while not any(part.stat().st_size > 100_000 for part in (parts.glob(f"{BIG}*") if parts.exists() else ())):
            assert process.poll() is None, "it is to wait for the hub"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (left,) = parts.glob(f"{BIG}*")
    size = left.stat().st_size
    assert 100_000 < size < len(hub.repos[MODEL][BIG])
    begun = Manifest.read(tmp_path)
    assert begun is not None
    assert not begun.complete
    assert "Bearer of-the-environment" in {sent for _, path, _, sent in hub.requests if path.startswith("/api")}
    hub.go_on.set()
    hub.requests.clear()
    plan = Hub(hub.endpoint).plan(SOULX, tmp_path)
    assert plan.fetched_bytes >= size
    Hub(hub.endpoint).fetch(plan)
    assert set(hub.ranges(BIG)) == {f"bytes={size}-"}
    assert (tmp_path / BIG).read_bytes() == hub.repos[MODEL][BIG]
    assert not parts.exists()


def test_a_byte_changed_on_the_way_is_found_and_fetched_again(hub: HubState, tmp_path: Path) -> None:
    hub.damaged = {BIG: 1, "google/umt5-xxl/spiece.model": 1}
    pull(hub, tmp_path)
    for name in hub.damaged:
        assert (tmp_path / name).read_bytes() == hub.repos[MODEL][name]
    assert hub.ranges(BIG)[-1] is None, "from its beginning"


def test_bytes_that_stay_wrong_are_never_given_their_name(hub: HubState, tmp_path: Path) -> None:
    hub.damaged = {BIG: 9}
    error = refused(hub, tmp_path)
    assert isinstance(error, HubUnavailable)
    assert error.reason == "HASH_MISMATCH"
    assert BIG in str(error)
    assert not (tmp_path / BIG).exists()
    hub.damaged = {}
    pull(hub, tmp_path)
    assert (tmp_path / BIG).read_bytes() == hub.repos[MODEL][BIG]


def test_a_file_that_is_there_with_another_content_is_replaced(hub: HubState, tmp_path: Path) -> None:
    tmp_path.joinpath("Wan2.1_VAE.pth").write_bytes(bytes(len(hub.repos[MODEL]["Wan2.1_VAE.pth"])))
    tmp_path.joinpath("config.json").write_bytes(hub.repos[MODEL]["config.json"])
    pull(hub, tmp_path)
    assert (tmp_path / "Wan2.1_VAE.pth").read_bytes() == hub.repos[MODEL]["Wan2.1_VAE.pth"]
    assert hub.ranges("config.json") == [None], "that of the other repository alone"


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(hub: HubState, tmp_path: Path) -> None:
    hub.claimed_sizes[BIG] = 2**60
    error = refused(hub, tmp_path / "weights")
    assert error.reason == "DISK_FULL"
    assert "1073741824.0 GiB are to come" in str(error)
    assert not (tmp_path / "weights").exists()


def test_a_token_goes_to_the_hub(hub: HubState, tmp_path: Path) -> None:
    hub.token = "hf_right"
    assert refused(hub, tmp_path, token="hf_wrong").reason == "HUB_NOT_FOUND"
    pull(hub, tmp_path)


@pytest.mark.parametrize(
    ("status", "reason", "words"), [(403, "HUB_REFUSED", "HF_TOKEN"), (507, "HUB_FAILED", "goes on where it stopped")]
)
def test_what_the_hub_answers_is_told_with_what_to_do(
    hub: HubState, tmp_path: Path, status: int, reason: str, words: str
) -> None:
    hub.status = status
    error = refused(hub, tmp_path)
    assert error.reason == reason
    assert words in str(error)
    assert str(status) in str(error)


def test_what_is_not_on_the_hub_is_named(hub: HubState, tmp_path: Path) -> None:
    error = refused(hub, tmp_path, revision="next")
    assert (error.reason, "next" in str(error)) == ("HUB_NOT_FOUND", True)
    del hub.repos[MODEL]["Wan2.1_VAE.pth"]
    error = refused(hub, tmp_path)
    assert (error.reason, "Wan2.1_VAE.pth" in str(error)) == ("HUB_LAYOUT", True)
    hub.repos = {}
    error = refused(hub, tmp_path)
    assert (error.reason, MODEL in str(error)) == ("HUB_NOT_FOUND", True)


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(HubUnavailable) as caught:
            Hub(endpoint).plan(SOULX, tmp_path)
    assert caught.value.reason == "HUB_OFFLINE"
    assert endpoint in str(caught.value)
    assert "HF_ENDPOINT" in str(caught.value)


def test_a_name_that_leads_out_of_the_folder_is_refused(hub: HubState, tmp_path: Path) -> None:
    source = dataclasses.replace(SOULX.sources[0], needed=("*",))
    hub.repos[MODEL]["../outside.safetensors"] = b"x"
    with pytest.raises(WeightsError) as caught:
        Hub(hub.endpoint).plan(dataclasses.replace(SOULX, sources=(source,)), tmp_path)
    assert caught.value.reason == "HUB_LAYOUT"


def test_a_name_nobody_knows_is_answered_with_those_there_are() -> None:
    with pytest.raises(WeightsError, match="accepted are soulx-liveact"):
        release("other")
