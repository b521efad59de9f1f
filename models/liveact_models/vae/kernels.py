"""The library's convolution and norm through faster CPU kernels: the same function, put on from outside.

For the small shapes of one latent frame PyTorch picks its plain 3-D convolution, and normalising over channels walks
memory across its strides; oneDNN's convolution and a plain sum of squares take a quarter to a tenth of that time.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import nn
from torch.nn import functional


class CausalConv3d(WanCausalConv3d):
    """The library's, on oneDNN for float32 on a CPU."""

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:  # [B, C, T, H, W], padded already
        if _plain(input) and torch.backends.mkldnn.is_available():
            return torch.mkldnn_convolution(input, weight, bias, (0, 0, 0), self.stride, self.dilation, self.groups)
        return functional.conv3d(input, weight, bias, self.stride, 0, self.dilation, self.groups)


class RmsNorm(WanRMS_norm):
    """The library's, for channels first and float32 without `functional.normalize`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, C, ...]
        if not (_plain(x) and self.channel_first):
            return super().forward(x)
        norm = x.square().sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()
        return x / norm * (self.gamma * self.scale) + self.bias


def put_on(module: nn.Module) -> None:
    """Let every convolution and norm of the library in `module` use the kernels above; parameters stay as they are."""
    faster: dict[type, type] = {WanCausalConv3d: CausalConv3d, WanRMS_norm: RmsNorm}
    for part in module.modules():
        if type(part) in faster:
            part.__class__ = faster[type(part)]


def _plain(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32
