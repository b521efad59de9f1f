"""The stage `encoders`: the sound encoder, and the text and picture encoders with their tokenizer."""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from liveact_models.config import preset
from liveact_models.encoders import AudioEncoder, ImageEncoder, TextEncoder
from liveact_models.encoders.text import TOKENIZER_FILE, tokenizer_json
from liveact_models.training.audio_encoder import AudioHeads, AudioLosses, audio_loss, initialize
from liveact_models.training.loop import Recipe, RunFolder, Stage, Workers, optimizers_for
from liveact_models.training.probe import examine, papers
from liveact_models.training.recipe import RecipeError
from liveact_models.training.speech_bank import PASSAGE_SECONDS, SpeechBank, Windows
from liveact_models.training.towers import Portraits, Towers, corpus, train_tokenizer
from liveact_models.world.mouth import MOUTH

_log = logging.getLogger(__name__)

ADAMW_SHARE = 0.1
"""AdamW's learning rate, as a share of the recipe's, which is Muon's."""
Which = Literal["audio", "towers"]
_FIRST_CONVOLUTION = "feature_extractor.conv_layers.0.conv"  # over the waveform
_INPUTS_AND_HEADS = ("encoder.embed_tokens", "embeddings", "emotion", "action", "text", "image", "pairs", "thumbnail")


@dataclass(frozen=True)
class EncodersOptions:
    """Options of the recipe."""

    which: tuple[Which, ...] = ("audio", "towers")
    """"audio" the sound encoder, "towers" the text and picture encoders."""
    speech_seconds: float = 3600.0
    """Speech that is made once and kept; windows of it never come twice alike."""
    losses: AudioLosses = field(default_factory=AudioLosses)
    bfloat16: bool = True
    examine_seconds: float = 360.0
    """Speech the finished sound encoder is examined with, see `probe.papers`; 0 leaves it out."""
    portraits: int = 4000
    captions: int = 20000
    """That the tokenizer is learned from, with as many descriptions of people."""
    towers_batch: int = 32
    """Prompts, and portraits, of a step; over all workers."""
    towers_every: int = 4
    """Text and pictures are learned sooner than sound: at every so many of its steps."""


