"""The VAE against its golden tensors: both directions, and decoding in blocks with the cache kept."""

from __future__ import annotations

from pathlib import Path

import torch

from liveact_models.checkpoint import names
from liveact_models.config import VaeConfig
from liveact_models.parity.golden import read_config, read_tensors
from liveact_models.parity.report import ParityRow, relative_error
from liveact_models.timeline import FIRST_BLOCK_LATENTS
from liveact_models.vae import StreamingVae


def rows(directory: Path) -> list[ParityRow]:
    """Rows for `encoded`, and `decoded` made whole and as blocks of 6 and 8 latent frames."""
    vae = StreamingVae(read_config(directory, "vae", VaeConfig))
    vae.load_state_dict(names.vae(read_tensors(directory, "vae.weights")))
    vae.eval()
    io = {name: tensor[0] for name, tensor in read_tensors(directory, "vae.io").items()}

    cache = vae.new_cache()
    blocks = (io["latent"][:, :FIRST_BLOCK_LATENTS], io["latent"][:, FIRST_BLOCK_LATENTS:])
    by_block = torch.cat([frames for block in blocks for frames in vae.decode_stream(block, cache)], dim=1)
    return [
        ParityRow("vae", "encode", "encoded", relative_error(vae.encode(io["video"]), io["encoded"])),
        ParityRow("vae", "decode whole", "decoded", relative_error(vae.decode(io["latent"]), io["decoded"])),
        ParityRow("vae", "decode by block", "decoded", relative_error(by_block, io["decoded"])),
    ]
