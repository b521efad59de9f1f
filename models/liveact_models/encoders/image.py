"""The CLIP vision tower up to its last-but-one block (model-facts, "Network")."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from liveact_models.config import ImageEncoderConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(nn.Module):
    """CLIP ViT without its last block and head, which nothing reads.

    Parameter names are those of transformers' CLIPVisionModel.
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel  # takes seconds to import

        super().__init__()
        self.config = config
        model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.dim,
                intermediate_size=config.dim * config.mlp_ratio,
                num_hidden_layers=config.num_layers - 1,
                num_attention_heads=config.num_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_act=config.activation,
            )
        )
        self.embeddings = model.embeddings
        self.pre_layrnorm = model.pre_layrnorm
        self.encoder = model.encoder
        # Constants, not weights: they stay real when the module is built on the meta device.
        positions = torch.arange(self.embeddings.num_positions, device="cpu")
        self.embeddings.register_buffer("position_ids", positions[None], persistent=False)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1), persistent=False)

    mean: torch.Tensor
    std: torch.Tensor

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Hidden states [tokens, dim] of image [3, H, W] in [-1, 1], the class token first."""
        return self.encode_pixels(self.pixels(image[None]))[0]

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [batch, 3, image_size, image_size] of images [batch, 3, H, W] in [-1, 1].

        Resized to `image_size` squared (bicubic, no antialiasing, aspect not kept) as the model was trained.
        """
        size = (self.config.image_size, self.config.image_size)
        resized = functional.interpolate(images.float(), size=size, mode="bicubic", align_corners=False)
        return (resized * 0.5 + 0.5 - self.mean) / self.std

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Hidden states [batch, tokens, dim] of normalised pixels [batch, 3, image_size, image_size]."""
        return self(pixels)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """What `encode_pixels` gives, with gradients."""
        hidden = self.pre_layrnorm(self.embeddings(pixels.to(self.embeddings.patch_embedding.weight)))
        return self.encoder(inputs_embeds=hidden).last_hidden_state
