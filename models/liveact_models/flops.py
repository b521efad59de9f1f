"""The cost of a video frame, counted on the meta device: no weights, no memory (model-facts, "The cost, counted").

A multiply-add is two operations. Counted is a later block (8 latent frames, 32 video frames, context of 6), all of its steps,
by torch's own counter; element-wise work is not counted by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from liveact_models.block_run import MASK_CHANNELS
from liveact_models.config import ModelConfig, check_size, preset
from liveact_models.memory import cache_shape, next_cache
from liveact_models.timeline import AUDIO_WINDOW_FRAMES, BLOCK_FRAMES, BLOCK_LATENTS, block_slots
from liveact_models.transformer import LiveActTransformer

TERA = 1e12
SAMPLE_RATE = 16_000
PAPER_WITHOUT_AUDIO = 27.2
"""TFLOP a frame in the paper's table, 512x512."""
AUDIO_PARTS = ("audio projection", "audio cross-attention")
_SCORES = (
    torch.ops.aten.bmm,
    torch.ops.aten._scaled_dot_product_flash_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_efficient_attention,
)
"""The operations that attention runs as; on the meta device it is two batched products."""


@dataclass(frozen=True)
class FlopCount:
    """TFLOP per video frame of a later block."""

    preset: str
    width: int
    height: int
    parts: dict[str, float]
    """The transformer's, by part; they sum to `transformer`."""
    audio_encoder: float
    """wav2vec2 over a block's window of sound."""
    vae_decode: float
    """One latent frame decoded with the feature cache, that is four video frames."""
    per_prompt: float
    """TFLOP of text and image keys and values, once a prompt and in no row above."""

    @property
    def transformer(self) -> float:
        return sum(self.parts.values())

    @property
    def without_audio(self) -> float:
        """The transformer without its audio module: what the paper's 27.2 is compared with."""
        return sum(cost for part, cost in self.parts.items() if part not in AUDIO_PARTS)

    @property
    def total(self) -> float:
        """Everything a frame costs once the session stands."""
        return self.transformer + self.audio_encoder + self.vae_decode


def count(name: str, width: int, height: int) -> FlopCount:
    """Count the preset of that name at width x height pixels; raises `ConfigError` for one it does not have or render."""
    config = preset(name)
    check_size(config, width, height)
    with torch.device("meta"), torch.no_grad():
        parts, per_prompt = _transformer(config, width, height)
        return FlopCount(
            preset=name,
            width=width,
            height=height,
            parts={part: flops / BLOCK_FRAMES / TERA for part, flops in parts.items()},
            audio_encoder=_audio_encoder(config) / BLOCK_FRAMES / TERA,
            vae_decode=_vae_decode(config, width, height) / config.transformer.vae_scale / TERA,
            per_prompt=per_prompt / TERA,
        )


def block_tflop(config: ModelConfig, width: int, height: int) -> float:
    """TFLOP of a later block of that size, all of its steps; any multiple of 16 is counted."""
    with torch.device("meta"), torch.no_grad():
        return _sum(dict(_transformer(config, width, height)[0])) / TERA


def block_parts(config: ModelConfig, width: int, height: int) -> dict[str, float]:
    """TFLOP of a later block by part: those of `FlopCount.parts`, `audio encoder` and `VAE decoder`; any multiple of 16."""
    with torch.device("meta"), torch.no_grad():
        parts = dict(_transformer(config, width, height)[0])
        parts["audio encoder"] = _audio_encoder(config)
        parts["VAE decoder"] = BLOCK_LATENTS * _vae_decode(config, width, height)
    return {part: flop / TERA for part, flop in parts.items()}


def _transformer(config: ModelConfig, width: int, height: int) -> tuple[Counter[str], int]:
    """FLOP of one block by part, and of one prompt's conditioning."""
    model, sampling = config.transformer, config.sampling
    transformer = LiveActTransformer(model)
    frame = (height // 8, width // 8)
    latent = torch.empty(model.out_dim, BLOCK_LATENTS, *frame)
    reference = torch.empty(MASK_CHANNELS + model.out_dim, BLOCK_LATENTS, *frame)
    windows = torch.empty(BLOCK_FRAMES, model.audio_window, model.audio_blocks, model.audio_channels)
    context = torch.empty(cache_shape(config, width, height))
    weights = [layer.self_attn.memory_proj_k.weight for layer in transformer.layers]
    text, clip = torch.empty(model.text_len, model.text_dim), torch.empty(model.clip_tokens, model.clip_dim)
    conditioning, prompt = _counted(transformer.condition, text, clip)
    audio, projection = _counted(transformer.audio_tokens, windows, False)
    parts: Counter[str] = Counter({"audio projection": _sum(projection["Global"])})
    for step, time in enumerate(sampling.timesteps):
        heard = None if step in sampling.skip_audio_steps else audio
        inputs = (latent, reference, time, conditioning, heard, context, block_slots(1))
        (_, fresh), counts = _counted(transformer, *inputs)
        parts.update(_by_part(counts))
        _, memory = _counted(next_cache, context, fresh, weights)
        parts["ConvKV memory"] += _sum(memory["Global"])
    return parts, _sum(prompt["Global"])


def _by_part(counts: dict[str, dict[Any, int]]) -> Counter[str]:
    """One step's operations by the layer's modules; what is in no layer is the embeddings and the head."""
    parts: Counter[str] = Counter()
    for path, operations in counts.items():
        match path.split("."):
            case [_, "blocks", _, "self_attn"]:
                scores = sum(flops for operation, flops in operations.items() if operation in _SCORES)
                parts["self-attention scores"] += scores
                parts["self-attention linears"] += _sum(operations) - scores
            case [_, "blocks", _, "cross_attn"]:
                parts["cross-attention"] += _sum(operations)
            case [_, "blocks", _, "audio_cross_attn"]:
                parts["audio cross-attention"] += _sum(operations)
            case [_, "blocks", _, "ffn"]:
                parts["ffn"] += _sum(operations)
    parts["embeddings and head"] = _sum(counts["Global"]) - sum(parts.values())
    return parts


def _audio_encoder(config: ModelConfig) -> int:
    """FLOP of encoding the sound of one block: its window, at the rate the model was trained at."""
    from liveact_models.encoders.audio import AudioEncoder

    encoder = AudioEncoder(config.audio_encoder).eval()
    sound = torch.empty(AUDIO_WINDOW_FRAMES * SAMPLE_RATE // config.trained_fps)
    _, counts = _counted(encoder.encode, sound, AUDIO_WINDOW_FRAMES)
    return _sum(counts["Global"])


def _vae_decode(config: ModelConfig, width: int, height: int) -> int:
    """FLOP of decoding one latent frame once the feature cache is full, which takes two frames before it."""
    from liveact_models.vae import build_vae

    vae = build_vae(config.vae_decoder or config.vae, parts="decode").to("meta")
    latent, cache = torch.empty(config.vae.z_dim, height // 8, width // 8), vae.new_cache()
    for _ in range(2):
        vae.decode_frame(latent, cache)
    _, counts = _counted(vae.decode_frame, latent, cache)
    return _sum(counts["Global"])


def _counted(function: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, dict[Any, int]]]:
    """What the call returns, and its operations by module path ("Global" for all of them)."""
    with FlopCounterMode(display=False) as counter:
        result = function(*args)
    counts = {path: dict(operations) for path, operations in counter.get_flop_counts().items()}
    return result, {"Global": {}, **counts}


def _sum(operations: dict[Any, int]) -> int:
    return sum(operations.values())
