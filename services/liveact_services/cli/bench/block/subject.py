"""The models that a block passes, with random weights, and one session whose blocks are timed part by part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from liveact_models.ceilings import seconds_of
from liveact_models.checkpoint import open_checkpoint
from liveact_models.denoiser import BlockDenoiser
from liveact_models.engine import Engine, load_transformer
from liveact_models.timeline import AUDIO_WINDOW_FRAMES, FRAMES_PER_LATENT, block_feature_frames
from liveact_models.vae import DecoderEngine, load_decoder, to_rgb
from liveact_services.conductor.stages import Codec
from liveact_services.vae_decoder.encoding import frame_encoder

if TYPE_CHECKING:
    from liveact_models.config import ModelConfig

FPS = 20
SAMPLE_RATE = 16_000
LAYER_PARTS = ("self_attn", "cross_attn", "audio_cross_attn", "ffn")


@dataclass
class PartSeconds:
    """Blocks of a session, part by part, one part after the other."""

    audio: list[float] = field(default_factory=list)
    denoise: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    """Latents to pixels on the host, the whole block."""
    encode: list[float] = field(default_factory=list)
    """H.264, the whole block."""
    first_frame: list[float] = field(default_factory=list)
    """From sound to the first encoded frame."""
    layers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of denoising, by module of a layer: all layers and steps."""


class BlockSubject:
    """A transformer, an audio encoder and a decoder of one size on one device."""

    def __init__(
        self,
        config: ModelConfig,
        size: tuple[int, int],
        device: torch.device,
        engine: Engine,
        decoder: DecoderEngine = DecoderEngine(),
    ) -> None:
        checkpoint = open_checkpoint("untrained", config)
        self.config, self.size, self.device, self.engine = config, size, device, engine
        transformer, self.choices = load_transformer(checkpoint, engine, device)
        self.denoiser = BlockDenoiser(transformer, config, cache=engine.cache)
        self.audio_encoder = checkpoint.load_audio_encoder(device=str(device))
        self.decoder_engine, self.decoder = decoder, load_decoder(checkpoint, decoder, device)
        self._draw = torch.Generator().manual_seed(0)
        self.restart()

    def restart(self) -> None:
        """Another session, before its first block."""
        model, (width, height) = self.config.transformer, self.size
        self.state = self.denoiser.open(
            width=width, height=height, fps=FPS, seed=0, text=self._random(model.text_len, model.text_dim),
            clip=self._random(model.clip_tokens, model.clip_dim), reference=self._random(16, 14, height // 8, width // 8),
        )  # fmt: skip
        self._cache = self.decoder.new_cache()
        self._encoder = frame_encoder(Codec.H264, width, height, FPS)
        self._frames = 0

    def one_by_one(self, seconds: PartSeconds | None = None) -> float:
        """The next block, each part when the one before has ended; gives the seconds of all of it."""
        began = time.perf_counter()
        sound, block = self._sound(), self.state.block
        features = torch.empty(0)

        def listen() -> None:
            nonlocal features
            features = self._features(sound, block)

        audio_s = seconds_of(self.device, listen)
        latents = torch.empty(0)

        def denoise() -> None:
            nonlocal latents
            latents = self.denoiser.denoise(self.state, block, features)

        with self._layers_timed(seconds):
            denoise_s = seconds_of(self.device, denoise)
        decode_s = encode_s = first_s = 0.0
        for decoded, encoded in self._shown(latents):
            decode_s, encode_s = decode_s + decoded, encode_s + encoded
            first_s = first_s or time.perf_counter() - began - encoded * (1 - 1 / FRAMES_PER_LATENT)
        if seconds is not None:
            seconds.audio.append(audio_s)
            seconds.denoise.append(denoise_s)
            seconds.decode.append(decode_s)
            seconds.encode.append(encode_s)
            seconds.first_frame.append(first_s)
        return time.perf_counter() - began

    def overlapped(self, blocks: int) -> list[float]:
        """So many blocks, one decoded and encoded while the next is denoised: seconds from one to the next."""
        periods: list[float] = []
        with ThreadPoolExecutor(1, "decode") as pool:
            shown: Future[None] | None = None
            began = time.perf_counter()
            for _ in range(blocks + 1):
                block = self.state.block
                latents = self.denoiser.denoise(self.state, block, self._features(self._sound(), block))
                if self.device.type == "cuda":
                    torch.cuda.current_stream(self.device).synchronize()
                if shown is not None:
                    shown.result()
                    now = time.perf_counter()
                    periods.append(now - began)
                    began = now
                shown = pool.submit(self._show, latents)
            assert shown is not None
            shown.result()
        return periods

    def _show(self, latents: torch.Tensor) -> None:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        with torch.cuda.stream(stream):  # type: ignore[no-untyped-call]
            for _ in self._shown(latents):
                pass

    def _features(self, sound: torch.Tensor, block: int) -> torch.Tensor:
        frames = len(block_feature_frames(block))
        return self.audio_encoder.encode(sound, AUDIO_WINDOW_FRAMES)[:frames].to(self.denoiser.transformer.dtype)

    def _shown(self, latents: torch.Tensor) -> Iterator[tuple[float, float]]:
        """Decode and encode a latent frame at a time; gives the seconds of either."""
        frames = self.decoder.decode_stream(latents.float(), self._cache)
        while True:
            began = time.perf_counter()
            part = next(frames, None)
            if part is None:
                return
            pictures = to_rgb(part).cpu().numpy()
            decoded = time.perf_counter()
            for picture in pictures:
                self._encoder.encode(picture, self._frames, key=self._frames == 0)
                self._frames += 1
            yield decoded - began, time.perf_counter() - decoded

    @contextmanager
    def _layers_timed(self, seconds: PartSeconds | None) -> Iterator[None]:
        """Take the time of every layer's modules meanwhile. On a GPU by events, read when the block is done."""
        if seconds is None:
            yield
            return
        handles, spans = [], []
        cuda = self.device.type == "cuda"

        def moment() -> Any:
            if not cuda:
                return time.perf_counter()
            event = torch.cuda.Event(enable_timing=True)
            event.record()  # type: ignore[no-untyped-call]
            return event

        for layer in self.denoiser.transformer.layers:
            for name in LAYER_PARTS:
                module = getattr(layer, name)
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: spans.append([name, moment()])))
                handles.append(module.register_forward_hook(lambda *_: spans[-1].append(moment())))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        totals: dict[str, float] = dict.fromkeys(LAYER_PARTS, 0.0)
        for name, start, end in spans:
            totals[name] += start.elapsed_time(end) / 1000 if cuda else end - start
        for name, total in totals.items():
            seconds.layers[name].append(total)

    def _sound(self) -> torch.Tensor:
        samples = AUDIO_WINDOW_FRAMES * SAMPLE_RATE // self.config.trained_fps
        return torch.randn(samples, generator=self._draw).to(self.device)

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._draw).to(self.device, self.denoiser.transformer.dtype)
