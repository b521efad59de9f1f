"""The whole model in one process, block by block and without a server: the limit the service is measured against.

Every stage calls the functions that the service's stages call, on the same values in the same types: at an equal number
of torch threads both give the same frames, byte for byte.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liveact_models.checkpoint import Checkpoint
from liveact_models.config import DEFAULT_PROMPT, SamplingConfig, check_size
from liveact_models.denoiser import BlockDenoiser
from liveact_models.engine import Engine, load_transformer
from liveact_models.parallel import StepPipeline
from liveact_models.portrait import prepare_portrait
from liveact_models.session import SessionState, StateError
from liveact_models.timeline import block_feature_frames, block_sound_frames, blocks_for_frames
from liveact_models.vae import DecoderCache, DecoderEngine, load_decoder, to_rgb
from liveact_models.voice import Samples, Voice, VoiceBuffer, block_features, prepare_clip
from liveact_models.voice.prepare import ENCODER_RATE

__all__ = ["DEFAULT_PROMPT", "AudioForm", "Block", "BlockTimes", "Performance", "Pipeline"]

AudioForm = Literal["stream", "clip"]
"""How the encoder hears: the window of each block, as the service does, or a whole clip at once, the released form."""


@dataclass(frozen=True)
class BlockTimes:
    """Seconds of work behind a block."""

    audio_s: float
    denoise_s: float
    decode_s: float
    first_frame_s: float
    """From the block's start to its first decoded frame."""

    @property
    def total_s(self) -> float:
        return self.audio_s + self.denoise_s + self.decode_s


@dataclass(frozen=True)
class Block:
    """One block of video with the sound that belongs to it."""

    index: int
    frames: NDArray[np.uint8]
    """[21 or 32, H, W, 3]"""
    sound: Samples
    """[n] float32, mono, as it was heard."""
    latents: NDArray[np.float32]
    """[16, 6 or 8, H / 8, W / 8]"""
    times: BlockTimes


