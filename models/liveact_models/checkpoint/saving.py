"""Modules into a folder in our own layout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from liveact_models import config as sizes
from liveact_models.checkpoint.layouts import FORMAT, MANIFEST, MODULES, VERSION
from liveact_models.disk import replace_text


def save_checkpoint(path: Path, modules: Mapping[str, nn.Module], config: sizes.ModelConfig) -> None:
    """Write our layout: the given modules, and the sizes last, so that a folder with liveact.json is whole.

    A "bpe" tokenizer goes with its text encoder. Modules already there and not given are kept. Raises `ValueError` for a
    name not in `MODULES`, half a VAE, or a tokenizer of another kind than the sizes name.
    """
    from safetensors.torch import save_file

    from liveact_models.encoders.text import TOKENIZER_FILE, tokenizer_json

    for name, module in modules.items():
        if name not in MODULES:
            raise ValueError(f"module {name!r}: accepted are {', '.join(MODULES)}")
        if getattr(module, "parts", "both") != "both":
            raise ValueError(f"module {name!r} holds one direction only; a checkpoint needs both")
    path.mkdir(parents=True, exist_ok=True)
    for name, module in modules.items():
        target = path / f"{name}.safetensors"
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
        save_file(tensors, target.with_suffix(".part"))
        os.replace(target.with_suffix(".part"), target)
    if "text_encoder" in modules and config.text_encoder.tokenizer == "bpe":
        replace_text(path / TOKENIZER_FILE, tokenizer_json(modules["text_encoder"].tokenizer))
    manifest = {"format": FORMAT, "version": VERSION, "config": config.to_dict()}
    replace_text(path / MANIFEST, json.dumps(manifest, indent=1) + "\n")
