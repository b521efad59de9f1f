"""Stage 1: Neighbor Forcing (paper; model-facts, "Training").

One diffusion time for all blocks of a clip, so that the context of a block is what earlier frames are at the same step,
at training as at inference. Velocity loss, block-causal attention, the mouth's tokens weighted more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.checkpoint.weights import untrained
from liveact_models.config import preset
from liveact_models.sampler import NOISE_LEVELS
from liveact_models.timeline import FRAMES_PER_LATENT, block_latents
from liveact_models.training.clip_bank import ClipBank, ClipBatch
from liveact_models.training.clip_transformer import clip_latents, compiled_velocity
from liveact_models.training.draws import generator
from liveact_models.training.loop import Stage
from liveact_models.training.optim import optimizers_for
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.workers import Workers
from liveact_models.transformer import LiveActTransformer

MOUTH_VALUES = 4
GATES = (2, 5)
"""Places of the gates among a layer's six modulation vectors."""
OUTER_LAYERS = ("patch_embedding", "text_embedding", "time_", "img_emb", "audio_proj", "head")
"""What AdamW trains: the ways in and out. Muon trains the matrices between."""


@dataclass(frozen=True)
class NeighborOptions:
    """Options of the recipe; the shares count a clip's draws."""

    blocks: int = 2
    """Blocks of a clip: two see no memory yet."""
    memory_from: float = 0.7
    """Share of a cycle's steps after which all blocks of the bank are trained on, so that memory is seen."""
    first_clips: int = 0
    """Clips of the bank that the schedule's first cycle draws from, so that it can begin before all are encoded; 0: all."""
    memory: str = "conv"
    forcing: str = "neighbor"
    """"neighbor" has one time a clip, "diffusion" one a block: the baseline Neighbor Forcing is measured against."""
    on_steps: float = 0.5
    """Share of draws at exactly the times inference uses."""
    shift: float = 3.0
    deaf: float = 0.08
    """Share of clips that hear silence, for audio guidance."""
    face: float = 0.5
    mouth: float = 6.0
    """Weights of the tokens that face and mouth cover, on top of 1."""
    tell_mouth: float = 1.0
    """Weight of reading the mouth off the audio tokens."""


