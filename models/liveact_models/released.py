"""The released algorithm as it spends its time: the yardstick of `liveact bench denoise`, and used by nothing that serves.

The same function as `BlockDenoiser`, with the costs of model-facts, "Known waste in the released code": all 14 frames of keys are
turned in complex128 at every layer and step, text and image are embedded and projected anew at every step, the caches
keep 14 frames and are compressed before the next block, not at commit. Written from those facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_models.block_run import reference_condition
from liveact_models.config import ModelConfig, SamplingConfig
from liveact_models.memory import LONG_TERM, SHORT_TERM, compress
from liveact_models.sampler import SAMPLERS, seeded_noise
from liveact_models.timeline import AUDIO_REACH, CONTEXT_SLOTS, WINDOW_SLOTS, block_slots
from liveact_models.transformer import LiveActTransformer, gather_audio_windows
from liveact_models.transformer.attention import CrossAttention, KeyValue, SelfAttention, attend
from liveact_models.transformer.layers import TransformerLayer
from liveact_models.transformer.rope import THETA


@dataclass
class ReleasedSession:
    """One session: its conditions, and for every step a cache of 14 frames, written in place."""

    seed: int
    text: Tensor
    """[tokens <= text_len, text_dim]"""
    clip: Tensor
    """[clip_tokens, clip_dim]"""
    reference: Tensor
    """[16, 14, h, w]"""
    block: int = 0
    caches: list[list[KeyValue]] = field(default_factory=list)
    """By step and layer: keys before RoPE and values, each [14 * tokens_per_frame, heads, head_dim]."""


class ReleasedDenoiser:
    """Denoises blocks as the released code does. Without audio guidance."""

    def __init__(
        self, transformer: LiveActTransformer, config: ModelConfig, sampling: SamplingConfig | None = None
    ) -> None:
        self.transformer, self.config = transformer.eval(), config
        self.sampling = sampling or config.sampling
        if self.sampling.guided:
            raise ValueError("audio guidance is not transcribed; accepted is audio_guidance 1")

    @torch.inference_mode()
    def open(self, seed: int, text: Tensor, clip: Tensor, reference: Tensor) -> ReleasedSession:
        """A session before its first block; shapes as in `BlockDenoiser.open`."""
        model = self.transformer.config
        _, rows, columns = model.patch_size
        tokens = WINDOW_SLOTS * (reference.shape[-2] // rows) * (reference.shape[-1] // columns)
        empty = partial(
            torch.zeros, (tokens, model.num_heads, model.head_dim),
            dtype=self.transformer.dtype, device=self.transformer.device,
        )  # fmt: skip
        caches = [[(empty(), empty()) for _ in range(model.num_layers)] for _ in range(self.sampling.num_steps)]
        return ReleasedSession(seed, text, clip, reference, caches=caches)

    @torch.inference_mode()
    def denoise(self, session: ReleasedSession, audio: Tensor) -> Tensor:
        """The session's next block: audio [frames + 4, layers, dim] -> latents [16, 6 or 8, h, w] in float32."""
        block, sampling = session.block, self.sampling
        if block >= 2:
            for cache in session.caches:
                for layer, kept in zip(self.transformer.layers, cache, strict=True):
                    _make_room(kept, layer.self_attn.memory_proj_k.weight)
        noise = seeded_noise(session.seed)
        reference = reference_condition(session.reference, block)
        shape = (session.reference.shape[0], *reference.shape[1:])
        latent = noise(block, 0, shape).to(self.transformer.device)
        for step, (time, next_time) in enumerate(pairwise((*sampling.timesteps, 0.0))):
            heard = None if step in sampling.skip_audio_steps else audio
            velocity = self._forward(session, step, latent, reference, time, heard)
            again = partial(noise, block, step + 1, shape)
            latent = SAMPLERS[sampling.sampler](latent, velocity, time, next_time, again)
        session.block += 1
        return latent

    def _forward(
        self,
        session: ReleasedSession,
        step: int,
        latent: Tensor,
        reference: Tensor,
        time: float,
        audio: Tensor | None,
    ) -> Tensor:
        model, first = self.transformer, session.block == 0
        text = F.pad(session.text.to(model.dtype), (0, 0, 0, model.config.text_len - len(session.text)))
        words, image = model.text_embedding(text), model.img_emb(session.clip.to(model.dtype))
        heard = None
        if audio is not None:
            heard = model.audio_tokens(gather_audio_windows(audio, AUDIO_REACH, len(audio) - AUDIO_REACH), first)
        x, (height, width) = model._embed(latent, reference)
        embedded, projected = model._time(time)
        slots = block_slots(session.block)
        for layer, cache in zip(model.layers, session.caches[step], strict=True):
            x = _layer(layer, x, projected, words, image, heard, cache, slots, (height, width))
        return model._unpatchify(model.head(x, embedded), len(slots), height, width)


