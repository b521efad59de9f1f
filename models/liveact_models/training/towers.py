"""The text and picture encoders' lessons: what a prompt asks for, and who a portrait shows.

Text and portrait meet as in CLIP (Radford et al., 2021, section 2.3); beside that every token of a prompt must say which
emotion and action are asked for, and every picture token what its person is described with and what its own patch looks like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import ImageEncoderConfig, TextEncoderConfig
from liveact_models.encoders.text import END, PAD
from liveact_models.training.draws import rng
from liveact_models.world.captions import prompt
from liveact_models.world.draw import draw
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.motion import ACTIONS, EMOTIONS

if TYPE_CHECKING:
    from liveact_models.encoders import ImageEncoder, TextEncoder

PORTRAIT_SIZE = 128
THUMBNAIL = 4
"""A patch's look is this many points squared."""
SHARED = 32
"""Width of the space in which text and portrait meet."""
TEMPERATURE = 0.07
RARE = 0.004
"""Pairs of words in fewer descriptions than this are not asked for."""
WORDS_WEIGHT = 10.0
_CAPTIONS, _PEOPLE = 1, 2
"""Keys that keep the two kinds of draws apart."""


def train_tokenizer(texts: Iterable[str], vocab: int) -> Any:
    """A byte-level BPE tokenizer of `vocab` tokens, learned from the texts: any UTF-8 is accepted, no case is told apart.

    Token 0 is padding and 1 the end mark that every text is given, as in UMT5's.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def corpus(seed: int, count: int) -> Iterator[str]:
    """`count` prompts and as many descriptions of people."""
    for number in range(count):
        caption = _caption(rng(seed, _CAPTIONS, number))
        yield caption.text
        yield Identity.sample(rng(seed, _PEOPLE, number)).describe()


@dataclass(frozen=True)
class _Caption:
    text: str
    emotion: int
    action: int


def _caption(chance: np.random.Generator) -> _Caption:
    emotion, action = int(chance.integers(len(EMOTIONS))), int(chance.integers(len(ACTIONS)))
    text = prompt(EMOTIONS[emotion], ACTIONS[action], chance)
    if chance.random() < 0.15:
        text = f"{text} {Identity.sample(chance).describe()}"
    return _Caption(text, emotion, action)


@dataclass(frozen=True)
class Portraits:
    """N people: what they look like and how they are described."""

    pictures: Tensor
    """uint8 [N, 3, size, size]."""
    texts: tuple[str, ...]

    @classmethod
    def painted(cls, seed: int, count: int) -> Portraits:
        pictures, texts = [], []
        for number in range(count):
            chance = rng(seed, _PEOPLE, number)
            person = Identity.sample(chance)
            # What users upload does not always rest.
            mood = float(chance.uniform(-0.6, 1)) if chance.random() < 0.5 else 0.0
            state = FaceState(yaw=float(chance.normal(0, 0.2)), roll=float(chance.normal(0, 0.1)), smile=mood)
            pictures.append(draw(person, state, PORTRAIT_SIZE, PORTRAIT_SIZE))
            texts.append(person.describe())
        return cls(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), tuple(texts))


class TowerHeads(nn.Module):
    """What is asked of the two encoders; thrown away after training."""

    def __init__(self, text: TextEncoderConfig, image: ImageEncoderConfig, pairs: int) -> None:
        super().__init__()
        self.emotion = nn.Linear(text.dim, len(EMOTIONS))
        self.action = nn.Linear(text.dim, len(ACTIONS))
        self.text = nn.Linear(text.dim, SHARED, bias=False)
        self.image = nn.Linear(image.dim, SHARED, bias=False)
        self.pairs = nn.Linear(image.dim, pairs)
        self.thumbnail = nn.Linear(image.dim, 3 * THUMBNAIL**2)


class Towers:
    """Both encoders with their heads and their data."""

    def __init__(self, text: TextEncoder, image: ImageEncoder, portraits: Portraits, seed: int) -> None:
        self.text = text
        self.image = image
        self.portraits = portraits
        self.seed = seed
        seen = Counter(pair for described in portraits.texts for pair in _pairs(described))
        self.pairs = sorted(pair for pair, count in seen.items() if count >= RARE * len(portraits.texts))
        self.heads = TowerHeads(text.config, image.config, len(self.pairs))
        number = {pair: i for i, pair in enumerate(self.pairs)}
        self._described = torch.zeros(len(portraits.texts), len(self.pairs))
        for row, described in enumerate(portraits.texts):
            self._described[row, [number[pair] for pair in _pairs(described) if pair in number]] = 1

    def loss(self, step: int, samples: Iterable[int], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of these samples of a step, and what is understood of it."""
        keys = [(self.seed, step, sample) for sample in samples]
        captions = [_caption(rng(*key, _CAPTIONS)) for key in keys]
        people = torch.tensor([int(rng(*key, _PEOPLE).integers(len(self.portraits.texts))) for key in keys])
        asked, measures = self._asked([*captions], device)
        shown, seen = self._shown(people, device)
        return asked + shown, measures | seen

    def _asked(self, captions: list[_Caption], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Every token must know the emotion and the action."""
        states, mask = self._read([caption.text for caption in captions], device)
        losses, right = [], []
        for head, truth in (
            (self.heads.emotion, [caption.emotion for caption in captions]),
            (self.heads.action, [caption.action for caption in captions]),
        ):
            logits = head(states)  # [B, tokens, classes]
            answer = torch.tensor(truth, device=device)
            each = F.cross_entropy(logits.mT, answer[:, None].expand(mask.shape), reduction="none")
            losses.append((each * mask).sum() / mask.sum())
            mean = (logits * mask[..., None]).sum(dim=1)
            right.append((mean.argmax(-1) == answer).float().mean())
        return losses[0] + losses[1], {"emotion": right[0].detach(), "action": right[1].detach()}

    def _shown(self, people: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Portraits and descriptions find each other, pairs of words are seen, and patches know their look."""
        pictures = self.portraits.pictures[people].to(device).float() / 127.5 - 1
        pixels = self.image.pixels(pictures)
        tokens = self.image(pixels)  # [B, tokens, dim]
        states, mask = self._read([self.portraits.texts[int(i)] for i in people], device)
        read = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        ours = F.normalize(self.heads.image(tokens[:, 0]), dim=-1)
        theirs = F.normalize(self.heads.text(read), dim=-1)
        logits = ours @ theirs.mT / TEMPERATURE
        own = torch.arange(len(people), device=device)
        contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2

        described = self._described[people].to(device)
        words = F.binary_cross_entropy_with_logits(self.heads.pairs(tokens.mean(dim=1)), described)
        size = self.image.config.patch_size
        side = self.image.config.image_size // size * THUMBNAIL
        small = F.unfold(F.adaptive_avg_pool2d(pixels, side), THUMBNAIL, stride=THUMBNAIL).mT  # [B, patches, 48]
        look = F.mse_loss(self.heads.thumbnail(tokens[:, 1:]), small)
        found = (logits.argmax(-1) == own).float().mean()
        loss = contrast + WORDS_WEIGHT * words + look
        return loss, {"portraits": found.detach(), "words": words.detach(), "look": look.detach()}

    def _read(self, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """States [B, tokens, dim] and the mask [B, tokens] of what is no padding."""
        batch = self.text.tokenizer(texts, padding=True, return_tensors="pt")
        mask = batch.attention_mask.to(device)
        return self.text(batch.input_ids.to(device), mask), mask.float()


def _pairs(described: str) -> set[str]:
    """Neighbouring words, commas aside: "red hair", "round glasses", "teal wall"."""
    return {" ".join(pair) for pair in pairwise(described.replace(",", "").split())}
