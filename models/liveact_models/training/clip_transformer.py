"""The transformer over all blocks of a batch of clips at once: what inference does block by block with its caches.

With Neighbor Forcing a block's context is what earlier frames were at the same diffusion step, so one pass at one time
sees every context it needs (paper, stage 1). The weights are the model's own; nothing here is a layer.

Shapes: B clips, N blocks of 6, 8, 8, ... latent frames, F latent frames in all, S tokens of a frame, D dim, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_models.compiling import compiled
from liveact_models.timeline import CONTEXT_SLOTS, FIRST_BLOCK_LATENTS, WINDOW_SLOTS, block_latents
from liveact_models.training.block_attention import Memory, block_causal_attention
from liveact_models.transformer.layers import TransformerLayer
from liveact_models.transformer.model import LiveActTransformer
from liveact_models.transformer.rope import RopeTable, rope_table

AttentionForm = Literal["blocks", "mask"]


@dataclass(frozen=True)
class ClipConditions:
    """What a batch of clips is told. The counterpart of inference's reference, conditioning and audio tokens."""

    reference: Tensor
    """[B, 16, 14, h, w]: latents of the portrait and zero frames."""
    text: Tensor
    """[B, N, text_len, text_dim]: each block's prompt, padded with zeros."""
    clip: Tensor
    """[B, clip_tokens, clip_dim]."""
    audio: Sequence[Tensor]
    """Per block, features of its video frames and two more on either side: [B, frames + 4, layers, dim]."""

    def silent(self, drop: Tensor) -> ClipConditions:
        """The same with the features of the clips where `drop` [B] is true set to zero."""
        keep = (~drop).to(self.audio[0]).view(-1, 1, 1, 1)
        return ClipConditions(self.reference, self.text, self.clip, [part * keep for part in self.audio])

    def blocks(self, count: int) -> ClipConditions:
        return ClipConditions(self.reference, self.text[:, :count], self.clip, self.audio[:count])


@dataclass(frozen=True)
class ClipVelocity:
    velocity: Tensor
    """[B, 16, F, h, w] in float32."""
    audio_tokens: Tensor
    """[B, F, context_tokens, output_dim]: what the audio projection made of the sound, for auxiliary losses."""
    hidden: Tensor
    """[B, F, S, D]: the tokens after `tap` layers, for a discriminator; after the last layer where none was asked for."""


def clip_latents(blocks: int) -> int:
    """Latent frames of the first `blocks` blocks."""
    return sum(map(block_latents, range(blocks)))


def split_blocks(x: Tensor, dim: int) -> list[Tensor]:
    """The latent frames of `dim` cut into blocks of 6, 8, 8, ..."""
    count = 1 + (x.shape[dim] - FIRST_BLOCK_LATENTS) // block_latents(1)
    return list(x.split([block_latents(block) for block in range(count)], dim=dim))


def clip_reference(reference: Tensor, blocks: int) -> Tensor:
    """[B, 16, 14, h, w] -> the reference condition of every block in a row [B, 20, F, h, w], mask channels first."""
    mask = torch.zeros_like(reference[:, :4])
    mask[:, :, 0] = 1.0
    window = torch.cat((mask, reference), dim=1)
    first, later = window[:, :, :CONTEXT_SLOTS], window[:, :, CONTEXT_SLOTS:]
    return torch.cat([first, *[later] * (blocks - 1)], dim=2)


