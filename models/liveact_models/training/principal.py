"""Principal components of small blocks of video, and a VAE that begins as their codec.

Sixteen components of blocks of 4 frames x 8 x 8 pixels carry the drawn portraits at 22.8 dB around their mouths: with these
for a beginning, a network need not find out first that neighbouring pixels are alike, which took it 1,500 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from liveact_models.timeline import FRAMES_PER_LATENT
from liveact_models.vae import TinyVae
from liveact_models.vae.tiny import PATCH, STEP, fold


@dataclass(frozen=True)
class Components:
    """Of blocks as `merge` sees them, folded twice: P = 4 * 2 * 2 * 48 values."""

    mean: Tensor
    """[P]."""
    basis: Tensor
    """[P, P], orthonormal columns, the strongest first."""
    deviation: Tensor
    """[P], of the blocks along each column."""


def components(videos: list[Tensor]) -> Components:
    """The components of video [B, 3, 4n, H, W], each frame in turn the first of a latent frame's four."""
    blocks = []
    for video in videos:
        frames = video.permute(2, 0, 1, 3, 4).flatten(0, 1)  # time first, [T * B, 3, H, W]
        folded = fold(fold(frames, len(video), 1, PATCH), len(video), FRAMES_PER_LATENT, STEP)
        blocks.append(folded.permute(0, 2, 3, 1).flatten(0, 2).double())
    table = torch.cat(blocks)
    mean = table.mean(dim=0)
    variance, basis = torch.linalg.eigh((table - mean).T @ (table - mean) / len(table))
    deviation = variance.flip(0).clamp(min=1e-8).sqrt()
    return Components(mean.float(), basis.flip(1).float(), deviation.float())


@torch.no_grad()
def begin_with(vae: TinyVae, found: Components) -> None:
    """Set all weights: residual blocks that add nothing yet, and around them the codec of the strongest components.

    Latents are then of deviation 1. Channels that the codec leaves free see the next components, or random mixtures.
    """
    for name, parameter in vae.named_parameters():
        if name.endswith(("bias", "tail.weight")):
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    encoder, decoder, kept = vae.encoder, vae.decoder, vae.config.z_dim
    pixels, frame = 3 * PATCH**2, vae.config.frame_dim
    spread = torch.linalg.qr(torch.randn(max(frame, pixels), min(frame, pixels)))[0]  # pixels among channels and back
    spread = spread if frame >= pixels else spread.T  # [frame, pixels]
    encoder.entry.weight.zero_()[:, :, 1, 1] = spread
    decoder.exit.weight.zero_()[:, :, 1, 1] = spread.T

    analysis = found.basis.T / found.deviation[:, None]  # [P, P], to components of deviation 1
    seen = min(vae.config.encoder_dim, len(analysis))
    encoder.merge.weight[:seen, :, 0, 0] = _by_patch(analysis[:seen], spread)
    encoder.merge.get_parameter("bias")[:seen] = -analysis[:seen] @ found.mean
    encoder.exit.weight.zero_()[:, :kept, 1, 1] = torch.eye(kept)

    decoder.entry.weight[:kept].zero_()[:, :, 1, 1] = torch.eye(kept)
    synthesis = found.basis * found.deviation  # [P, P]
    decoder.grow.weight.zero_()[:, :kept, 0, 0] = _by_patch(synthesis[:, :kept].T, spread).T
    decoder.grow.get_parameter("bias").copy_(_by_patch(found.mean[None], spread)[0])


def _by_patch(rows: Tensor, spread: Tensor) -> Tensor:
    """Rows [n, patches * pixels] with each patch's pixels spread among its channels: [n, patches * frame]."""
    return (rows.unflatten(1, (-1, spread.shape[1])) @ spread.T).flatten(1)
