"""The weights that can be had by name: which repositories hold them, and which of their files the loader reads."""

from __future__ import annotations

from dataclasses import dataclass

from liveact_models.weights.errors import WeightsError


@dataclass(frozen=True)
class Source:
    """One repository of a hub, or a part of it."""

    repo: str
    revision: str
    """A commit; or a branch, which the first pull resolves to a commit and the folder's manifest then holds to."""
    needed: tuple[str, ...]
    """Patterns (fnmatch); each must be matched by a file of the repository."""
    taken: tuple[str, ...] = ()
    """Patterns of what is taken too where it is there."""
    folder: str = ""
    """Where its files go, inside the folder of the release."""


@dataclass(frozen=True)
class Release:
    """Weights under one name."""

    name: str
    preset: str
    sources: tuple[Source, ...]
    about: str


_NOTICES = ("README.md", "LICENSE*", "NOTICE*")

RELEASES = {
    release.name: release
    for release in (
        Release(
            name="soulx-liveact",
            preset="soulx-liveact-18b",
            about="SoulX-LiveAct, 18B: transformer, VAE, UMT5-XXL, CLIP ViT-H/14 and the wav2vec2 that it was trained with",
            sources=(
                Source(
                    "Soul-AILab/LiveAct",
                    "main",
                    needed=(
                        "config.json",
                        "diffusion_pytorch_model*.safetensors",
                        "Wan2.1_VAE.pth",
                        "models_t5_umt5-xxl-enc-bf16.pth",
                        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
                        "google/umt5-xxl/*",
                    ),
                    taken=("diffusion_pytorch_model*.safetensors.index.json", *_NOTICES),
                ),
                Source(
                    "TencentGameMate/chinese-wav2vec2-base",
                    "3991242c806928916fff4a8c0e4f76acf661b743",
                    needed=("pytorch_model.bin",),
                    taken=("config.json", *_NOTICES),
                    folder="chinese-wav2vec2-base",
                ),
            ),
        ),
    )
}


def release(name: str) -> Release:
    """The release of that name. Raises `WeightsError` RELEASE_UNKNOWN naming those there are."""
    try:
        return RELEASES[name]
    except KeyError:
        raise WeightsError("RELEASE_UNKNOWN", f"{name!r}: accepted are {', '.join(RELEASES)}") from None