def clip_velocity(
    model: LiveActTransformer,
    latents: Tensor,
    times: Tensor,
    conditions: ClipConditions,
    *,
    hear: Tensor | None = None,
    memory: Memory = "conv",
    form: AttentionForm = "blocks",
    tap: int | None = None,
    run_layer: Callable[..., Tensor] | None = None,
) -> ClipVelocity:
    """The velocity of every block, each with the earlier blocks at the same time as context.

    Args:
        latents: noisy latents [B, 16, F, h, w] of whole blocks.
        times: diffusion times, 1000 to 0: [B], one for the clip (Neighbor Forcing), or [B, N], one a block (Diffusion
            Forcing, the baseline: the context then has other noise than the block).
        conditions: of the clips; more blocks than `latents` has are passed over.
        hear: [B] bool; the audio cross-attention is left out where it is false, as at step 0.
        memory: how frames older than the context are remembered, see `liveact_models.memory`.
        form: "blocks" attends block by block, "mask" in one call with a mask: the same function.
        tap: layers after which `hidden` is taken.
        run_layer: in place of this module's own, a compiled one.
    """
    run_layer = run_layer or _layer
    config = model.config
    parts = split_blocks(latents, 2)
    blocks, (height, width) = len(parts), (latents.shape[3] // 2, latents.shape[4] // 2)
    sizes = [block_latents(block) * height * width for block in range(blocks)]
    x = _embed(model, latents, clip_reference(conditions.reference, blocks))  # [B, F * S, D]
    head_time, time = _time(model, times, blocks)  # [B, N, D], [B, N, 6, D]
    spread = torch.repeat_interleave(torch.arange(blocks), torch.tensor(sizes)).to(x.device)
    single = times.dim() == 1
    text = model.text_embedding(conditions.text[:, :blocks].to(model.device))
    image = model.img_emb(conditions.clip.to(model.device))
    audio = _audio_tokens(model, conditions.audio[:blocks])  # [B, F, tokens, channels]
    rope = rope_table(config.head_dim, height, width, x.device).tokens(0, WINDOW_SLOTS * height * width)
    hidden = x
    for index, layer in enumerate(model.layers):
        modulation = layer.modulation[0].float() + time  # [B, N, 6, D]
        per_token = modulation[:, :1].unbind(2) if single else modulation[:, spread].unbind(2)  # 6 x [B, 1 or F * S, D]
        x = run_layer(layer, x, per_token, text, image, audio, hear, sizes, rope, memory, form)
        if tap is None or index < tap:
            hidden = x
    modulation = model.head.modulation[0].float() + head_time[:, :, None]  # [B, N, 2, D]
    shift, scale = (modulation[:, :1] if single else modulation[:, spread]).unbind(2)
    patches = model.head.head(_modulate(x, shift, scale, config.eps))
    velocity = _unpatchify(patches, latents.shape[2], height, width, config.patch_size, config.out_dim)
    return ClipVelocity(velocity, audio, hidden.unflatten(1, (latents.shape[2], -1)))


def compiled_velocity(enabled: bool) -> Callable[..., ClipVelocity]:
    """`clip_velocity` with its layer compiled where that is possible: one compilation serves every layer."""
    return partial(clip_velocity, run_layer=compiled(_layer, enabled, dynamic=False))


def _layer(
    layer: TransformerLayer,
    x: Tensor,
    modulation: Sequence[Tensor],
    text: Tensor,
    image: Tensor,
    audio: Tensor,
    hear: Tensor | None,
    sizes: list[int],
    rope: RopeTable,
    memory: Memory,
    form: AttentionForm,
) -> Tensor:
    """`TransformerLayer.forward` for [B, F * S, D]."""
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation
    attention = layer.self_attn
    normed = _modulate(x, shift1, scale1, layer.eps)
    q = attention.norm_q(attention.q(normed)).unflatten(-1, attention.heads)
    k = attention.norm_k(attention.k(normed)).unflatten(-1, attention.heads)
    v = attention.v(normed).unflatten(-1, attention.heads)
    out = block_causal_attention(q, k, v, sizes, rope, attention.memory_proj_k.weight, memory, form)
    x = _gated(x, attention.o(out.flatten(-2)), gate1)

    cross = layer.cross_attn
    q = cross.norm_q(cross.q(layer.norm3(x))).unflatten(-1, cross.heads)
    image_keys, words = cross.image_keys(image), cross.text_keys(text)  # [B, tokens, H, d], [B, N, tokens, H, d]
    told = [attend(part, words[0][:, block], words[1][:, block]) for block, part in enumerate(q.split(sizes, dim=1))]
    x = x + cross.o((torch.cat(told, dim=1) + attend(q, *image_keys)).flatten(-2))

    listening = layer.audio_cross_attn
    frames = audio.shape[1]
    q = listening.q_linear(layer.norm_x(x)).unflatten(-1, listening.heads)
    k, v = (part.unflatten(-1, listening.heads) for part in listening.kv_linear(audio).chunk(2, dim=-1))
    by_frame = q.unflatten(1, (frames, -1)).flatten(0, 1)
    heard = listening.proj(attend(by_frame, k.flatten(0, 1), v.flatten(0, 1)).flatten(-2))
    heard = heard.unflatten(0, (-1, frames))  # [B, F, S, D]
    # The first latent frame of a session does not hear (model-facts, "Audio").
    audible = heard.new_ones(frames, 1, 1)
    audible[0] = 0.0
    audible = audible if hear is None else audible * hear.to(heard).view(-1, 1, 1, 1)
    x = x + (heard * audible).flatten(1, 2)

    return _gated(x, layer.ffn(_modulate(x, shift2, scale2, layer.eps)), gate2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`transformer.attend`, written out on a CPU: its backward is slow there and this form compiles well.

    q [B, queries, H, d], k and v [B, keys, H, d] -> the shape of q.
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)


def _embed(model: LiveActTransformer, latents: Tensor, reference: Tensor) -> Tensor:
    """[B, 16, F, h, w] and [B, 20, F, h, w] -> [B, F * S, D]; the patch convolution as the product it is."""
    convolution = model.patch_embedding
    x = torch.cat((latents, reference), dim=1)
    clips, channels, frames, height, width = x.shape
    patches = x.view(clips, channels, frames, height // 2, 2, width // 2, 2).permute(0, 2, 3, 5, 1, 4, 6)
    return F.linear(patches.reshape(clips, -1, channels * 4), convolution.weight.flatten(1), convolution.bias)


def _time(model: LiveActTransformer, times: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """times [B] or [B, N] -> the embedding [B, 1 or N, D] and its projection [B, 1 or N, 6, D], in float32."""
    half = model.config.freq_dim // 2
    angles = times.double().reshape(len(times), -1, 1) * 10000.0 ** -(
        torch.arange(half, dtype=torch.float64, device=times.device) / half
    )
    wave = torch.cat((angles.cos(), angles.sin()), dim=-1).float()
    with torch.autocast(wave.device.type, enabled=False):
        embedded = model.time_embedding(wave)
        return embedded, model.time_projection(embedded).unflatten(-1, (6, -1))


def _audio_tokens(model: LiveActTransformer, features: Sequence[Tensor]) -> Tensor:
    """Each block's features [B, frames + 4, layers, dim] -> [B, F, tokens, channels]."""
    tokens = []
    for block, part in enumerate(features):
        windows = part.unfold(1, model.config.audio_window, 1).movedim(-1, 2)  # [B, frames, 5, layers, dim]
        tokens.append(_project(model, windows, block == 0))
    return torch.cat(tokens, dim=1)


def _project(model: LiveActTransformer, windows: Tensor, first_block: bool) -> Tensor:
    """`AudioProjection.forward` for [B, frames, 5, layers, dim]."""
    projection = model.audio_proj
    single = windows[:, : 1 if first_block else 0]
    groups = windows[:, single.shape[1] :].unflatten(1, (-1, projection.group))
    joined = projection._joined(groups.flatten(0, 1)).unflatten(0, groups.shape[:2])
    hidden = torch.cat((projection.proj1(single.flatten(2)), projection.proj1_vf(joined.flatten(2))), dim=1)
    hidden = F.relu(projection.proj2(F.relu(hidden)))
    return projection.norm(projection.proj3(hidden).unflatten(-1, projection.tokens))


def _modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift


def _gated(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    return x + gate * out.float()


def _unpatchify(
    patches: Tensor, frames: int, height: int, width: int, patch: tuple[int, int, int], channels: int
) -> Tensor:
    """[B, F * S, p * q * r * c] -> [B, c, F, height * q, width * r] in float32."""
    _, q, r = patch
    grid = patches.float().view(len(patches), frames, height, width, q, r, channels)
    return grid.permute(0, 6, 1, 2, 4, 3, 5).reshape(len(patches), channels, frames, height * q, width * r)
