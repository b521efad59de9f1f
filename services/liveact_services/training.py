"""Training stages on Ray Train: any number of workers, restarted where one dies; or in this process."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from liveact_models.training import MissingExtra, TrainingError
from liveact_models.training.loop import train
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder, Status
from liveact_models.training.stages import open_stage
from liveact_models.training.workers import Workers

OBJECT_STORE_BYTES = 128 * 1024 * 1024
RESTARTS = 3
"""Deaths of workers, one after another without a checkpoint between, that are made good."""
WATCH_S = 0.25
STOP_PATIENCE_S = 600.0
"""How long a stop may take: a step is finished and a checkpoint is written."""

Report = Callable[[Status], None]
Say = Callable[[str], None]
Stop = Callable[[], bool]
_log = logging.getLogger(__name__)


class TrainingUnavailable(RuntimeError):
    """What training needs is not here or died: a package, a GPU, a worker. The message says which."""


class LocalTrainer:
    """Trains in this process, without Ray."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or cpu_threads(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def train(self, recipe: Recipe, run: RunFolder, report: Report, stop: Stop) -> Status:
        """Train one stage to its end, or until `stop()`. Raises as `liveact_models.training.loop.train` does."""
        torch.set_num_threads(self._threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return train(open_stage(recipe, run, device), recipe, run, report=report, stop=stop)


class RayTrainer:
    """Trains with `workers` processes on a Ray of its own, which lives as long as the context.

    Each worker has one GPU where there are GPUs, else `threads` CPU threads; gradients go over NCCL or gloo.
    """

    def __init__(self, workers: int = 1, threads: int | None = None, say: Say = lambda line: None) -> None:
        gpus = torch.cuda.device_count()
        if gpus and workers > gpus:
            raise TrainingUnavailable(f"{workers} workers need a GPU each; here are {gpus}")
        self._workers = workers
        self._gpu = gpus > 0
        self._threads = threads or cpu_threads(workers)
        self._say = say
        self._temp = Path()

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
            import ray.train.torch
        except ImportError as error:
            raise MissingExtra("ray[train]") from error
        # Short: Ray puts sockets below it, whose paths may have 107 bytes.
        self._temp = Path(tempfile.mkdtemp(prefix="liveact-train-"))
        self._say(f"starting Ray with {self._workers} worker{'s' * (self._workers > 1)}")
        try:
            ray.init(
                # Ray counts CPUs for placement only; the controller gets the one too many.
                address="local", num_cpus=self._workers + 1, include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, object_store_memory=OBJECT_STORE_BYTES, _temp_dir=str(self._temp),
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(self._temp, ignore_errors=True)
            raise
        for name in ("ray.train", "ray.tune", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()
        shutil.rmtree(self._temp, ignore_errors=True)

    def train(self, recipe: Recipe, run: RunFolder, report: Report, stop: Stop) -> Status:
        """Train one stage to its end, or until `stop()`; from the newest checkpoint again where a worker dies.

        Raises `TrainingError` or what else the stage raised, and `TrainingUnavailable` where workers keep dying.
        """
        run.claim(recipe)
        reached, restarts = -1, 0
        while True:
            try:
                return self._fit(recipe, run, report, stop)
            except _WorkerDied as death:
                newest = max(run.checkpoints(recipe.name).steps(), default=0)
                restarts = 1 if newest > reached else restarts + 1
                reached = max(reached, newest)
                if restarts > RESTARTS:
                    raise TrainingUnavailable(f"{recipe.name}: workers keep dying ({death})") from death.__cause__
                self._say(f"a worker died ({death}); going on from step {newest}")

    def _fit(self, recipe: Recipe, run: RunFolder, report: Report, stop: Stop) -> Status:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        stop_file = run.path / "status" / f"{recipe.name}.stop"
        stop_file.parent.mkdir(parents=True, exist_ok=True)
        stop_file.unlink(missing_ok=True)
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "recipe": recipe.model_dump(mode="json"), "run": str(run.path), "stop": str(stop_file),
                "threads": self._threads, "path": sys.path,
            },
            torch_config=TorchConfig(backend="nccl" if self._gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=self._workers, use_gpu=self._gpu),
            run_config=RunConfig(name=f"{recipe.name}-{time.time_ns()}", storage_path=str(self._temp / "results")),
        )  # fmt: skip
        fitting = _Fitting(trainer)
        watch = _Watch(recipe.name, run, report, self._say)
        try:
            while not fitting.wait(WATCH_S):
                watch.look()
                if not stop_file.exists() and stop():
                    stop_file.touch()
        finally:
            stop_file.unlink(missing_ok=True)
        watch.look()
        return fitting.status()


class _WorkerDied(Exception):
    """A worker's process ended; what it was doing can be done again."""


class _Fitting(threading.Thread):
    """`trainer.fit()` in a thread: in the main thread Ray would take SIGINT for itself and drop the work."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="fitting", daemon=True)
        self._trainer = trainer
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._trainer.fit()
        except BaseException as error:
            self._error = error

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, `seconds` from now at the latest."""
        self.join(seconds)
        return not self.is_alive()

    def status(self) -> Status:
        from ray.exceptions import RayError
        from ray.train import WorkerGroupError

        if self._error is None:
            return self._result.return_value
        if not isinstance(self._error, WorkerGroupError):
            raise self._error
        failures = [getattr(error, "_base_exc", error) for error in self._error.worker_failures.values()]
        for error in failures:
            if isinstance(error, TrainingError | TrainingUnavailable):
                raise error from None
        # When one of several dies, the others see their connection break, and may say so first.
        deaths = [error for error in failures if isinstance(error, RayError)]
        if deaths or len(failures) > 1:
            raise _WorkerDied(_line((deaths or failures)[0])) from self._error
        raise failures[0] from self._error


class _Watch:
    """What the workers leave in the run folder, passed on: status and log."""

    def __init__(self, stage: str, run: RunFolder, report: Report, say: Say) -> None:
        self._stage, self._run, self._report, self._say = stage, run, report, say
        self._seen = time.time()
        self._read = run.log.stat().st_size if run.log.exists() else 0

    def look(self) -> None:
        if self._run.log.exists():
            with self._run.log.open() as file:
                file.seek(self._read)
                for line in file.read().splitlines():
                    self._say(line)
                self._read = file.tell()
        status = self._run.status(self._stage)
        if status is not None and status.updated > self._seen:
            self._seen = status.updated
            self._report(status)


def _worker(config: dict[str, Any]) -> Any:
    """What each worker runs; the first one's return value, a `Status`, is the result."""
    from ray.train import get_context
    from ray.train.torch import get_device

    # A stage of the user's own is found where the command found it.
    sys.path.extend(entry for entry in config["path"] if entry not in sys.path)
    torch.set_num_threads(config["threads"])
    recipe, run, stop_file = Recipe.model_validate(config["recipe"]), RunFolder(config["run"]), Path(config["stop"])
    device = get_device()
    workers = Workers.current(device)
    if get_context().get_world_rank() == 0:
        logging.getLogger("liveact_models").addHandler(logging.FileHandler(run.log))
    try:
        return train(open_stage(recipe, run, device), recipe, run, workers, stop=stop_file.exists)
    except MissingExtra as error:
        raise TrainingUnavailable(str(error)) from error


def cpu_threads(workers: int) -> int:
    """CPU threads of each worker: the cores this process may use, shared out."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def _line(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0][:120]}" if first else type(error).__name__
