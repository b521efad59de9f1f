"""Stage 2: ConvKV memory and three steps, by distribution matching in a rollout (paper; model-facts, "Training").

Student, teacher and fake score start from stage 1. The student makes clips as inference does: three steps, every block
with its own past at the same step, older frames compressed by the ConvKV weights. Step s of a block needs step s of the
earlier blocks and nothing else, so a whole clip advances a step at a time: a rollout is three passes, not three a block.
The student then follows the difference between what teacher and fake score take its clips to be (DMD; Yin et al., 2024),
and a critic on the fake score's features (DMD2) tells made from true, which is what brings sharpness beyond the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import SamplingConfig, preset
from liveact_models.training.clip_bank import ClipBank, ClipBatch
from liveact_models.training.clip_transformer import (
    ClipConditions,
    ClipVelocity,
    clip_latents,
    compiled_velocity,
)
from liveact_models.training.draws import generator
from liveact_models.training.loop import Stage
from liveact_models.training.neighbor import OUTER_LAYERS, add_noise, draw_times, noise_level
from liveact_models.training.optim import optimizers_for
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.workers import Workers
from liveact_models.transformer import LiveActTransformer


@dataclass(frozen=True)
class DistillOptions:
    """Options of the recipe."""

    blocks: int = 4
    """Blocks of a rollout; beyond those of a clip the sound and prompts of another clip follow."""
    memory: str = "conv"
    fake_updates: int = 3
    """Updates of the fake score for each of the student."""
    last_step: float = 0.5
    """Share of student updates that train the last of the steps; the others share the rest."""
    audio_guidance: float = 1.5
    """Of the teacher: more than 1 exaggerates what the voice does."""
    shift: float = 3.0
    lowest_time: float = 20.0
    highest_time: float = 980.0
    truth: float = 0.5
    """Weight of stage 1's loss on true clips at the student's own steps: what keeps the lips on the voice."""
    face: float = 0.5
    mouth: float = 6.0
    critic: float = 0.03
    """Weight of the critic's verdict in the student's loss; 0 leaves the critic out."""
    critic_layer: int = 4
    """Layers of the fake score whose output the critic reads."""
    fake_lr: float = 1.0
    """Rate of fake score and critic, relative to the student's."""