class EncodersStage(Stage):
    """Trains what `options.which` names; `recipe.batch` counts windows of sound."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
        self.options = recipe.read_options(EncodersOptions)
        if not self.options.which:
            raise RecipeError("recipe of encoders: options.which is empty; accepted are audio and towers")
        self.config = preset(recipe.model)
        self.audio = _AudioLesson(self) if "audio" in self.options.which else None
        self.towers = self._make_towers() if "towers" in self.options.which else None

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        metrics = {"loss": 0.0}
        if self.audio:
            metrics |= self._learn("audio", *self.audio.loss(step, workers), workers)
        if self.towers and step % self.options.towers_every == self.options.towers_every - 1:
            samples = workers.samples(self.options.towers_batch)
            metrics |= self._learn("towers", *self.towers.loss(step, samples, self.device), workers)
        metrics["loss"] = metrics.get("audio", 0.0) + metrics.get("towers", 0.0)
        return metrics

    def _learn(self, what: Which, loss: Tensor, measures: dict[str, Tensor], workers: Workers) -> dict[str, float]:
        """Step the optimisers of one of the two lessons, which share no weights."""
        loss.backward()
        self.optimize(workers, *(name for name in self.optimizers if name.startswith(what)))
        return {what: float(loss.detach()), **{name: float(value) for name, value in measures.items()}}

    def finish(self) -> None:
        for name in ("audio_encoder", "text_encoder", "image_encoder"):
            if name in self.modules:
                self.save_product(name)
        if self.towers:
            (self.run.products / TOKENIZER_FILE).write_text(tokenizer_json(self.towers.text.tokenizer))
        if self.audio and self.options.examine_seconds:
            self._examine(self.audio.encoder)

    def _examine(self, encoder: AudioEncoder) -> None:
        """Write how well each layer tells the mouth: r by group of voices, layer and mouth value."""
        with self.averaged():
            marks = examine(encoder, self.config.fps, *papers(self.options.examine_seconds))
        table = {group: [dict(zip(MOUTH, layer, strict=True)) for layer in r.tolist()] for group, r in marks.items()}
        (self.run.products / "audio_encoder.json").write_text(json.dumps(table, indent=1) + "\n")
        for group, layers in table.items():
            _log.info("last layer, %s: %s", group, ", ".join(f"{name} r {r:.3f}" for name, r in layers[-1].items()))

    def close(self) -> None:
        if self.audio:
            self.audio.close()

    def _make_towers(self) -> Towers:
        options, seed = self.options, self.recipe.seed
        text, image = self.config.text_encoder, self.config.image_encoder
        tokenizer = train_tokenizer(corpus(seed, options.captions), text.vocab)
        _log.info("painting %d portraits", options.portraits)
        towers = Towers(
            TextEncoder(text, tokenizer).to(self.device).eval(),
            ImageEncoder(image).to(self.device).eval(),
            Portraits.painted(seed, options.portraits),
            seed,
        )
        self.modules |= {
            "text_encoder": towers.text,
            "image_encoder": towers.image,
            "tower_heads": towers.heads.to(self.device),
        }
        for name in ("text_encoder", "image_encoder", "tower_heads"):
            self.optimizers |= optimizers_for(
                self.modules[name],
                self.recipe.lr,
                self.recipe.weight_decay,
                adamw=_INPUTS_AND_HEADS,
                adamw_lr=ADAMW_SHARE * self.recipe.lr,
                prefix=f"towers/{name}/",
            )
        return towers


class _AudioLesson:
    """The sound encoder with its heads and its speech; the next step's windows are cut while a step computes."""

    def __init__(self, stage: EncodersStage) -> None:
        self.recipe, self.options = stage.recipe, stage.options
        config = stage.config
        if config.trained_fps != config.fps:
            raise RecipeError(
                f"model {config.name}: its sound is stretched; this stage trains models with trained_fps == fps"
            )
        if len(self.options.losses.layers) != config.audio_encoder.num_hidden_layers:
            raise RecipeError(
                f"recipe of encoders: options.losses.layers has {len(self.options.losses.layers)} weights, "
                f"model {config.name} {config.audio_encoder.num_hidden_layers} layers"
            )
        # In eval mode throughout: this small model needs no dropout.
        self.encoder = AudioEncoder(config.audio_encoder).to(stage.device).eval()
        # Plain attention: the backward pass of the fused one is slow on CPUs for so few frames.
        self.encoder.encoder.config._attn_implementation = "eager"
        initialize(self.encoder)
        self.heads = AudioHeads(config.audio_encoder).to(stage.device)
        self.device = stage.device
        stage.modules |= {"audio_encoder": self.encoder, "audio_heads": self.heads}
        stage.optimizers |= optimizers_for(
            self.encoder,
            self.recipe.lr,
            self.recipe.weight_decay,
            adamw=[_FIRST_CONVOLUTION],
            adamw_lr=ADAMW_SHARE * self.recipe.lr,
            prefix="audio/encoder/",
        )
        stage.optimizers |= optimizers_for(
            self.heads, self.recipe.lr, adamw=["heads"], adamw_lr=ADAMW_SHARE * self.recipe.lr, prefix="audio/heads/"
        )
        self.bank = SpeechBank(
            stage.run.world / "speech", max(1, round(self.options.speech_seconds / PASSAGE_SECONDS)), config.fps
        )
        self._cutter = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[Windows]] = {}

    def loss(self, step: int, workers: Workers) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.bank.loaded:
            self._make_speech(workers)
        for number in (step, step + 1):
            if number not in self._ahead:
                keys: list[tuple[int, ...]] = [
                    (self.recipe.seed, number, sample) for sample in workers.samples(self.recipe.batch)
                ]
                self._ahead[number] = self._cutter.submit(self.bank.windows, keys)
        windows = self._ahead.pop(step).result().to(self.device)
        dtype = torch.bfloat16 if self.options.bfloat16 else torch.float32
        return audio_loss(self.encoder, self.heads, windows, self.options.losses, dtype)

    def close(self) -> None:
        self._cutter.shutdown(cancel_futures=True)

    def _make_speech(self, workers: Workers) -> None:
        for done, wanted in self.bank.build(workers.rank, workers.size):
            if done % 20 == 0 or done == wanted:
                _log.info("speech: %d of %d passages of %.0f s", done, wanted, PASSAGE_SECONDS)
        workers.barrier()
        self.bank.load()
