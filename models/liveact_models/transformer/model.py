"""The diffusion transformer, with the parameter names of the released checkpoint (model-facts, "Network")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import TransformerConfig
from liveact_models.timeline import CONTEXT_SLOTS
from liveact_models.transformer.attention import KeyValue
from liveact_models.transformer.audio import AudioProjection
from liveact_models.transformer.layers import Head, ImageEmbedding, TransformerLayer, sinusoid
from liveact_models.transformer.rope import rope_table


@dataclass(frozen=True)
class Conditioning:
    """What a prompt and a portrait give to every layer's cross-attention: computed once a prompt, not once a step."""

    text: tuple[KeyValue, ...]
    image: tuple[KeyValue, ...]


class LiveActTransformer(nn.Module):
    """Predicts the velocity of one block's latents at one diffusion step. It holds no state of a session."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=config.patch_size, stride=config.patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.img_emb = ImageEmbedding(config)
        self.audio_proj = AudioProjection(config)
        self.blocks = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.head = Head(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.patch_embedding.weight.device

    def condition(self, text: Tensor, clip: Tensor) -> Conditioning:
        """Text [tokens <= text_len, text_dim] and CLIP [clip_tokens, clip_dim] -> keys and values of every layer.

        The text is padded with zeros to text_len and not masked, as in training.
        """
        padded = F.pad(text.to(self.device, self.dtype), (0, 0, 0, self.config.text_len - len(text)))
        words = self.text_embedding(padded)
        image = self.img_emb(clip.to(self.device, self.dtype))
        return Conditioning(
            text=tuple(layer.cross_attn.text_keys(words) for layer in self.layers),
            image=tuple(layer.cross_attn.image_keys(image) for layer in self.layers),
        )

    def audio_tokens(self, windows: Tensor, first_block: bool) -> Tensor:
        """[frames, audio_window, audio_blocks, audio_channels] -> [latent_frames, context_tokens, output_dim]."""
        return self.audio_proj(windows.to(self.device, self.dtype), first_block)

    def forward(
        self,
        latent: Tensor,
        reference: Tensor,
        timestep: float,
        conditioning: Conditioning,
        audio: Tensor | None,
        context: Sequence[KeyValue] | Tensor | None,
        slots: range,
    ) -> tuple[Tensor, list[KeyValue]]:
        """One diffusion step of one block.

        Args:
            latent: noisy latents [16, f, h, w].
            reference: the block's reference condition [20, f, h, w]: 4 mask channels, then 16 latents.
            timestep: diffusion time, 1000 (noise) to 0.
            conditioning: of the prompt and the portrait.
            audio: tokens of the block's latent frames [f, context_tokens, output_dim]; None skips the audio.
            context: each layer's keys (before RoPE) and values of slots 0-5, from the cache of this same step;
                None in block 0. A tensor [layers, 2, tokens, heads, head_dim] serves as well.
            slots: of the block's frames, 0-5 or 6-13.

        Returns:
            The velocity [16, f, h, w] in float32 and each layer's new keys (before RoPE) and values.

        Raises:
            ValueError: the slots do not fit the latents or the context.
        """
        first_block = slots.start == 0
        if len(slots) != latent.shape[1] or first_block != (context is None) or slots.start not in (0, CONTEXT_SLOTS):
            raise ValueError(
                f"slots {slots} with {latent.shape[1]} latent frames and {'no ' if context is None else ''}context: "
                f"accepted are a first block from slot 0 without context, or one from slot {CONTEXT_SLOTS} with it"
            )
        x, (height, width) = self._embed(latent, reference)
        frame_tokens = height * width
        time, projected = self._time(timestep)
        rope = rope_table(self.config.head_dim, height, width, x.device).tokens(0, slots.stop * frame_tokens)
        fresh: list[KeyValue] = []
        for index, layer in enumerate(self.layers):
            x, keys_values = layer(
                x,
                projected,
                conditioning.text[index],
                conditioning.image[index],
                audio,
                1 if first_block else 0,
                None if context is None else (context[index][0], context[index][1]),
                rope,
            )
            fresh.append(keys_values)
        return self._unpatchify(self.head(x, time), len(slots), height, width), fresh

    @property
    def layers(self) -> Sequence[TransformerLayer]:
        return self.blocks  # type: ignore[return-value]

    def _embed(self, latent: Tensor, reference: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """[16, f, h, w] and [20, f, h, w] -> tokens [f * h/2 * w/2, dim], row-major, and their (height, width)."""
        patches = self.patch_embedding(torch.cat((latent.to(self.dtype), reference.to(self.dtype)))[None])[0]
        return patches.flatten(1).T, (patches.shape[-2], patches.shape[-1])

    def _time(self, timestep: float) -> tuple[Tensor, Tensor]:
        """The time embedding [dim], for the head, and its projection [6, dim], for the layers, both in float32."""
        wave = sinusoid(timestep, self.config.freq_dim, self.device)
        first, last, projection = self.time_embedding[0], self.time_embedding[2], self.time_projection[1]
        time = _linear32(last, F.silu(_linear32(first, wave)))
        return time, _linear32(projection, F.silu(time)).unflatten(-1, (6, -1))

    def _unpatchify(self, patches: Tensor, frames: int, height: int, width: int) -> Tensor:
        """[tokens, p * q * r * c] -> [c, frames * p, height * q, width * r] in float32."""
        p, q, r = self.config.patch_size
        grid = patches.float().view(frames, height, width, p, q, r, self.config.out_dim)
        return grid.permute(6, 0, 3, 1, 4, 2, 5).reshape(-1, frames * p, height * q, width * r)


def _linear32(linear: nn.Module, x: Tensor) -> Tensor:
    """The layer in float32 whatever its weights: the time's modulation reaches every token of every layer."""
    assert isinstance(linear, nn.Linear)
    return F.linear(x, linear.weight.float(), linear.bias.float())