class Pipeline:
    """All modules of one checkpoint on one device; it holds no state of a session, so one serves any number of them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        sampling: SamplingConfig | None = None,
        device: torch.device | str = "cpu",
        engine: Engine = Engine(),
        decoder: DecoderEngine = DecoderEngine(),
        step_devices: Sequence[torch.device | str] = (),
    ) -> None:
        """`engine` is the transformer's, `decoder` the VAE decoder's; encoders compute in float32. `sampling` is that of sessions
        started here.

        `step_devices`: one a diffusion step, which `render` then makes at once (`StepPipeline`); each holds the transformer.

        Raises `CheckpointError` for weights that cannot be loaded.
        """
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.device = torch.device(device)
        self.dtype = engine.dtype
        place = str(self.device)
        self.text_encoder = checkpoint.load_text_encoder(device=place)
        self.image_encoder = checkpoint.load_image_encoder(device=place)
        self.audio_encoder = checkpoint.load_audio_encoder(device=place)
        if self.config.vae_decoder is None and decoder == DecoderEngine():
            self.vae = self.vae_decoder = checkpoint.load_vae(device=place)
        else:
            self.vae, self.vae_decoder = (
                checkpoint.load_vae("encode", device=place),
                load_decoder(checkpoint, decoder, place),
            )
        devices = [torch.device(step) for step in step_devices]
        denoisers = {
            each: BlockDenoiser(
                load_transformer(checkpoint, engine, each)[0], self.config, sampling, cache=engine.cache
            )
            for each in dict.fromkeys(devices or [self.device])
        }
        self.denoiser = next(iter(denoisers.values()))
        self.steps = StepPipeline([denoisers[each] for each in devices]) if devices else None

    def start(
        self,
        portrait: bytes | NDArray[np.float32],
        *,
        width: int | None = None,
        height: int | None = None,
        fps: int | None = None,
        seed: int = 0,
        prompt: str = DEFAULT_PROMPT,
        rate: int | None = None,
    ) -> Performance:
        """A session before its first block.

        Args:
            portrait: an image file's bytes, or a picture [3, height, width] in [-1, 1].
            width, height: in pixels; by default those of the picture, for a file those of the preset.
            fps: video frames a second; by default the preset's.
            seed: of all noise.
            prompt: what is seen and how the person acts.
            rate: samples a second of the session's sound; by default that of the first voice heard.

        Raises:
            PortraitError: bytes that are no portrait.
            ConfigError: a size that the preset does not render.
            ValueError: another value that does not fit; the message says what does.
        """
        picture = self._picture(portrait, width, height)
        fps = self.config.fps if fps is None else fps
        if fps <= 0:
            raise ValueError(f"fps {fps}: accepted are rates above 0")
        # Through numpy as between the service's stages: a copy of its own, aligned and contiguous.
        clip = self.image_encoder.encode(torch.tensor(picture, device=self.device)).float().cpu().numpy()
        reference = self.vae.encode_reference(torch.tensor(picture, device=self.device)).float().cpu().numpy()
        state = self.denoiser.open(
            width=picture.shape[2],
            height=picture.shape[1],
            fps=fps,
            seed=seed,
            text=self.encode_prompt(prompt),
            clip=self.to_transformer(clip),
            reference=self.to_transformer(reference),
        )
        voice = None if rate is None else VoiceBuffer(rate, fps)
        return Performance(self, state, self.vae_decoder.new_cache(), voice)

    def adopt(self, exported: bytes) -> Performance:
        """The performance of an export, which goes on bit for bit as the exported one would have.

        Raises `StateError` as `SessionState.adopt` does, and for an export that is not a whole performance's.
        """
        state = self.denoiser.adopt(exported)
        try:
            cache = DecoderCache.from_tensors(state.decoder, device=self.device)
            arrays = {name: tensor.cpu().numpy() for name, tensor in state.voice.items()}
            voice = VoiceBuffer.restore(arrays) if arrays else None
        except ValueError as error:
            raise StateError("STATE_TENSOR", str(error)) from None
        if cache.started != (state.block > 0):
            raise StateError(
                "STATE_TENSOR", f"the decoder's cache does not belong to a session before block {state.block}"
            )
        if voice is None and state.block > 0:
            raise StateError("STATE_TENSOR", "the voice is missing: this is not a whole performance")
        if voice is not None and voice.fps != state.fps:
            raise StateError("STATE_TENSOR", f"the voice is cut for {voice.fps:g} fps, the session runs at {state.fps}")
        # What these two hold would otherwise stay behind in the state, ever older.
        return Performance(self, dataclasses.replace(state, decoder={}, voice={}), cache, voice)

    def render(
        self,
        portrait: bytes | NDArray[np.float32],
        voice: Voice,
        *,
        width: int | None = None,
        height: int | None = None,
        fps: int | None = None,
        seed: int = 0,
        prompt: str = DEFAULT_PROMPT,
        audio: AudioForm = "stream",
    ) -> Iterator[Block]:
        """The whole voice as video, padded with silence to whole blocks. Arguments and errors are those of `start`.

        `audio`: "stream" hears block by block what the service would; "clip" encodes and normalises all of the voice at
        once, the released form. Raises `ValueError` for a voice without a sample.
        """
        if audio not in get_args(AudioForm):
            raise ValueError(f"audio {audio!r}: accepted are {', '.join(get_args(AudioForm))}")
        if not len(voice.samples):
            raise ValueError("no voice to render: it holds no sample")
        performance = self.start(
            portrait, width=width, height=height, fps=fps, seed=seed, prompt=prompt, rate=voice.rate
        )
        features = self.encode_clip(voice, performance.state.fps) if audio == "clip" else None
        return _render(performance, voice, features)

    def encode_prompt(self, prompt: str) -> Tensor:
        """The prompt's embedding [tokens <= text_len, text_dim]."""
        text = self.text_encoder.encode(prompt, self.config.transformer.text_len)
        return self.to_transformer(text.float().cpu().numpy())

    def encode_clip(self, voice: Voice, fps: int) -> Tensor:
        """Features [frames, layers, dim] of a whole clip, one row a video frame (model-facts, "Network", Audio).

        Raises `ValueError` for a clip too short to encode.
        """
        prepared = prepare_clip(voice.samples, voice.rate, fps, self.config.trained_fps)
        return self.audio_encoder.encode(torch.from_numpy(prepared), max(int(voice.seconds * fps), 1))

    def to_transformer(self, array: NDArray[np.float32]) -> Tensor:
        """A copy of the array on the transformer's device and in its type."""
        return torch.tensor(array, device=self.denoiser.transformer.device, dtype=self.dtype)

    def _picture(
        self, portrait: bytes | NDArray[np.float32], width: int | None, height: int | None
    ) -> NDArray[np.float32]:
        """The portrait [3, height, width] in [-1, 1] at the size asked for."""
        if isinstance(portrait, bytes):
            default = self.config.limits.default
            width, height = width or default[0], height or default[1]
            check_size(self.config, width, height)
            return prepare_portrait(portrait, width, height).image
        if portrait.dtype != np.float32 or portrait.ndim != 3 or portrait.shape[0] != 3:
            raise ValueError(
                f"portrait {portrait.shape} of {portrait.dtype}: accepted are [3, height, width] of float32, and bytes"
            )
        rows, columns = portrait.shape[1:]
        check_size(self.config, columns, rows)
        if (width or columns, height or rows) != (columns, rows):
            raise ValueError(f"portrait of {columns}x{rows}: {width or columns}x{height or rows} was asked for")
        return portrait


