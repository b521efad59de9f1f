"""The transformer against its golden tensors: velocities, latents and cache slots of every variant."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveact_models.config import PRESETS, ModelConfig, SamplingConfig, transformer_config_from_json
from liveact_models.denoiser import BlockDenoiser
from liveact_models.memory import step_cache
from liveact_models.parity.golden import read_tensors
from liveact_models.parity.report import ParityRow, relative_error
from liveact_models.session import SessionState
from liveact_models.timeline import block_feature_frames
from liveact_models.transformer import KeyValue, LiveActTransformer

PROMPT_CHANGE_BLOCK = 2
AUDIO_GUIDANCE = 1.7
CACHE_STEP = 1
"""The step whose cache the golden files hold."""


def rows(directory: Path) -> list[ParityRow]:
    """Relative errors of every golden output in `directory`/dit.*, in float32 on the CPU.

    Raises `ParityError` for a missing file, `ConfigError` for a damaged dit.json, `KeyError` for a missing tensor and
    `RuntimeError` for weights that do not bear the transformer's names and shapes.
    """
    golden = GoldenSession(directory)
    euler = golden.sampling(sampler="euler")
    return [
        *_renoise(golden),
        *_latents(golden, "euler", euler),
        *_latents(golden, "euler_edit", euler, edited=True),
        *_latents(golden, "euler_mean_memory", golden.sampling(sampler="euler", memory="mean")),
        *_latents(golden, "renoise_audio_cfg", golden.sampling(audio_guidance=AUDIO_GUIDANCE)),
    ]


class GoldenSession:
    """The golden model and the inputs of its session; noise is the recorded one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        transformer = transformer_config_from_json(directory / "dit.json")
        settings: dict[str, Any] = json.loads((directory / "dit.json").read_text())
        self.blocks: int = settings["blocks"]
        self.timesteps = tuple(time for time in settings["timesteps"] if time > 0.0)
        height, width = settings["latent_hw"]
        self.size = (8 * width, 8 * height)
        self.config: ModelConfig = dataclasses.replace(PRESETS["tiny"], name="golden", transformer=transformer)
        self.inputs = read_tensors(directory, "dit.inputs")
        self.transformer = LiveActTransformer(transformer)
        self.transformer.load_state_dict(read_tensors(directory, "dit.weights"))

    def sampling(self, **settings: Any) -> SamplingConfig:
        return SamplingConfig(timesteps=self.timesteps, **settings)

    def outputs(self, variant: str) -> dict[str, Tensor]:
        return read_tensors(self.directory, f"dit.{variant}")

    def open(self, denoiser: BlockDenoiser, seed: int = 0) -> SessionState:
        width, height = self.size
        text, clip, reference = (self.inputs[name] for name in ("text", "clip", "reference_latent"))
        return denoiser.open(
            width=width, height=height, fps=25, seed=seed, text=text, clip=clip[0], reference=reference[0]
        )

    def audio(self, block: int) -> Tensor:
        """Features of the block's frames and two on either side, clamped at the ends of the recording."""
        embedding, index = self.inputs["audio_embedding"], torch.tensor(block_feature_frames(block))
        return embedding[index.clamp(0, len(embedding) - 1)]

    def noise(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """The recorded noise: the files name what is drawn after step s - 1 with that step."""
        return self.inputs[f"noise.{block}.{'init' if step == 0 else step - 1}"]


def _latents(
    golden: GoldenSession, variant: str, sampling: SamplingConfig, edited: bool = False
) -> Iterator[ParityRow]:
    outputs = golden.outputs(variant)
    denoiser = BlockDenoiser(golden.transformer, golden.config, sampling)
    state = golden.open(denoiser)
    for block in range(golden.blocks):
        if edited and block == PROMPT_CHANGE_BLOCK:
            denoiser.set_prompt(state, golden.inputs["text_edit"], version=1)
        latents = denoiser.denoise(state, block, golden.audio(block), golden.noise)
        name = f"latent.{block}"
        yield ParityRow("dit", variant, name, relative_error(latents, outputs[name]))


def _renoise(golden: GoldenSession) -> Iterator[ParityRow]:
    """The default sampler, with the velocities and the cache seen from outside through a forward hook."""
    outputs = golden.outputs("renoise")
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling())
    state = golden.open(denoiser)
    for block in range(golden.blocks):
        calls: list[tuple[Tensor, list[KeyValue]]] = []
        context = state.memory.get(step_cache(CACHE_STEP))
        hook = golden.transformer.register_forward_hook(lambda module, args, output, calls=calls: calls.append(output))
        try:
            latents = denoiser.denoise(state, block, golden.audio(block), golden.noise)
        finally:
            hook.remove()
        ours = {f"latent.{block}": latents}
        ours |= {f"velocity.{block}.{step}": velocity for step, (velocity, _) in enumerate(calls)}
        for name, tensor in ours.items():
            yield ParityRow("dit", "renoise", name, relative_error(tensor, outputs[name]))
        for name in sorted(name for name in outputs if name.startswith(f"kv.{block}.{step_cache(CACHE_STEP)}.")):
            yield from _cache(name, outputs[name][0], context, calls[CACHE_STEP][1])


def _cache(name: str, golden: Tensor, context: Tensor | None, fresh: list[KeyValue]) -> Iterator[ParityRow]:
    """Rows of `kv.B.stepS.layerL.k`: the slots before the block's own, and the block's own."""
    layer_name, part_name = name.split(".")[-2:]
    layer, part = int(layer_name.removeprefix("layer")), "kv".index(part_name)
    new = fresh[layer][part]
    before = golden[: len(golden) - len(new)]
    if context is not None:
        yield ParityRow("dit", "renoise", f"{name} slots 0-5", relative_error(context[layer, part], before))
    yield ParityRow("dit", "renoise", f"{name} slots 6-13", relative_error(new, golden[len(before) :]))
