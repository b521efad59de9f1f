"""UMT5 over the prompt (model-facts, "Network")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from liveact_models.config import ConfigError, TextEncoderConfig

TOKENIZER_FILE = "tokenizer.json"
PAD, END = "<pad>", "</s>"
"""The special tokens of a "bpe" tokenizer, numbers 0 and 1 as in UMT5's."""


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
        return self(ids[None].to(device))[0]

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states [batch, tokens, dim] of token numbers [batch, tokens]; mask [batch, tokens] is 0 at padding."""
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def load_tokenizer(config: TextEncoderConfig, folder: Path) -> Any:
    """The tokenizer `config` names, out of `folder`: see `tokenizer_files`; "bytes" needs none.

    Raises `ConfigError` for another name, `OSError` when the folder lacks the tokenizer's files, `ValueError` when
    they hold none.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

    files = tokenizer_files(config, folder)
    if files is None:
        return ByT5Tokenizer()
    if not files.exists():
        raise FileNotFoundError(f"{files} is missing")
    if config.tokenizer == "bpe":
        try:
            tokenizer = Tokenizer.from_file(str(files))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{files}: {error}") from None
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    return AutoTokenizer.from_pretrained(str(files), local_files_only=True)


def tokenizer_files(config: TextEncoderConfig, folder: Path) -> Path | None:
    """What the tokenizer is read from: "umt5" `folder`/google/umt5-xxl, "bpe" `folder`/tokenizer.json, "bytes" no file.

    Raises `ConfigError` for another name.
    """
    files = {"umt5": folder / "google" / "umt5-xxl", "bpe": folder / TOKENIZER_FILE, "bytes": None}
    try:
        return files[config.tokenizer]
    except KeyError:
        raise ConfigError(f"tokenizer {config.tokenizer!r}: accepted are {', '.join(map(repr, files))}") from None


def tokenizer_json(tokenizer: Any) -> str:
    """The whole of a "bpe" tokenizer, what `TOKENIZER_FILE` holds. Raises `ValueError` for one of another kind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"a {type(tokenizer).__name__} is no 'bpe' tokenizer: the configuration must name its kind")
    return backend.to_str(pretty=True)