class Performance:
    """One session: it hears, and gives block after block. Its value between two blocks can be exported."""

    def __init__(
        self, pipeline: Pipeline, state: SessionState, decoder: DecoderCache, voice: VoiceBuffer | None
    ) -> None:
        """Made by `Pipeline.start` and `Pipeline.adopt`."""
        self.pipeline = pipeline
        self.state = state
        self._decoder = decoder
        self._voice = voice

    @property
    def rate(self) -> int | None:
        """Samples a second of the session's sound; None until something was heard."""
        return self._voice.rate if self._voice else None

    @property
    def heard(self) -> int:
        """Samples heard since frame 0, silence counted: the position of the next one."""
        return self._voice.written if self._voice else 0

    @property
    def decoder_bytes(self) -> int:
        """Bytes of the decoder's feature cache; the memory's stand in `state.memory_bytes`."""
        return self._decoder.nbytes

    def hear(self, samples: Samples, rate: int) -> None:
        """Voice [n] (float32, mono) that follows on what was heard; any length.

        Raises `ValueError` for another rate than before.
        """
        if self._voice is None:
            self._voice = VoiceBuffer(rate, self.state.fps)
        if rate != self._voice.rate:
            raise ValueError(f"voice at {rate} Hz: accepted is the session's rate, {self._voice.rate}")
        self._voice.append(samples)

    def silence(self, seconds: float) -> None:
        """Time in which nobody speaks follows on what was heard."""
        sound = self._sound()
        sound.append(np.zeros(round(seconds * sound.rate), np.float32), voiced=False)

    def missing(self, block: int | None = None) -> int:
        """Samples that the block, by default the next one, hears and that were not heard yet."""
        sound, block = self._sound(), self.state.block if block is None else block
        return max(0, sound.boundary(block_sound_frames(block).stop) - sound.written)

    def update(self, prompt: str) -> None:
        """Another prompt from the next block on."""
        self.pipeline.denoiser.set_prompt(
            self.state, self.pipeline.encode_prompt(prompt), self.state.prompt_version + 1
        )

    def next_block(self, features: Tensor | None = None) -> Block:
        """Make the next block; what it lacks of sound is silence.

        After an error nothing can be said of the performance: adopt its last export.

        Args:
            features: in place of what the encoder hears in the block's window, [frames + 4, layers, dim].
        """
        block, began = self.state.block, perf_counter()
        audio = self.listen(block, features)
        encoded = perf_counter()
        latents = self.pipeline.denoiser.denoise(self.state, block, audio)
        return self.show(block, latents, encoded - began, encoded)

    def listen(self, block: int, features: Tensor | None = None) -> Tensor:
        """What the transformer hears in a block, [frames + 4, layers, dim]: of blocks in their order, each once."""
        pipeline, sound = self.pipeline, self._sound()
        sound.append(np.zeros(self.missing(block), np.float32), voiced=False)
        if features is None:
            features = block_features(pipeline.audio_encoder, sound.window(block), block, pipeline.config.trained_fps)
        # Every stage ends on the host, as the service's do; on a GPU that is also when its time is known.
        return pipeline.to_transformer(features.float().cpu().numpy())

    def show(self, block: int, denoised: Tensor, audio_s: float, since: float) -> Block:
        """A block's frames and sound from its latents, which were waited for since that moment of `perf_counter`."""
        pipeline, sound = self.pipeline, self._sound()
        latents = denoised.float().cpu().numpy()
        came = perf_counter()
        decoded = pipeline.vae_decoder.decode_stream(torch.tensor(latents, device=pipeline.device), self._decoder)
        parts = [to_rgb(next(decoded)).cpu().numpy()]
        first_frame = perf_counter()
        parts.extend(to_rgb(part).cpu().numpy() for part in decoded)
        times = BlockTimes(audio_s, came - since, perf_counter() - came, first_frame - since + audio_s)
        played = sound.played(block)
        sound.release(block)
        return Block(block, np.concatenate(parts), played, latents, times)

    def export(self) -> bytes:
        """All that the performance has become, as one blob for `Pipeline.adopt`; between two blocks only.

        What was heard and not yet shown is part of it, with the running statistics of the voice: nothing has to be heard
        again, and the adopted performance's next sample is number `heard`.
        """
        arrays = self._voice.snapshot() if self._voice else {}
        voice = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return dataclasses.replace(self.state, decoder=self._decoder.tensors(), voice=voice).export()

    def _sound(self) -> VoiceBuffer:
        """The session's sound; where nobody has spoken yet, at the encoder's rate."""
        if self._voice is None:
            self._voice = VoiceBuffer(ENCODER_RATE, self.state.fps)
        return self._voice


