"""Sizes of the model: typed configurations and the presets `tiny` and `soulx-liveact-18b`.

Field names of `TransformerConfig` are those of the released config.json (model-facts, "Network"), so a released file reads into
it without a map. Every config is frozen: a process builds it once and passes it whole.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

DEFAULT_PROMPT = "A person looks into the camera and speaks."


class ConfigError(ValueError):
    """A configuration that names something unknown or contradicts itself; the message says what is accepted."""


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer (model-facts, "Network"). Defaults are the released size."""

    dim: int = 5120
    ffn_dim: int = 13824
    num_layers: int = 40
    num_heads: int = 40
    freq_dim: int = 256
    in_dim: int = 36
    """Channels of the patch input: 16 noise + 4 mask + 16 reference latents."""
    out_dim: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    text_len: int = 512
    text_dim: int = 4096
    clip_dim: int = 1280
    clip_tokens: int = 257
    audio_window: int = 5
    """Video frames of sound each frame sees, itself in the middle."""
    audio_blocks: int = 12
    """Hidden layers of the audio encoder that are used."""
    audio_channels: int = 768
    intermediate_dim: int = 512
    output_dim: int = 768
    context_tokens: int = 32
    """Audio tokens per latent frame."""
    vae_scale: int = 4
    """Video frames per latent frame after the first."""
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ConfigError(f"dim {self.dim} does not split into {self.num_heads} heads of an even width")
        if self.audio_window % 2 == 0:
            raise ConfigError(f"audio_window {self.audio_window} must be odd: the frame itself stands in the middle")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


