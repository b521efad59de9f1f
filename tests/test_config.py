"""One configuration out of file, environment and command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from liveact_models.config import ConfigError
from liveact_services.config import load_config


def write(folder: Path, text: str) -> Path:
    path = folder / "liveact.yaml"
    path.write_text(text)
    return path


def test_later_sources_win_field_by_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "port: 1\ndenoiser: {replicas: 2, threads: 3, num_gpus: 1}\n")
    monkeypatch.setenv("LIVEACT_DENOISER__THREADS", "4")
    monkeypatch.setenv("LIVEACT_PORT", "2")
    config = load_config(path, denoiser={"num_gpus": 0.5})
    assert (config.port, config.denoiser.replicas, config.denoiser.threads, config.denoiser.num_gpus) == (2, 2, 4, 0.5)
    assert load_config(path, port=3).port == 3


def test_a_secret_comes_from_a_file_and_the_environment_is_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "secrets"
    # As Kubernetes mounts a Secret: links that change together.
    (mounted / "..1").mkdir(parents=True)
    (mounted / "..1" / "redis_url").write_text("redis://:secret@a:6379/1\n")
    (mounted / "..data").symlink_to("..1")
    (mounted / "redis_url").symlink_to("..data/redis_url")
    path = write(tmp_path, "redis_url: redis://file\nport: 1\n")
    monkeypatch.setenv("LIVEACT_SECRETS_DIR", str(mounted))
    config = load_config(path)
    assert (config.redis_url, config.port) == ("redis://:secret@a:6379/1", 1)
    monkeypatch.setenv("LIVEACT_REDIS_URL", "redis://b")
    assert load_config(path).redis_url == "redis://b"


def test_a_folder_of_secrets_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEACT_SECRETS_DIR", str(write(tmp_path, "")))
    with pytest.raises(ConfigError, match="secrets_dir must reference a directory"):
        load_config()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot: 9000", "prot"),
        ("denoiser: {replicas: 0}", "denoiser.replicas"),
        ("denoiser: {replica: 1}", "denoiser.replica"),
        ("preset: huge", "'huge' is unknown; accepted are tiny, soulx-liveact-18b"),
        ("sampler: dpm", "sampler"),
        ("sessions: {export_blocks: 1}", "accepted are 0, never, and 2 on"),
        ("- a list", "expected a table"),
        ("port: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_naming_the_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        load_config(write(tmp_path, text))


def test_a_missing_file_and_a_wrong_environment_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
    monkeypatch.setenv("LIVEACT_PORT", "many")
    with pytest.raises(ConfigError, match="port"):
        load_config()