class DistillStage(Stage):
    """Distils stage 1 into the steps of `SamplingConfig.timesteps`."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
        self.options = recipe.read_options(DistillOptions)
        self.bank = ClipBank.load(run.latents)
        self.config = preset(recipe.model)
        self.sampling = self.config.sampling
        self.student, self.teacher, self.fake = (self._from_stage1(run) for _ in range(3))
        self.teacher.eval().requires_grad_(False)
        self.critic = Critic(self.config.transformer.dim).to(device)
        self.modules = {"student": self.student, "fake": self.fake, "critic": self.critic}
        muon, adamw, faster = recipe.lr, recipe.adamw_lr or recipe.lr, self.options.fake_lr
        self.optimizers = {
            **optimizers_for(self.student, muon, adamw_lr=adamw, adamw=OUTER_LAYERS, prefix="student."),
            **optimizers_for(self.fake, muon * faster, adamw_lr=adamw * faster, adamw=OUTER_LAYERS, prefix="fake."),
            **optimizers_for(self.critic, adamw * faster, adamw=("",), prefix="critic."),
        }
        self.velocity = compiled_velocity(recipe.compile)
        self.student_metrics: dict[str, float] = {}

    def _from_stage1(self, run: RunFolder) -> LiveActTransformer:
        module = LiveActTransformer(self.config.transformer)
        module.load_state_dict(run.load_product("teacher"))
        return module.to(self.device)

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        """Every step trains the fake score and the critic; every `fake_updates`th the student first, on the same clips."""
        draws = generator(self.recipe.seed, step, workers.rank, 0)
        batch, conditions = self._draw(draws, workers)
        students = step % self.options.fake_updates == 0
        made = self._rollout(draws, batch, conditions, self._stop(step), train=students)
        if students:
            self.student_metrics = self._train_student(draws, made, batch, conditions, workers)
        return {**self.student_metrics, **self._train_fake(draws, made.detach(), batch, conditions, workers)}

    def _train_student(
        self, draws: torch.Generator, made: Tensor, batch: ClipBatch, conditions: ClipConditions, workers: Workers
    ) -> dict[str, float]:
        options = self.options
        times = self._times(draws, len(made))
        pull, agreement = self._pull(draws, made, times, conditions)
        loss = 0.5 * F.mse_loss(made, (made - pull).detach())
        metrics = {"pull": agreement}
        if options.critic:
            verdict = self._verdict(draws, made, times, conditions)
            adversarial = F.softplus(-verdict).mean()
            loss = loss + options.critic * adversarial
            metrics["fooled"] = (verdict > 0).float().mean().item()
        if options.truth:
            truth = self._truth(draws, batch)
            loss = loss + options.truth * truth
            metrics["truth"] = truth.item()
        loss.backward()
        # The loss reached the fake score and the critic too; `optimize` forgets that: they learn from their own.
        norm = self.optimize(workers, "student.muon", "student.adamw")
        return {**metrics, "student": loss.item(), "gradient": norm}

    def _train_fake(
        self, draws: torch.Generator, made: Tensor, batch: ClipBatch, conditions: ClipConditions, workers: Workers
    ) -> dict[str, float]:
        options = self.options
        times = self._times(draws, len(made))
        noise = torch.randn(made.shape, generator=draws).to(made)
        out = self._pass(self.fake, add_noise(made, noise, times), times, conditions)
        loss = F.mse_loss(out.velocity, noise - made)
        metrics = {"loss": loss.item()}
        if options.critic:
            blocks = self.bank.blocks
            noise = torch.randn(batch.latents.shape, generator=draws).to(made)
            true = self._pass(self.fake, add_noise(batch.latents, noise, times), times, batch.conditions)
            is_true, is_made = self.critic(true.hidden), self.critic(out.hidden[:, : clip_latents(blocks)])
            judged = F.softplus(-is_true).mean() + F.softplus(is_made).mean()
            loss = loss + options.critic * judged
            metrics["critic"] = judged.item()
        loss.backward()
        self.optimize(workers, "fake.muon", "fake.adamw", "critic.adamw")
        return metrics

    def _draw(self, draws: torch.Generator, workers: Workers) -> tuple[ClipBatch, ClipConditions]:
        """A batch of true clips, and what rollouts of `blocks` blocks are told: another clip's blocks follow."""
        count = len(workers.samples(self.recipe.batch))
        chosen = torch.randint(len(self.bank), (2, count), generator=draws)
        batch, later = (self.bank.batch(part, self.bank.blocks, self.device) for part in chosen)
        return batch, extended(batch.conditions, later.conditions, self.options.blocks)

    def _stop(self, step: int) -> int:
        """The step whose output is trained in this update, a function of the update alone: every worker has the same."""
        steps = self.sampling.num_steps
        draws = generator(self.recipe.seed, step, 2)
        if torch.rand((), generator=draws) < self.options.last_step:
            return steps - 1
        return int(torch.randint(steps, (), generator=draws))

    def _rollout(
        self, draws: torch.Generator, batch: ClipBatch, conditions: ClipConditions, stop: int, train: bool
    ) -> Tensor:
        """The student's x0 after step `stop` [B, 16, F, h, w]; gradients reach that step alone."""
        frames = clip_latents(self.options.blocks)
        shape = (*batch.latents.shape[:2], frames, *batch.latents.shape[3:])

        def velocity(latents: Tensor, time: float, hear: bool) -> Tensor:
            times = torch.full((len(latents),), time, device=self.device)
            return self._pass(self.student, latents, times, conditions, hear=hear).velocity

        noises = [torch.randn(shape, generator=draws).to(self.device) for _ in range(stop + 1)]
        return rollout(velocity, noises, self.sampling, train)

    def _pull(
        self, draws: torch.Generator, made: Tensor, times: Tensor, conditions: ClipConditions
    ) -> tuple[Tensor, float]:
        """The DMD direction: (fake's x0 - teacher's x0), scaled by how far the teacher's is; and that distance."""
        with torch.no_grad():
            noise = torch.randn(made.shape, generator=draws).to(made)
            noisy, level = add_noise(made, noise, times), noise_level(times, made)
            fake = noisy - level * self._pass(self.fake, noisy, times, conditions).velocity
            velocity = self._pass(self.teacher, noisy, times, conditions).velocity
            if self.options.audio_guidance > 1.0:
                everyone = torch.ones(len(made), dtype=torch.bool, device=self.device)
                null = self._pass(self.teacher, noisy, times, conditions.silent(everyone)).velocity
                velocity = null + self.options.audio_guidance * (velocity - null)
            true = noisy - level * velocity
            distance = (made - true).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
            return (fake - true) / distance.clamp_min(1e-4), distance.mean().item()

    def _verdict(self, draws: torch.Generator, made: Tensor, times: Tensor, conditions: ClipConditions) -> Tensor:
        noise = torch.randn(made.shape, generator=draws).to(made)
        return self.critic(self._pass(self.fake, add_noise(made, noise, times), times, conditions).hidden)

    def _truth(self, draws: torch.Generator, batch: ClipBatch) -> Tensor:
        """Stage 1's loss of the student on true clips, at the steps it has."""
        times = draw_times(draws, len(batch.latents), self.sampling.timesteps, 1.0, 1.0).to(self.device)
        noise = torch.randn(batch.latents.shape, generator=draws).to(self.device)
        hear = times < max(self.sampling.timesteps)
        noisy = add_noise(batch.latents, noise, times)
        out = self._pass(self.student, noisy, times, batch.conditions, hear=hear)
        error = (out.velocity - (noise - batch.latents)).square()
        return (error * batch.weights(self.options.face, self.options.mouth)).mean()

    def _times(self, draws: torch.Generator, count: int) -> Tensor:
        times = draw_times(draws, count, self.sampling.timesteps, 0.0, self.options.shift)
        return times.clamp(self.options.lowest_time, self.options.highest_time).to(self.device)

    def _pass(
        self,
        model: LiveActTransformer,
        latents: Tensor,
        times: Tensor,
        conditions: ClipConditions,
        hear: Tensor | bool = True,
    ) -> ClipVelocity:
        heard = hear if isinstance(hear, Tensor) else torch.full((len(latents),), hear, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.velocity(
                model, latents, times, conditions, hear=heard, memory=self.options.memory, tap=self.options.critic_layer
            )

    def finish(self) -> None:
        self.run.save_product("transformer", self.averaged_state("student"))


class Critic(nn.Module):
    """A verdict on every token: positive is true."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, F, S, D] -> [B, F, S]."""
        return self.layers(hidden.float())[..., 0]


def rollout(
    velocity: Callable[[Tensor, float, bool], Tensor], noises: Sequence[Tensor], sampling: SamplingConfig, train: bool
) -> Tensor:
    """x0 after len(noises) of the sampler's steps, all blocks of the clips at once (model-facts, "Sampling": renoise).

    Args:
        velocity: (latents, time, hear) -> the velocity of every block with the earlier blocks at that time as context.
        noises: what enters each step [B, 16, F, h, w], the start's first.
        train: whether gradients reach the last of the steps.
    """
    latents = noises[0]
    clean = latents
    for step, (time, next_time) in enumerate(pairwise((*sampling.timesteps, 0.0))):
        last = step == len(noises) - 1
        with torch.set_grad_enabled(train and last):
            times = torch.full((len(latents),), time, device=latents.device)
            clean = latents - noise_level(times, latents) * velocity(
                latents, time, step not in sampling.skip_audio_steps
            )
        if last:
            break
        times = torch.full((len(latents),), next_time, device=latents.device)
        latents = add_noise(clean, noises[step + 1], times)
    return clean


def extended(conditions: ClipConditions, later: ClipConditions, blocks: int) -> ClipConditions:
    """The conditions followed by the later blocks of other clips, over and over, until there are `blocks`."""
    text, audio = list(conditions.text.unbind(dim=1)), list(conditions.audio)
    while len(audio) < blocks:
        text += list(later.text.unbind(dim=1))[1:]
        audio += list(later.audio)[1:]
    return ClipConditions(conditions.reference, torch.stack(text[:blocks], dim=1), conditions.clip, audio[:blocks])
