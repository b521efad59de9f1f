"""The loop that every stage is trained by: resumed to the bit, watched, and stopped without loss."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from liveact_models.compiling import compiled
from liveact_models.training import MissingExtra, TrainingError
from liveact_models.training.draws import generator, rng, seed_all
from liveact_models.training.ema import Ema
from liveact_models.training.optim import optimizers_for
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder, Status
from liveact_models.training.workers import Workers

__all__ = ["Diverged", "Recipe", "RunFolder", "Stage", "Status", "Workers", "compiled", "generator", "optimizers_for",
           "rng", "seed_all", "train"]  # fmt: skip

Report = Callable[[Status], None]
SPEED_MEMORY = 0.7
"""Weight of the speed so far against that since the last report."""


class Diverged(TrainingError):
    """A loss, gradient or weight that is not finite; the message names stage and step."""


class Stage(ABC):
    """One stage of training. A subclass makes its modules and optimisers, and one step.

    Its weights, drawn in `__init__`, come from the recipe's seed; a step draws everything from keys that hold
    (recipe.seed, step, sample or rank), by `draws.rng` and `draws.generator`. Then a resumed run is the unbroken one.
    """

    ema: Ema | None = None
    """Set by the loop where the recipe asks for one."""
    modules: dict[str, nn.Module]
    """What is trained: saved, resumed, the same on every worker, and averaged by the EMA. Frozen modules stay out."""
    optimizers: dict[str, Optimizer]
    """Their learning rates are multiplied with the schedule by the loop."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        self.recipe = recipe
        self.run = run
        self.device = device
        self.modules = {}
        self.optimizers = {}

    @abstractmethod
    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        """One whole optimisation step, backward and `optimizer.step()` included. Returns metrics, "loss" among them."""

    @abstractmethod
    def finish(self) -> None:
        """Write the products into the run folder; called after the last step, on the first worker."""

    def pictures(self, step: int) -> dict[str, NDArray[np.uint8]]:
        """Pictures [H, W, 3] for TensorBoard, asked for at every checkpoint; none by default."""
        return {}

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside modules and optimisers: tensors, numbers, text and tables of them."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `extra_state` gave."""

    def close(self) -> None:  # noqa: B027
        """Let go of processes and files; called once, also after an error."""

    def parameters(self, *optimizers: str) -> list[Tensor]:
        """The parameters of the optimisers named, of all where none is."""
        names = optimizers or tuple(self.optimizers)
        return [p for name in names for group in self.optimizers[name].param_groups for p in group["params"]]

    def optimize(self, workers: Workers, *optimizers: str) -> float:
        """After `loss.backward()`: average gradients over the workers, clip, step the optimisers named (all where none is).

        The loss is the mean over this worker's samples. Every gradient of the stage is gone afterwards, also those that
        reached modules not stepped here. Returns the gradient's norm before clipping.
        Raises `Diverged` where that is not finite, before any weight is touched.
        """
        parameters = self.parameters(*optimizers)
        workers.average_gradients(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.recipe.clip or math.inf, foreach=True))
        if not math.isfinite(norm):
            raise Diverged(f"{self.recipe.name}: the gradient is {norm}")
        for name in optimizers or self.optimizers:
            self.optimizers[name].step()
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)
        return norm

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the modules hold the means of the EMA, or what they hold where none is kept."""
        return self.ema.applied() if self.ema else nullcontext()

    def averaged_state(self, module: str) -> dict[str, Tensor]:
        """The state dict of a module as it is shipped: the EMA's where one is kept."""
        return self.ema.module_state(module) if self.ema else self.modules[module].state_dict()

    def save_product(self, module: str, metadata: Mapping[str, str] | None = None) -> Path:
        """Write products/<module>.safetensors: the EMA's weights of a module where one is kept."""
        return self.run.save_product(module, self.averaged_state(module), metadata)


