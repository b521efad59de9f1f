"""A recipe: everything that fixes one training stage, read from one YAML file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from liveact_models.training import TrainingError
from liveact_models.training.stages import STAGES

RECIPES = Path(__file__).parent / "recipes"
"""The recipes of this package: one folder a preset, one file a stage."""

Options = TypeVar("Options")
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class RecipeError(TrainingError):
    """A recipe that is not accepted; the message names the field and what is accepted."""


class Schedule(BaseModel):
    """The learning rate over the steps: warm-up, a constant part, and a fall to `floor` at the last step.

    Any number of times over: after each fall the rate starts again (warm restarts, Loshchilov and Hutter, 2017).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup: int = Field(default=0, ge=0)
    """Steps over which the rate rises from nothing."""
    hold: Fraction = 0.4
    """Share of all steps after which the rate begins to fall."""
    shape: Literal["linear", "cosine", "constant"] = "linear"
    """How it falls; `constant` does not."""
    floor: Fraction = 0.0
    cycles: int = Field(default=1, ge=1)
    """How often all of this happens; shares and steps above count within one cycle."""

    def cycle(self, step: int, steps: int) -> tuple[int, int, int]:
        """Where `step` of 0 .. steps - 1 stands: the cycle, the step within it, and the steps the cycle has."""
        length = math.ceil(steps / self.cycles)
        number = min(step // length, self.cycles - 1)
        begun = number * length
        return number, step - begun, min(length, steps - begun)

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied with at `step` of 0 .. steps - 1."""
        _, step, steps = self.cycle(step, steps)
        if step < self.warmup:
            return (step + 1) / self.warmup
        begin = max(self.hold * steps, self.warmup)
        if self.shape == "constant" or step < begin or begin >= steps:
            return 1.0
        left = 1.0 - (step - begin) / (steps - begin)
        if self.shape == "cosine":
            left = 0.5 - 0.5 * math.cos(math.pi * left)
        return self.floor + (1.0 - self.floor) * left


class Recipe(BaseModel):
    """One stage's recipe. Frozen: a run of training builds it once and passes it whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    """Name of the set of recipes this one belongs to; a run folder holds one set."""
    stage: str
    """A name of `stages.STAGES`, or "module:Class" for a stage of your own."""
    model: str = "tiny"
    """Preset of the model (`liveact_models.config.PRESETS`)."""
    steps: int = Field(ge=1)
    batch: int = Field(default=1, ge=1)
    """Samples of one step, over all workers together."""
    lr: float = Field(default=1e-3, gt=0)
    adamw_lr: float | None = Field(default=None, gt=0)
    """Rate of what AdamW trains where Muon trains the inner matrices at `lr`; without it the same."""
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule = Schedule()
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of the running mean of the weights; 0 keeps none."""
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 does not clip."""
    seed: int = Field(default=0, ge=0)
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    log_every: int = Field(default=20, ge=1)
    compile: bool = False
    minutes: float = Field(default=0.0, ge=0)
    """What the stage took where it was measured (two CPU cores), for an estimate before it has run; 0 is unknown."""
    options: dict[str, Any] = {}
    """What only this stage knows; `read_options` checks it."""

    @property
    def name(self) -> str:
        """The stage as a folder's name."""
        return self.stage.partition(":")[2] or self.stage

    def read_options(self, kind: type[Options]) -> Options:
        """`options` as the stage's dataclass. Raises `RecipeError` for one it does not have or of a wrong type."""
        known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        for name in self.options:
            if name not in known:
                raise RecipeError(
                    f"recipe of {self.stage}: unknown field options.{name}; accepted are {', '.join(known)}"
                )
        try:
            return TypeAdapter(kind).validate_python(self.options)
        except ValidationError as error:
            raise RecipeError(f"recipe of {self.stage}: {_first(error, 'options.')}") from None

    def bound(self) -> dict[str, Any]:
        """The fields that a stage once begun must keep; the others say how it is run and not what it computes."""
        return self.model_dump(mode="json", exclude={"checkpoint_minutes", "log_every", "compile", "minutes"})


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises `RecipeError` naming the file, the field and what is accepted."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: not a readable recipe ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a table of fields, as `stage: world`")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_first(error)}") from None
    if recipe.stage not in STAGES and ":" not in recipe.stage:
        raise RecipeError(f"{path}: stage {recipe.stage!r} is unknown; accepted are {', '.join(STAGES)}")
    return recipe


def recipe_presets() -> list[str]:
    """The sets of recipes that this package ships."""
    return sorted(folder.name for folder in RECIPES.iterdir() if folder.is_dir())


def shipped_recipe(preset: str, stage: str) -> Recipe:
    """The package's recipe of that preset and stage. Raises `RecipeError` naming what there is."""
    if preset not in recipe_presets():
        raise RecipeError(f"preset {preset!r} is unknown; accepted are {', '.join(recipe_presets())}")
    if stage not in STAGES:
        raise RecipeError(f"stage {stage!r} is unknown; accepted are {', '.join(STAGES)}")
    return load_recipe(RECIPES / preset / f"{stage}.yaml")


def _first(error: ValidationError, prefix: str = "") -> str:
    problem = error.errors()[0]
    *tables, field = [str(part) for part in problem["loc"]] or [""]
    where = prefix + ".".join([*tables, field])
    if problem["type"] == "extra_forbidden":
        known = Schedule.model_fields if tables else Recipe.model_fields
        return f"unknown field {where}; accepted are {', '.join(known)}"
    if problem["type"] == "missing":
        return f"field {where} is missing"
    return f"{where} is {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
