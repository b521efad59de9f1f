"""Released parameter names to those of the library modules (model-facts, "Released checkpoint files").

Each function takes a released state dict and returns the one its module loads. Tensors that nothing here reads (the text
tower of CLIP, its last block and head, what wav2vec2 needs for pretraining only) are left out; any other unknown name
is kept, so that loading reports it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]


def vae(released: Tensors) -> dict[str, Tensor]:
    """Wan2.1_VAE.pth to `StreamingVae`."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    return convert_wan_vae_to_diffusers(dict(released))


_TEXT = (
    (r"^token_embedding\.", "encoder.embed_tokens."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.attn\.([qkvo])\.", r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)


def text_encoder(released: Tensors) -> dict[str, Tensor]:
    """models_t5_umt5-xxl-enc-bf16.pth to `TextEncoder`."""
    return {_rename(name, _TEXT): tensor for name, tensor in released.items()}


_IMAGE = (
    (r"^patch_embedding\.", "embeddings.patch_embedding."),
    (r"^pre_norm\.", "pre_layrnorm."),
    (r"^transformer\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^transformer\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^transformer\.(\d+)\.mlp\.0\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.(\d+)\.mlp\.2\.", r"encoder.layers.\1.mlp.fc2."),
)
_IMAGE_UNREAD = re.compile(r"^(post_norm\.|head$)")
_IMAGE_QKV = re.compile(r"^transformer\.(\d+)\.attn\.to_qkv\.(weight|bias)$")


def image_encoder(released: Tensors, num_layers: int) -> dict[str, Tensor]:
    """models_clip_open-clip-*.pth to `ImageEncoder`; the vision tower alone, with or without its prefix `visual.`."""
    if any(name.startswith("visual.") for name in released):
        tower = {name.removeprefix("visual."): t for name, t in released.items() if name.startswith("visual.")}
    else:
        tower = dict(released)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tower.items():
        if _IMAGE_UNREAD.match(name) or name.startswith(f"transformer.{num_layers - 1}."):
            continue
        if name == "cls_embedding":
            renamed["embeddings.class_embedding"] = tensor.flatten()
        elif name == "pos_embedding":
            renamed["embeddings.position_embedding.weight"] = tensor.flatten(0, 1)
        elif match := _IMAGE_QKV.match(name):
            layer, kind = match.groups()
            for projection, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"encoder.layers.{layer}.self_attn.{projection}_proj.{kind}"] = part
        else:
            renamed[_rename(name, _IMAGE)] = tensor
    return renamed


_AUDIO = (
    (r"\.pos_conv_embed\.conv\.weight_g$", ".pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"\.pos_conv_embed\.conv\.weight_v$", ".pos_conv_embed.conv.parametrizations.weight.original1"),
)
_AUDIO_UNREAD = re.compile(r"^(masked_spec_embed$|quantizer\.|project_hid\.|project_q\.|lm_head\.)")


def audio_encoder(released: Tensors) -> dict[str, Tensor]:
    """A wav2vec2 file to `AudioEncoder`: with or without the prefix `wav2vec2.`, old and new names of weight norm."""
    bare = {name.removeprefix("wav2vec2."): tensor for name, tensor in released.items()}
    return {_rename(name, _AUDIO): tensor for name, tensor in bare.items() if not _AUDIO_UNREAD.match(name)}


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name
