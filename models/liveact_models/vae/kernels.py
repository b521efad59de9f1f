"""The library's convolution and norm through faster kernels: the same function, put on from outside.

For the small shapes of one latent frame PyTorch picks its plain 3-D convolution, and normalising over channels walks
memory across its strides; oneDNN's convolution and a plain sum of squares take a quarter to a tenth of that time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResidualBlock, WanRMS_norm
from torch import nn
from torch.nn import functional

from liveact_models.compiling import compiled


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


class RmsNormSilu(RmsNorm):
    """The norm and the activation behind it in one pass, whatever the device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, C, T, H, W]
        # Not as a parameter: the compiler would take its size for fixed and compile anew for every width of the network.
        return _fused()(x, self.gamma.detach(), self.scale)


def put_on(module: nn.Module) -> None:
    """Let every convolution and norm of the library in `module` use the kernels above; parameters stay as they are."""
    faster: dict[type, type] = {WanCausalConv3d: CausalConv3d, WanRMS_norm: RmsNorm}
    for part in module.modules():
        if type(part) in faster:
            part.__class__ = faster[type(part)]


def fuse(module: nn.Module) -> None:
    """Let every residual block of the library in `module` normalise and activate in one compiled pass.

    Where nothing can be compiled the blocks stay as they are.
    """
    if _fused() is _norm_silu:
        return
    for block in module.modules():
        if isinstance(block, WanResidualBlock) and isinstance(block.nonlinearity, nn.SiLU):
            block.norm1.__class__ = block.norm2.__class__ = RmsNormSilu
            block.nonlinearity = nn.Identity()


def _norm_silu(x: torch.Tensor, gamma: torch.Tensor, scale: float) -> torch.Tensor:
    y = x.float()
    norm = y.square().sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()
    return functional.silu(y / norm * (gamma.float() * scale)).to(x.dtype)


@cache
def _fused() -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """One for all sizes: widths, pictures and frames are symbols to the compiler."""
    return compiled(_norm_silu, True, dynamic=True)


def _plain(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32
