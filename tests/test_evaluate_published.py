"""SyncNet, FID and FVD by weights that a user supplies; small ones made here stand for the published."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from liveact_models.evaluate.published import (
    PublishedError,
    PublishedNetworks,
    i3d_features,
    inception_features,
)
from liveact_models.evaluate.recordings import Recording, RecordingError, read_recording
from liveact_models.evaluate.suites import published_suite
from liveact_models.evaluate.syncnet import REACH, SyncNet, _measure, cepstra, sync


class Inception(nn.Module):
    """Mean colour of an uint8 picture, by the interface of StyleGAN's Inception."""

    def forward(self, pictures: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        assert pictures.dtype == torch.uint8
        return pictures.float().mean(dim=(2, 3))


class I3D(nn.Module):
    """Mean colour of a window of 16 frames, by the interface of StyleGAN-V's I3D."""

    def forward(
        self, videos: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        assert rescale
        assert resize
        assert return_features
        assert videos.shape[2] == 16
        return videos.mean(dim=(2, 3, 4))


class Plain(nn.Module):
    """A network that knows nothing of `return_features`."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float()


def put(folder: Path, name: str, network: nn.Module) -> None:
    torch.jit.script(network).save(str(folder / name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "inception-2015-12-05.pt", Inception())
    put(tmp_path, "i3d_torchscript.pt", I3D())
    return tmp_path


@pytest.fixture(scope="module")
def syncnet() -> SyncNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SyncNet().eval().requires_grad_(False)


def recording(level: int, seed: int, frames: int = 40) -> Recording:
    rng = np.random.default_rng(seed)
    video = rng.integers(level, level + 60, (frames, 24, 24, 3), np.uint8)
    return Recording("", video, 20, rng.standard_normal(frames * 800).astype(np.float32) * 0.1)


# The folder


def test_what_is_missing_is_named_with_what_it_must_be(folder):
    networks = PublishedNetworks.load(folder)
    assert networks.syncnet is None
    assert len(networks.missing) == 1
    assert "Sync-C/D is left out" in networks.missing[0]
    assert "syncnet_v2.model" in networks.missing[0]


def test_a_folder_without_any_of_them_is_refused(tmp_path):
    with pytest.raises(PublishedError, match=r"holds none of the weights; accepted are syncnet_v2\.model"):
        PublishedNetworks.load(tmp_path)
    with pytest.raises(PublishedError, match="not a folder"):
        PublishedNetworks.load(tmp_path / "none")


@pytest.mark.parametrize("name", ["inception.pt", "i3d.pt", "syncnet_v2.model"])
def test_a_file_that_is_something_else_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(PublishedError, match=name):
        PublishedNetworks.load(tmp_path)


def test_a_network_of_another_interface_is_named(tmp_path):
    put(tmp_path, "inception.pt", Plain())
    networks = PublishedNetworks.load(tmp_path)
    with pytest.raises(PublishedError, match=r"inception.*return_features"):
        inception_features(networks.inception, recording(0, 0).frames)


# FID and FVD


def test_features_are_one_a_frame_and_one_for_every_sixteen(folder):
    networks, frames = PublishedNetworks.load(folder), recording(50, 0).frames
    colours = inception_features(networks.inception, frames)
    np.testing.assert_allclose(colours, frames.mean(axis=(1, 2)), rtol=1e-4)
    motions = i3d_features(networks.i3d, frames)
    assert motions.shape == (2, 3)
    np.testing.assert_allclose(motions[1], frames[16:32].mean(axis=(0, 1, 2)), rtol=1e-4)


def test_videos_like_the_truth_lie_near_it_and_others_far_off(folder):
    networks = PublishedNetworks.load(folder)
    truth = ("truth", [recording(50, seed) for seed in range(3)])
    near = ("near", [recording(50, seed) for seed in range(3, 6)])
    far = ("far", [recording(90, seed) for seed in range(3, 6)])
    real, like, unlike = published_suite(networks, truth, [near, far], {}).rows
    assert "FID" not in real
    assert like["FID"] < 1
    # Three colours, each 40 off.
    assert unlike["FID"] == pytest.approx(4800, rel=0.05)
    assert unlike["FVD"] == pytest.approx(4800, rel=0.05)
    assert "Sync-C" not in unlike


# SyncNet


def test_the_network_takes_the_published_weights_by_name():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in SyncNet().state_dict().items()}
    # Names and shapes of syncnet_v2.model.
    assert shapes["netcnnaud.0.weight"] == (64, 1, 3, 3)
    assert shapes["netcnnaud.18.weight"] == (512, 256, 5, 4)
    assert shapes["netcnnlip.0.weight"] == (96, 3, 5, 7, 7)
    assert shapes["netcnnlip.18.weight"] == (512, 256, 1, 6, 6)
    assert shapes["netfcaud.3.weight"] == shapes["netfclip.3.weight"] == (1024, 512)
    assert len(shapes) == 2 * (6 * 7 + 2 + 5 + 2)


def test_both_towers_reach_one_space(syncnet):
    assert syncnet.hear(torch.zeros(2, 1, 13, 20)).shape == (2, 1024)
    assert syncnet.look(torch.zeros(1, 3, 5, 224, 224)).shape == (1, 1024)


def test_saved_weights_load_again_and_give_a_measure(syncnet, tmp_path):
    torch.save(syncnet.state_dict(), tmp_path / "syncnet_v2.model")
    networks = PublishedNetworks.load(tmp_path)
    (row,) = published_suite(networks, None, [("videos", [recording(50, 0, frames=8)])], {}).rows
    assert row["Sync-D"] > 0
    assert row["Sync-C"] >= 0
    assert "FID" not in row


@pytest.mark.parametrize("late", [-3, 0, 5])
def test_the_offset_is_found_and_confidence_needs_a_match(late):
    torch.manual_seed(1)
    features = torch.randn(80, 1024)
    # Sound that comes `late` frames after the lips has to be moved back by as many.
    heard = features[10 - late : 70 - late]
    found = _measure(features[10:70], heard)
    assert found.offset == -late
    assert found.distance < 8
    assert found.confidence > 20
    assert _measure(features[:40], torch.randn(40, 1024)).confidence < 5
    assert abs(found.offset) <= REACH


def test_a_video_too_short_for_a_window_is_refused(syncnet):
    short = recording(50, 0, frames=4)
    with pytest.raises(ValueError, match="accepted are 6 frames"):
        sync(syncnet, short.frames, short.fps, short.samples)


def test_cepstra_come_a_hundred_a_second_and_loudness_moves_the_first_alone():
    samples = np.random.default_rng(0).standard_normal(16000) * 1000
    quiet, loud = cepstra(samples), cepstra(2 * samples)
    assert quiet.shape == (99, 13)
    np.testing.assert_allclose(loud[:, 0] - quiet[:, 0], math.log(4), atol=1e-9)
    np.testing.assert_allclose(loud[:, 1:], quiet[:, 1:], atol=1e-9)


def test_cepstra_are_the_cosine_transform_of_log_mel_energies():
    from scipy.fft import dct

    from liveact_models.evaluate.syncnet import _cosines, _filters

    values = np.random.default_rng(2).standard_normal(26)
    np.testing.assert_allclose(_cosines(26) @ values, dct(values, type=2, norm="ortho")[:13], atol=1e-12)
    filters = _filters(512)
    assert filters.shape == (26, 257)
    assert filters.max() == 1
    # Neighbouring triangles add up to one between their peaks.
    inner = filters[:, filters[0].argmax() : filters[-1].argmax()]
    np.testing.assert_allclose(inner.sum(axis=0), 1, atol=1e-9)


# Recordings


def test_a_file_that_is_no_video_is_named(tmp_path):
    path = tmp_path / "no.mp4"
    path.write_bytes(b"nothing")
    with pytest.raises(RecordingError, match=r"no\.mp4"):
        read_recording(path)


def test_a_video_file_is_read_with_its_sound(tmp_path):
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=24000, layout="mono")
        for level in range(0, 250, 10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        samples = np.zeros((1, 24000), np.float32)
        audio = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        audio.rate = 24000
        container.mux(sound.encode(audio))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    read = read_recording(path)
    assert read.frames.shape == (25, 32, 32, 3)
    assert read.fps == 25
    assert read.frames[20].mean() == pytest.approx(200, abs=4)
    assert len(read.samples) == pytest.approx(16000, rel=0.1)