@dataclass(frozen=True)
class VaeConfig:
    """The causal 3-D VAE, strides 4x8x8, 16 channels (diffusers' AutoencoderKLWan)."""

    family: Literal["wan"] = "wan"
    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    std: tuple[float, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip


@dataclass(frozen=True)
class TinyVaeConfig:
    """The small causal autoencoder of the same strides and channels (`liveact_models.vae.tiny`)."""

    family: Literal["tiny"] = "tiny"
    z_dim: int = 16
    frame_dim: int = 64
    """Channels of a video frame, at a quarter of the picture's side."""
    encoder_dim: int = 192
    """Channels of the four frames of a latent frame together, at an eighth of the side."""
    decoder_dim: int = 128
    encoder_frame_blocks: int = 1
    encoder_memory_blocks: int = 1
    decoder_memory_blocks: int = 2
    decoder_frame_blocks: int = 2


AnyVaeConfig = VaeConfig | TinyVaeConfig
VAE_FAMILIES: dict[str, type] = {"wan": VaeConfig, "tiny": TinyVaeConfig}


MEL_WINDOW, MEL_HOP = 400, 160
"""Samples at 16 kHz that a log-mel frame is made of, and between one and the next."""
MEL_CENTRE = 400
"""Sample around which the first feature out of log-mel frames is heard, the last as far from the end.

Both are then in the middle of a video frame at 20 fps, and so are those interpolated between them.
"""


@dataclass(frozen=True)
class AudioEncoderConfig:
    """wav2vec2 (transformers' Wav2Vec2Model); field names are that library's but for `mel_bands`."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    mel_bands: int = 0
    """Log-mel bands that the convolutions hear in place of the waveform; 0, as wav2vec2, none."""

    def __post_init__(self) -> None:
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ConfigError("conv_dim, conv_kernel and conv_stride must have one entry a convolution each")

    @property
    def receptive_field(self) -> int:
        """Samples that one feature is made of."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return (samples - 1) * MEL_HOP + MEL_WINDOW if self.mel_bands else samples

    @property
    def margin(self) -> int:
        """Samples of silence put before and after the sound; wav2vec2 puts none."""
        return max(self.receptive_field // 2 - MEL_CENTRE, 0) if self.mel_bands else 0

    @property
    def least_samples(self) -> int:
        """Fewer give no feature."""
        return self.receptive_field - 2 * self.margin


@dataclass(frozen=True)
class TextEncoderConfig:
    """UMT5 (transformers' UMT5EncoderModel)."""

    vocab: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    tokenizer: str = "umt5"
    """"umt5" reads google/umt5-xxl beside the weights, "bpe" tokenizer.json, "bytes" needs no file."""


@dataclass(frozen=True)
class ImageEncoderConfig:
    """CLIP vision tower; its last-but-one block is read (model-facts, "Network")."""

    image_size: int = 224
    patch_size: int = 14
    dim: int = 1280
    mlp_ratio: int = 4
    out_dim: int = 1024
    num_heads: int = 16
    num_layers: int = 32
    activation: str = "gelu"


@dataclass(frozen=True)
class SizeLimits:
    """Picture sizes a preset accepts, in pixels; both sides are multiples of 16."""

    minimum: int
    maximum: int
    """Longest side."""
    default: tuple[int, int]
    """(width, height)."""
    max_pixels: int


@dataclass(frozen=True)
class SamplingConfig:
    """How a block is sampled (model-facts, "Sampling"): three steps at the same diffusion times for every block."""

    timesteps: tuple[float, ...] = (1000.0, 937.5, 833.33333333)
    sampler: str = "renoise"
    memory: str = "conv"
    """"conv" compresses with the learned weights, "mean" with 1/5 each, "none" keeps the last four frames alone."""
    context: str = "same-step"
    """"same-step" is Neighbor Forcing; "clean" is the baseline it is measured against: one cache, of finished frames."""
    audio_guidance: float = 1.0
    skip_audio_steps: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.sampler not in ("renoise", "euler"):
            raise ConfigError(f"sampler {self.sampler!r}: accepted are 'renoise' and 'euler'")
        if self.memory not in ("conv", "mean", "none"):
            raise ConfigError(f"memory {self.memory!r}: accepted are 'conv', 'mean' and 'none'")
        if self.context not in ("same-step", "clean"):
            raise ConfigError(f"context {self.context!r}: accepted are 'same-step' and 'clean'")
        if self.audio_guidance < 1.0:
            raise ConfigError(f"audio_guidance {self.audio_guidance}: accepted are values from 1.0 (off) up")

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def guided(self) -> bool:
        return self.audio_guidance > 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes of one model."""

    name: str
    transformer: TransformerConfig
    vae: AnyVaeConfig
    audio_encoder: AudioEncoderConfig
    text_encoder: TextEncoderConfig
    image_encoder: ImageEncoderConfig
    limits: SizeLimits
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    vae_decoder: TinyVaeConfig | None = None
    """A small decoder of the same latents in place of the VAE's own, which still encodes."""
    fps: int = 20
    trained_fps: int = 25
    """The rate the audio path was trained at: sound is stretched by trained_fps / fps (model-facts, "Network")."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """Sixteen hex digits that name the shapes: states are adopted only by a model of the same fingerprint."""
        import hashlib

        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Raises `ConfigError` naming an unknown or missing field."""
        return _build(cls, data, "model")


def _build(cls: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table of fields, found {type(data).__name__}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; accepted are {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        nested = _nested(cls, name, value, f"{where}.{name}")
        if nested is not None:
            values[name] = _build(nested, value, f"{where}.{name}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _nested(cls: type, name: str, value: Any, where: str) -> type | None:
    """The dataclass this field's table is read into; None for a plain value."""
    if (cls, name) == (ModelConfig, "vae_decoder"):
        return None if value is None else TinyVaeConfig
    if (cls, name) != (ModelConfig, "vae"):
        return _NESTED.get((cls, name))
    family = value.get("family", "wan") if isinstance(value, dict) else "wan"
    if family not in VAE_FAMILIES:
        raise ConfigError(f"{where}: family {family!r} is unknown; accepted are {', '.join(VAE_FAMILIES)}")
    return VAE_FAMILIES[family]


_NESTED: dict[tuple[type, str], type] = {
    (ModelConfig, "transformer"): TransformerConfig,
    (ModelConfig, "audio_encoder"): AudioEncoderConfig,
    (ModelConfig, "text_encoder"): TextEncoderConfig,
    (ModelConfig, "image_encoder"): ImageEncoderConfig,
    (ModelConfig, "limits"): SizeLimits,
    (ModelConfig, "sampling"): SamplingConfig,
}


def transformer_config_from_json(path: Path) -> TransformerConfig:
    """The transformer's sizes out of a released config.json; fields that do not fix shapes are passed over.

    Raises `ConfigError` when the file is not JSON or lacks `dim`, `num_layers` or `num_heads`.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not a readable config.json ({error})") from None
    for key in ("dim", "num_layers", "num_heads"):
        if key not in data:
            raise ConfigError(f"{path}: field {key!r} is missing")
    known = {f.name for f in dataclasses.fields(TransformerConfig)}
    return _build(TransformerConfig, {k: v for k, v in data.items() if k in known}, str(path))


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        name="tiny",
        transformer=TransformerConfig(
            dim=192, ffn_dim=512, num_layers=6, num_heads=3, freq_dim=64, text_len=48, text_dim=64, clip_dim=64,
            clip_tokens=17, audio_blocks=4, audio_channels=96, intermediate_dim=64, output_dim=64, context_tokens=8,
        ),
        vae=TinyVaeConfig(),
        audio_encoder=AudioEncoderConfig(
            hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384, mel_bands=40,
            conv_dim=(128, 64), conv_kernel=(4, 2), conv_stride=(2, 1),
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        ),
        text_encoder=TextEncoderConfig(
            vocab=1024, dim=64, dim_attn=64, dim_ffn=128, num_heads=4, num_layers=2, tokenizer="bpe"
        ),
        image_encoder=ImageEncoderConfig(
            image_size=112, patch_size=28, dim=64, mlp_ratio=2, out_dim=32, num_heads=4, num_layers=3
        ),
        limits=SizeLimits(minimum=32, maximum=256, default=(128, 128), max_pixels=256 * 256),
        trained_fps=20,
    ),
    "soulx-liveact-18b": ModelConfig(
        name="soulx-liveact-18b",
        transformer=TransformerConfig(),
        vae=VaeConfig(),
        audio_encoder=AudioEncoderConfig(),
        text_encoder=TextEncoderConfig(),
        image_encoder=ImageEncoderConfig(),
        limits=SizeLimits(minimum=256, maximum=1024, default=(512, 512), max_pixels=720 * 720),
    ),
}  # fmt: skip


def preset(name: str) -> ModelConfig:
    """The preset of that name; raises `ConfigError` naming those there are."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"preset {name!r} is unknown; accepted are {', '.join(PRESETS)}") from None


def check_size(config: ModelConfig, width: int, height: int) -> None:
    """Raise `ConfigError` unless (width, height), in pixels, is a size this preset renders."""
    limits = config.limits
    if width % 16 or height % 16 or width <= 0 or height <= 0:
        raise ConfigError(f"size {width}x{height}: both sides must be positive multiples of 16")
    if min(width, height) < limits.minimum or max(width, height) > limits.maximum:
        raise ConfigError(
            f"size {width}x{height}: preset {config.name} accepts sides from {limits.minimum} to {limits.maximum}"
        )
    if width * height > limits.max_pixels:
        raise ConfigError(f"size {width}x{height}: preset {config.name} accepts at most {limits.max_pixels} pixels")