def _render(performance: Performance, voice: Voice, clip: Tensor | None) -> Iterator[Block]:
    blocks = range(blocks_for_frames(math.ceil(len(voice.samples) * performance.state.fps / voice.rate)))

    def heard(block: int) -> Tensor | None:
        # Block by block, so that an hour is not held twice.
        performance.hear(voice.samples[performance.heard :][: performance.missing(block)], voice.rate)
        return None if clip is None else _clip_rows(clip, block)

    steps = performance.pipeline.steps
    if steps is None:
        for block in blocks:
            yield performance.next_block(heard(block))
        return
    audio_s: list[float] = []

    def listened() -> Iterator[Tensor]:
        for block in blocks:
            began = perf_counter()
            audio = performance.listen(block, heard(block))
            audio_s.append(perf_counter() - began)
            yield audio

    since, latents = perf_counter(), steps.denoise(performance.state, listened())
    for block, denoised in zip(blocks, latents, strict=True):
        yield performance.show(block, denoised, audio_s[block], since)
        since = perf_counter()


def _clip_rows(features: Tensor, block: int) -> Tensor:
    """The rows of the block's frames and two more on either side, clamped at the clip's ends: [frames + 4, layers, dim]."""
    rows = torch.tensor(block_feature_frames(block))
    return features[rows.clamp(0, len(features) - 1).to(features.device)]
