"""Which models are measured, and whose voices they hear."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import note
from liveact_services.cli.render import load_pipeline

if TYPE_CHECKING:
    from liveact_models.config import SamplingConfig
    from liveact_models.evaluate.contenders import Contender
    from liveact_models.evaluate.suites import Speaker
    from liveact_models.pipeline import Pipeline
    from liveact_services.config import ServiceConfig


class Models:
    """The model that was asked for and those it is compared with, each checkpoint loaded once."""

    def __init__(
        self, file: Path | None, settings: list[str] | None, preset: str | None, checkpoint: str | None, threads: int
    ) -> None:
        self._config = options.effective_config(file, settings, preset=preset, checkpoint=checkpoint)
        self._threads = threads
        self._loaded: dict[str, Pipeline] = {}

    @property
    def pipeline(self) -> Pipeline:
        return self._load(self._config)

    def own(self, steps: int | None = None, name: str = "") -> Contender:
        """The model itself; with other than its own number of steps, Euler ones."""
        from liveact_models.evaluate.contenders import Model, many_steps

        sampling = self.pipeline.denoiser.sampling
        if steps is not None:
            sampling = many_steps(sampling, steps)
        return Model(name or f"{self._config.preset}, {sampling.num_steps} steps", self.pipeline, sampling)

    def others(self, specs: Sequence[str] | None) -> list[Contender]:
        """Those of `--against`."""
        from liveact_models.evaluate.contenders import Model

        made: list[Contender] = []
        for spec in specs or ():
            name, checkpoint, changes = parse_against(spec)
            chosen = self._config.model_copy(update={"checkpoint": checkpoint}) if checkpoint else self._config
            pipeline = self._load(chosen)
            made.append(Model(name, pipeline, _changed(pipeline.denoiser.sampling, changes, spec)))
        return made

    def _load(self, config: ServiceConfig) -> Pipeline:
        if config.checkpoint not in self._loaded:
            note(f"loading {config.preset}, checkpoint {config.checkpoint}")
            self._loaded[config.checkpoint] = load_pipeline(config, self._threads)
        return self._loaded[config.checkpoint]


def parse_against(spec: str) -> tuple[str, str, dict[str, Any]]:
    """ "teacher=runs/a,steps=24" -> ("teacher", "runs/a", {"steps": 24}). Raises `typer.BadParameter`."""
    import yaml

    # The name may hold anything but an equals sign.
    name, separator, rest = spec.partition("=")
    checkpoint, *parts = rest.split(",")
    pairs = [part.partition("=") for part in parts]
    if not (name and separator) or not all(key and equals and value for key, equals, value in pairs):
        raise typer.BadParameter(f"{spec!r}: expected NAME=CHECKPOINT[,KEY=VALUE...]", param_hint="--against")
    return name, checkpoint, {key: yaml.safe_load(value) for key, _, value in pairs}


def _changed(sampling: SamplingConfig, changes: dict[str, Any], spec: str) -> SamplingConfig:
    from liveact_models.evaluate.contenders import many_steps

    steps = changes.pop("steps", None)
    known = {field.name for field in dataclasses.fields(sampling)}
    unknown = sorted(changes.keys() - known)
    if unknown or not (steps is None or isinstance(steps, int)):
        accepted = ", ".join(("steps", *sorted(known)))
        raise BadInput(f"--against {spec}: {unknown[0] if unknown else f'steps={steps}'}: accepted are {accepted}")
    sampling = dataclasses.replace(sampling, **changes)
    return sampling if steps is None else many_steps(sampling, steps)


def voice_groups(files: Sequence[Path] = ()) -> dict[str, tuple[Speaker, ...]]:
    """Trained voices, any of them, then the held-out ones by engine, then those of files. Raises `BadInput`."""
    from liveact_models.world.voices import voices
    from liveact_models.world.voices.human import RecordedVoice
    from liveact_models.world.voices.piper import PiperVoice

    groups: dict[str, tuple[Speaker, ...]] = {"trained": (None,)}
    for voice in voices("held-out"):
        engine = f"held-out {type(voice).__module__.rpartition('.')[2]}"
        groups[engine] = (*groups.get(engine, ()), voice.name)
    for path in files:
        try:
            own = RecordedVoice(path) if path.is_dir() else PiperVoice(path)
        except (ValueError, KeyError) as error:
            raise BadInput(f"{path}: no voice ({error}); accepted are a folder of clips and a Piper .onnx") from None
        groups[own.name] = (own,)
    return groups
