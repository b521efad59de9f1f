"""wav2vec2 at the video's frame rate (model-facts, "Network", Audio)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from liveact_models.config import AudioEncoderConfig
from liveact_models.encoders.log_mel import LogMelExtractor


class AudioEncoder(nn.Module):
    """wav2vec2-base whose convolution features are interpolated to the frame rate before the encoder.

    Parameter names are those of transformers' Wav2Vec2Model.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        from transformers import Wav2Vec2Config, Wav2Vec2Model  # takes seconds to import

        super().__init__()
        self.config = config
        model = Wav2Vec2Model(
            Wav2Vec2Config(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                conv_dim=list(config.conv_dim),
                conv_kernel=list(config.conv_kernel),
                conv_stride=list(config.conv_stride),
                num_conv_pos_embeddings=config.num_conv_pos_embeddings,
                num_conv_pos_embedding_groups=config.num_conv_pos_embedding_groups,
                mask_time_prob=0.0,  # masking is for training: without it there is no mask embedding to load
            )
        )
        self.feature_extractor = LogMelExtractor(config) if config.mel_bands else model.feature_extractor
        self.feature_projection = model.feature_projection
        self.encoder = model.encoder

    @torch.no_grad()
    def encode(self, normalized: torch.Tensor, frames: int) -> torch.Tensor:
        """Hidden states [frames, layers, dim] of normalised 16 kHz sound [samples]; the first is after layer 1.

        Raises `ValueError` when there are too few samples for one feature (400 at the released size) or `frames` is not
        positive.
        """
        least = self.config.least_samples
        if frames < 1 or normalized.numel() < least:
            raise ValueError(
                f"{normalized.numel()} samples for {frames} frames: at least {least} samples and one frame needed"
            )
        return self(normalized[None].to(self.feature_projection.projection.weight), frames)[0]

    def forward(self, normalized: torch.Tensor, frames: int) -> torch.Tensor:
        """Hidden states [batch, frames, layers, dim] of normalised 16 kHz sound [batch, samples], with gradients."""
        features = self.feature_extractor(normalized)
        features = functional.interpolate(features, size=frames, mode="linear", align_corners=True)
        hidden, _ = self.feature_projection(features.transpose(1, 2))
        hidden = self.encoder.layer_norm(hidden + self.encoder.pos_conv_embed(hidden))
        states = []
        for layer in self.encoder.layers:
            hidden = layer(hidden)
            states.append(hidden)
        return torch.stack(states, dim=2)
