"""UMT5 over the prompt (model-facts, "Network")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from liveact_models.config import ConfigError, TextEncoderConfig


class TextEncoder(nn.Module):
    """UMT5's encoder and its tokenizer. Parameter names are those of transformers' UMT5EncoderModel."""

    def __init__(self, config: TextEncoderConfig, tokenizer: Any) -> None:
        from transformers import UMT5Config, UMT5EncoderModel  # takes seconds to import

        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        model = UMT5EncoderModel(
            UMT5Config(
                vocab_size=config.vocab,
                d_model=config.dim,
                d_kv=config.dim_attn // config.num_heads,
                d_ff=config.dim_ffn,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                relative_attention_num_buckets=config.num_buckets,
                dropout_rate=0.0,
            )
        )
        # The stack alone: the model around it holds a second name for the same embedding.
        self.encoder = model.encoder

    def encode(self, prompt: str, max_tokens: int) -> torch.Tensor:
        """Hidden states [tokens <= max_tokens, dim] of the prompt, its end mark included; longer prompts are cut.

        Runs of whitespace count as one space, as in training.
        """
        ids = self.tokenizer(" ".join(prompt.split()), truncation=True, max_length=max_tokens).input_ids
        return self.encode_tokens(torch.tensor(ids))

    @torch.no_grad()
    def encode_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [tokens, dim] of token numbers [tokens], none of them padding."""
        device = self.encoder.embed_tokens.weight.device
        return self.encoder(input_ids=ids[None].to(device)).last_hidden_state[0]


def load_tokenizer(config: TextEncoderConfig, folder: Path) -> Any:
    """The tokenizer `config` names: "umt5" out of `folder`/google/umt5-xxl, "bytes" from no file.

    Raises `ConfigError` for another name, `OSError` when the folder lacks the tokenizer's files.
    """
    from transformers import AutoTokenizer, ByT5Tokenizer

    if config.tokenizer == "bytes":
        return ByT5Tokenizer()
    if config.tokenizer == "umt5":
        return AutoTokenizer.from_pretrained(str(folder / "google" / "umt5-xxl"), local_files_only=True)
    raise ConfigError(f"tokenizer {config.tokenizer!r}: accepted are 'umt5' and 'bytes'")
