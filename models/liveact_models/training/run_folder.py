"""The folder of one run of training: what its stages made, how far they are, and what they were begun with."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from liveact_models.training import TrainingError
from liveact_models.training.checkpoints import Checkpoints
from liveact_models.training.recipe import Recipe

FORMAT = 1
LOCK_PATIENCE_S = 20.0
"""A killed run's worker processes may hold their lock for some seconds."""


class RunError(TrainingError):
    """A run folder that cannot be used, or lacks what is needed; the message names it and what helps."""


@dataclass(frozen=True)
class Status:
    """How far one stage is."""

    stage: str
    state: str
    """"running", "interrupted", "finished" or "failed"."""
    step: int
    """Steps done."""
    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    """The newest, averaged over the workers; "loss" among them where the stage has one."""
    steps_per_s: float = 0.0
    """Lately; 0 is unknown."""
    seconds: float = 0.0
    """Spent on the stage in all."""
    checkpoint_step: int | None = None
    """Of the newest checkpoint."""
    checkpoint_time: float | None = None
    """When it was written, in seconds since 1970."""
    products: tuple[str, ...] = ()
    workers: int = 1
    device: str = "cpu"
    updated: float = 0.0
    """In seconds since 1970."""

    @property
    def loss(self) -> float | None:
        return self.metrics.get("loss")

    @property
    def seconds_left(self) -> float | None:
        return (self.steps - self.step) / self.steps_per_s if self.steps_per_s else None


class RunFolder:
    """Paths and small files of one run. The heavy files are its stages' own.

    world/, latents/, predictions/, checkpoints/<stage>/, tensorboard/<stage>/, products/<module>.safetensors; and for the loop:
    run.json (which recipes), recipes/<stage>.yaml (as begun), status/<stage>.json, train.log.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.world = self.path / "world"
        self.latents = self.path / "latents"
        self.predictions = self.path / "predictions"
        self.products = self.path / "products"
        self.tensorboard = self.path / "tensorboard"
        self.log = self.path / "train.log"

    def claim(self, recipe: Recipe) -> None:
        """Begin, or go on with, this recipe here. Raises as `check` does."""
        self.check(recipe)
        mine = {"format": FORMAT, "preset": recipe.preset, "model": recipe.model}
        if self._begun() is None:
            _write(self.path / "run.json", json.dumps(mine))
        if not self.recipe(recipe.name).exists():
            _write(self.recipe(recipe.name), yaml.safe_dump(recipe.bound(), sort_keys=False))

    def check(self, recipe: Recipe) -> None:
        """Raise `RunError` where this folder, or the stage in it, was begun with another recipe; writes nothing."""
        begun = self._begun()
        for name, value in {"format": FORMAT, "preset": recipe.preset, "model": recipe.model}.items():
            if begun is not None and begun.get(name) != value:
                raise RunError(
                    f"{self.path} was begun with {name} {begun.get(name)!r}, the recipe of {recipe.name} has "
                    f"{value!r}: name another folder with --run"
                )
        if not self.recipe(recipe.name).exists():
            return
        then, now = yaml.safe_load(self.recipe(recipe.name).read_text()), recipe.bound()
        for name in (*now, *then):
            if then.get(name) != now.get(name):
                raise RunError(
                    f"{self.path}: {recipe.name} was begun with {name} {then.get(name)!r}, this recipe has "
                    f"{now.get(name)!r}: name another folder with --run, or start the stage over with --fresh"
                )

    def begun_with(self) -> str | None:
        """The preset of the recipes this folder was begun with; None where it was not."""
        begun = self._begun()
        return None if begun is None else str(begun.get("preset"))

    def forget(self, stage: str) -> None:
        """Remove a stage's checkpoints, status and recipe, so that it begins anew; products stay until it is done."""
        self.checkpoints(stage).clear()
        for path in (self.recipe(stage), self._status(stage)):
            path.unlink(missing_ok=True)

    def checkpoints(self, stage: str) -> Checkpoints:
        """The checkpoints of one stage."""
        return Checkpoints(self.path / "checkpoints" / stage)

    def product(self, module: str) -> Path:
        """Where the weights of `module` are, or will be."""
        return self.products / f"{module}.safetensors"

    def save_product(
        self, module: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write the finished weights of `module`, whole or not at all. Returns the path."""
        from safetensors.torch import save_file

        path = self.product(module)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(ready, fresh, dict(metadata or {}))
        fresh.replace(path)
        return path

    def load_product(self, module: str) -> dict[str, Tensor]:
        """The weights of `module`, on the CPU. Raises `RunError` where no stage has made them yet."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.product(module)
        try:
            return load_file(path)
        except FileNotFoundError:
            raise RunError(
                f"{path} is missing: the stage that makes it has not finished (`liveact train status --run {self.path}`)"
            ) from None
        except SafetensorError as error:
            raise RunError(f"{path} is damaged ({error}): delete it and run the stage that makes it again") from None

    def status(self, stage: str) -> Status | None:
        """How far the stage was when it last said so; None where it was never begun."""
        try:
            data = json.loads(self._status(stage).read_text())
            return Status(**{**data, "products": tuple(data["products"])})
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise RunError(f"{self._status(stage)} is damaged ({error}): delete it; the checkpoints stay") from None

    def write_status(self, status: Status) -> None:
        _write(self._status(status.stage), json.dumps(dataclasses.asdict(status)))

    @contextmanager
    def locked(self, stage: str, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
        """Keep other processes from training the stage here. Raises `RunError` where one does so already."""
        path = self.path / "status" / f"{stage}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            _wait(lambda: _lock(file.fileno()), patience_s, f"{self.path}: {stage} is being trained by another process")
            yield

    def busy(self, stage: str) -> bool:
        """Whether a process on this machine is training the stage here."""
        try:
            with self.locked(stage, patience_s=0):
                return False
        except RunError:
            return True

    def stages_beside(self, known: Collection[str]) -> list[str]:
        """Stages begun here that are not among those known."""
        return sorted(path.stem for path in (self.path / "status").glob("*.json") if path.stem not in known)

    def _begun(self) -> dict[str, Any] | None:
        path = self.path / "run.json"
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            raise RunError(f"{path} is damaged ({error}): name another folder with --run") from None

    def recipe(self, stage: str) -> Path:
        """The recipe a stage was begun with."""
        return self.path / "recipes" / f"{stage}.yaml"

    def _status(self, stage: str) -> Path:
        return self.path / "status" / f"{stage}.json"


def _write(path: Path, text: str) -> None:
    """Whole or not at all: other processes read these files at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(done: Callable[[], bool], patience_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            raise RunError(otherwise)
        time.sleep(0.1)