class _Wish(IntEnum):
    """What a worker wants after a step; the greatest of all workers' wishes is done by all."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    DIVERGED = 3


@dataclass
class _Clock:
    """Time of this process's steps, for speed, and for when the next checkpoint is due."""

    before_s: float
    speed: float

    def __post_init__(self) -> None:
        self._began = self._marked = self._saved = time.monotonic()
        self._steps = 0

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self._began

    def tick(self) -> None:
        self._steps += 1

    def mark(self) -> float:
        """Steps a second, mostly since the last mark."""
        now = time.monotonic()
        if self._steps:
            speed = self._steps / max(now - self._marked, 1e-9)
            self.speed = SPEED_MEMORY * self.speed + (1 - SPEED_MEMORY) * speed if self.speed else speed
        self._marked, self._steps = now, 0
        return self.speed

    def due(self, minutes: float) -> bool:
        return time.monotonic() - self._saved >= 60 * minutes

    def saved(self) -> None:
        self._saved = time.monotonic()


def train(
    stage: Stage,
    recipe: Recipe,
    run: RunFolder,
    workers: Workers | None = None,
    report: Report = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Status:
    """Train a stage to its end, from its newest good checkpoint where there is one.

    report hears of every `log_every`-th step, every checkpoint and the end, on every worker. stop is asked after
    every step: once true, a checkpoint is written and the status returned says "interrupted"; else it says "finished".
    Raises `Diverged`, `RunError` or `CheckpointWriteError`, and what the stage raises.
    """
    return _Loop(stage, recipe, run, workers or Workers(), report).run(stop)


class _Loop:
    def __init__(self, stage: Stage, recipe: Recipe, run: RunFolder, workers: Workers, report: Report) -> None:
        self.stage = stage
        self.recipe = recipe
        self.folder = run
        self.workers = workers
        self.report = report
        self.first = workers.rank == 0
        self.checkpoints = run.checkpoints(recipe.name)
        self.rates = {
            name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in stage.optimizers.items()
        }
        earlier = run.status(recipe.name)
        self.status = Status(
            recipe.name, "running", 0, recipe.steps, workers=workers.size, device=str(stage.device),
            checkpoint_time=earlier.checkpoint_time if earlier else None,
        )  # fmt: skip
        self.clock = _Clock(earlier.seconds if earlier else 0.0, earlier.steps_per_s if earlier else 0.0)

    def run(self, stop: Callable[[], bool]) -> Status:
        lock = self.folder.locked(self.recipe.name) if self.first else nullcontext()
        try:
            with lock, self._board() as board:
                return self._steps(self._resume(), stop, board)
        except Exception:
            with suppress(OSError):  # a disk that is full is what is told, not that this cannot be written either
                self._tell(state="failed")
            raise
        finally:
            self.stage.close()

    def _steps(self, begin: int, stop: Callable[[], bool], board: _Board | None) -> Status:
        steps = self.recipe.steps
        self._tell(step=begin)
        for step in range(begin, steps):
            metrics, wish = self._step(step)
            done = step + 1
            if wish < _Wish.STOP and stop():
                wish = _Wish.STOP
            elif wish < _Wish.SAVE and self.first and (done == steps or self.clock.due(self.recipe.checkpoint_minutes)):
                wish = _Wish.SAVE
            wish = _Wish(self.workers.highest(wish))
            if wish is _Wish.DIVERGED:
                values = ", ".join(f"{name} {value}" for name, value in metrics.items())
                raise Diverged(f"{self.recipe.name}: step {step} is not finite on a worker ({values}); {self._kept()}")
            if wish or done % self.recipe.log_every == 0:
                self._log(done, self.workers.mean(metrics), board)
            if wish:
                self._save(done, board)
            if wish is _Wish.STOP and done < steps:
                return self._tell(state="interrupted")
        if self.first:
            before = _files(self.folder)
            self.stage.finish()
            made = sorted(name for name, time_ns in _files(self.folder).items() if before.get(name) != time_ns)
            self.status = replace(self.status, products=tuple(made))
        self.workers.barrier()
        return self._tell(state="finished")

    def _step(self, step: int) -> tuple[dict[str, float], _Wish]:
        seed_all(self.recipe.seed, step, self.workers.rank)
        factor = self.recipe.schedule.factor(step, self.recipe.steps)
        for name, rates in self.rates.items():
            for group, rate in zip(self.stage.optimizers[name].param_groups, rates, strict=True):
                group["lr"] = rate * factor
        try:
            metrics = self.stage.train_step(step, self.workers)
        except Diverged as error:
            raise Diverged(f"{error} at step {step}; {self._kept()}") from None
        if self.stage.ema:
            self.stage.ema.update()
        self.clock.tick()
        finite = all(math.isfinite(value) for value in metrics.values())
        return metrics, _Wish.GO_ON if finite else _Wish.DIVERGED

    def _resume(self) -> int:
        """The step to go on with; everything is as it was after the one before."""
        stage = self.stage
        self.workers.share(stage.modules)
        stage.ema = Ema(stage.modules, self.recipe.ema) if self.recipe.ema else None
        found = self.checkpoints.newest()
        if found is None:
            return 0
        step, state = found
        for name, module in stage.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in stage.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if stage.ema:
            stage.ema.load_state_dict(state["ema"])
        stage.load_extra_state(state["extra"])
        self.status = replace(self.status, metrics=state["metrics"], checkpoint_step=step)
        return step

    def _save(self, step: int, board: _Board | None) -> None:
        stage = self.stage
        if self.first:
            self._require_finite(step)
            self.checkpoints.save(
                step,
                {
                    "modules": {name: module.state_dict() for name, module in stage.modules.items()},
                    "optimizers": {name: optimizer.state_dict() for name, optimizer in stage.optimizers.items()},
                    "ema": stage.ema.state_dict() if stage.ema else None,
                    "extra": stage.extra_state(),
                    "metrics": self.status.metrics,
                },
            )
            if board:
                board.pictures(step, stage.pictures(step))
        self.clock.saved()
        self.workers.barrier()
        self._tell(checkpoint_step=step, checkpoint_time=time.time())

    def _require_finite(self, step: int) -> None:
        for name, module in self.stage.modules.items():
            for key, parameter in module.named_parameters():
                if not torch.isfinite(parameter).all():
                    raise Diverged(f"{self.recipe.name}: after {step} steps {name}.{key} is not finite; {self._kept()}")

    def _log(self, step: int, metrics: Mapping[str, float], board: _Board | None) -> None:
        speed = self.clock.mark()
        if board:
            rates = {f"rate/{name}": o.param_groups[0]["lr"] for name, o in self.stage.optimizers.items()}
            board.scalars(step, {**metrics, **rates, "steps_per_s": speed})
        self._tell(step=step, metrics=dict(metrics), steps_per_s=speed)

    def _tell(self, **changes: Any) -> Status:
        self.status = replace(self.status, **changes, seconds=self.clock.seconds, updated=time.time())
        if self.first:
            self.folder.write_status(self.status)
        self.report(self.status)
        return self.status

    def _kept(self) -> str:
        steps = self.checkpoints.steps()
        return f"the newest checkpoint is of step {steps[0]}" if steps else "there is no checkpoint yet"

    @contextmanager
    def _board(self) -> Iterator[_Board | None]:
        if not self.first:
            yield None
            return
        board = _Board(self.folder, self.recipe.name, self.checkpoints.steps())
        try:
            yield board
        finally:
            board.close()


class _Board:
    """TensorBoard's file of one stage."""

    def __init__(self, run: RunFolder, stage: str, resumed: list[int]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard") from error
        # What an interrupted run wrote after its last checkpoint is drawn again, not twice.
        self._writer = SummaryWriter(str(run.tensorboard / stage), purge_step=resumed[0] + 1 if resumed else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, values: Mapping[str, NDArray[np.uint8]]) -> None:
        for name, picture in values.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _files(run: RunFolder) -> dict[str, int]:
    """The products there are, with the time of their last change."""
    paths = [path for path in run.products.rglob("*") if path.is_file()]
    return {str(path.relative_to(run.products)): path.stat().st_mtime_ns for path in paths}