class NeighborStage(Stage):
    """Trains the transformer from nothing."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
        self.options = recipe.read_options(NeighborOptions)
        self.bank = ClipBank.load(run.latents)
        self.config = preset(recipe.model)
        self.transformer = LiveActTransformer(self.config.transformer).to(device)
        initialise(self.transformer, recipe.seed)
        sizes = self.config.transformer
        # Thrown away after training: it only makes the audio tokens carry the mouth early.
        self.mouth_head = nn.Linear(sizes.context_tokens * sizes.output_dim, FRAMES_PER_LATENT * MOUTH_VALUES).to(
            device
        )
        self.modules = {"transformer": self.transformer, "mouth_head": self.mouth_head}
        self.optimizers = {
            **optimizers_for(
                self.transformer,
                recipe.lr,
                recipe.weight_decay,
                adamw=OUTER_LAYERS,
                adamw_lr=recipe.adamw_lr,
                prefix="transformer.",
            ),
            **optimizers_for(self.mouth_head, recipe.adamw_lr or recipe.lr, adamw=("",), prefix="mouth_head."),
        }
        self.velocity = compiled_velocity(recipe.compile)

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        options, recipe = self.options, self.recipe
        cycle, within, length = recipe.schedule.cycle(step, recipe.steps)
        blocks = options.blocks if within < options.memory_from * length else self.bank.blocks
        clips = options.first_clips if cycle == 0 and options.first_clips else len(self.bank)
        samples = workers.samples(recipe.batch)
        chosen, times, noise, deaf = zip(*(self._draw(step, sample, blocks, clips) for sample in samples), strict=True)
        batch = self.bank.batch(torch.stack(chosen), blocks, self.device)
        loss, metrics = self._loss(
            batch, torch.stack(times).to(self.device), torch.stack(noise).to(self.device), torch.stack(deaf)
        )
        loss.backward()
        return {"loss": loss.item(), **metrics, "gradient": self.optimize(workers)}

    def _draw(self, step: int, sample: int, blocks: int, clips: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clip, time ([] or one a block [N]), noise and deafness of one sample of one step."""
        options, draws = self.options, generator(self.recipe.seed, step, sample)
        chosen = torch.randint(clips, (), generator=draws)
        if options.forcing == "diffusion":
            times = draw_times(draws, blocks, self.config.sampling.timesteps, 0.0, 1.0)
        else:
            times = draw_times(draws, 1, self.config.sampling.timesteps, options.on_steps, options.shift)[0]
        shape = (self.bank.latents.shape[1], clip_latents(blocks), *self.bank.latents.shape[3:])
        deaf = torch.rand((), generator=draws) < options.deaf
        return chosen, times, torch.randn(shape, generator=draws), deaf

    def _loss(self, batch: ClipBatch, times: Tensor, noise: Tensor, deaf: Tensor) -> tuple[Tensor, dict[str, float]]:
        options, deaf = self.options, deaf.to(self.device)
        noisy = add_noise(batch.latents, noise, times)
        hear = times.reshape(len(times), -1).amin(dim=1) < NOISE_LEVELS
        with torch.autocast(self.device.type, torch.bfloat16):
            out = self.velocity(
                self.transformer, noisy, times, batch.conditions.silent(deaf), hear=hear, memory=options.memory
            )
            seen = self.mouth_head(out.audio_tokens.flatten(2)).unflatten(-1, (FRAMES_PER_LATENT, MOUTH_VALUES))
        error = (out.velocity - (noise - batch.latents)).square()
        velocity = (error * batch.weights(options.face, options.mouth)).mean()
        told = F.mse_loss(seen.float()[~deaf, 1:], batch.mouth[~deaf, 1:])
        loss = velocity + options.tell_mouth * told
        return loss, {"velocity": velocity.item(), "mouth": told.item()}

    def finish(self) -> None:
        """The teacher of stage 2, and until that is done the transformer of the checkpoint."""
        for product in ("teacher", "transformer"):
            self.run.save_product(product, self.averaged_state("transformer"))


def initialise(transformer: LiveActTransformer, seed: int) -> None:
    """Seeded start: the untrained weights, with every layer's way out at zero so that a layer begins as the identity."""
    transformer.load_state_dict(untrained(transformer, f"stage1/{seed}", device="cpu", dtype=torch.float32))
    with torch.no_grad():
        for layer in transformer.layers:
            for out in (layer.self_attn.o, layer.cross_attn.o, layer.audio_cross_attn.proj, layer.ffn[-1]):
                out.weight.zero_()  # type: ignore[union-attr, operator]
            layer.modulation.zero_()
            layer.modulation[:, GATES] = 1.0
        transformer.time_projection[-1].weight.mul_(0.1)  # type: ignore[operator]
        transformer.head.head.weight.zero_()
        transformer.head.modulation.zero_()


def draw_times(
    generator: torch.Generator, count: int, steps: tuple[float, ...], on_steps: float, shift: float
) -> Tensor:
    """Diffusion times [count]: a share exactly at inference's steps, the rest uniform, shifted towards noise."""
    uniform = torch.rand(count, generator=generator)
    shifted = shift * uniform / (1 + (shift - 1) * uniform) * NOISE_LEVELS
    exact = torch.tensor(steps)[torch.randint(len(steps), (count,), generator=generator)]
    return torch.where(torch.rand(count, generator=generator) < on_steps, exact, shifted)


def add_noise(latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """(1 - t / 1000) * x0 + t / 1000 * noise: latents [B, 16, F, h, w], times [B] or [B, N] a block."""
    level = noise_level(times, latents)
    return (1 - level) * latents + level * noise


def noise_level(times: Tensor, latents: Tensor) -> Tensor:
    """t / 1000 as it multiplies latents: [B, 1, 1, 1, 1] or [B, 1, F, 1, 1]."""
    level = times / NOISE_LEVELS
    if level.dim() == 1:
        return level.view(-1, 1, 1, 1, 1)
    repeats = torch.tensor([block_latents(block) for block in range(level.shape[1])], device=level.device)
    return level.repeat_interleave(repeats, dim=1)[:, None, :, None, None]