def _layer(
    layer: TransformerLayer,
    x: Tensor,
    time: Tensor,
    words: Tensor,
    image: Tensor,
    heard: Tensor | None,
    cache: KeyValue,
    slots: range,
    grid: tuple[int, int],
) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = layer.modulation[0].float() + time
    attended = _self_attention(layer.self_attn, _modulate(x, shift1, scale1, layer.eps), cache, slots, grid)
    x = _gated(x, attended, gate1)
    x = x + _cross_attention(layer.cross_attn, layer.norm3(x), words, image)
    if heard is not None:
        x = x + layer.audio_cross_attn(layer.norm_x(x), heard, 1 if slots.start == 0 else 0)
    return _gated(x, layer.ffn(_modulate(x, shift2, scale2, layer.eps)), gate2)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).to(x.dtype)


def _gated(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    return (x.float() + out.float() * gate).to(x.dtype)


def _self_attention(
    attention: SelfAttention, x: Tensor, cache: KeyValue, slots: range, grid: tuple[int, int]
) -> Tensor:
    tokens = grid[0] * grid[1]
    new = slice(slots.start * tokens, slots.stop * tokens)
    q = attention.norm_q(attention.q(x)).unflatten(-1, attention.heads)
    keys, values = cache
    keys[new] = attention.norm_k(attention.k(x)).unflatten(-1, attention.heads)
    values[new] = attention.v(x).unflatten(-1, attention.heads)
    turned = _turn(keys[: new.stop], range(slots.stop), grid)
    out = attend(_turn(q, slots, grid), turned, values[: new.stop])
    return attention.o(out.flatten(-2))


def _cross_attention(attention: CrossAttention, x: Tensor, words: Tensor, image: Tensor) -> Tensor:
    return attention(x, attention.text_keys(words), attention.image_keys(image))


def _turn(x: Tensor, slots: range, grid: tuple[int, int]) -> Tensor:
    """RoPE in complex128, with the angles of every token put together for this call: [tokens, heads, head_dim]."""
    height, width = grid
    side = 2 * (x.shape[-1] // 6)
    parts = (
        _polar(WINDOW_SLOTS, x.shape[-1] - 2 * side, x.device)[slots.start : slots.stop, None, None],
        _polar(height, side, x.device)[None, :, None],
        _polar(width, side, x.device)[None, None, :],
    )
    angles = torch.cat([part.expand(len(slots), height, width, -1) for part in parts], dim=-1)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * angles.reshape(len(x), 1, -1)).flatten(-2).to(x.dtype)


def _polar(positions: int, dim: int, device: torch.device) -> Tensor:
    frequencies = THETA ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64, device=device), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def _make_room(cache: KeyValue, weight: Tensor) -> None:
    """Before a block: slots 2-6 and 7-11 into 2 and 3, slots 12-13 to 4-5, in place. Slots 6-13 are then written over."""
    for part in cache:
        frames = part.unflatten(0, (WINDOW_SLOTS, -1))
        long_term = [compress(frames[span], weight) for span in LONG_TERM]
        frames[2:CONTEXT_SLOTS] = torch.cat((*long_term, frames[SHORT_TERM]))
