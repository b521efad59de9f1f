"""What every model-bearing replica does at start: take its threads, its device and its part of the checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from liveact_models.config import ConfigError, ModelConfig
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import STAGE_SECONDS, STAGE_WAIT_SECONDS
from liveact_services.observability.process import observe_process
from liveact_services.observability.tracing import TRACING, now_ns

if TYPE_CHECKING:
    import torch

    from liveact_models.checkpoint import Checkpoint
    from liveact_services.config import ServiceConfig, StageConfig

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Compute:
    """One thread for the model's arithmetic, so that the replica's event loop keeps answering health checks.

    A single thread is also what makes a replica's calls run one after the other.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._began: float | None = None

    @property
    def busy_s(self) -> float:
        """How long the call has taken that is being computed; 0 when none is."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, function, *args)

    def _timed(self, function: Callable[..., T], *args: Any) -> T:
        self._began = time.monotonic()
        try:
            return function(*args)
        finally:
            self._began = None


class Replica:
    """Base of the deployments that compute: `self.checkpoint`, `self.device`, `self.compute`."""

    def __init__(self, config: ServiceConfig, stage: StageConfig) -> None:
        import torch

        observe_process(config.telemetry, type(self).__name__)
        # Ray derives OMP_NUM_THREADS from the logical num_cpus, which is a fraction here.
        torch.set_num_threads(stage.threads)
        self.started_at = time.time()
        self.config = config
        # Who only coordinates has no device, whatever its ranks have.
        self.device = pick_device("cpu" if stage.coordinates else config.device, stage.num_gpus)
        self.checkpoint: Checkpoint = config.open_checkpoint()
        self.model_config: ModelConfig = self.checkpoint.config
        self.compute = Compute(type(self).__name__)

    def record_replica_metadata(self) -> dict[str, Any]:
        """Read once by the router: the oldest replica is filled first."""
        return {"started_at": self.started_at}

    async def staged(self, stage: str, trace: str, function: Callable[..., T], *args: Any) -> T:
        """What the function gives on the computing thread; its work and its wait are measured, and told in the trace."""
        asked, began, ended = now_ns(), 0, 0

        def work() -> T:
            nonlocal began, ended
            began = now_ns()
            try:
                return function(*args)
            finally:
                ended = now_ns()

        result = await self.compute.run(work)
        work_s = (ended - began) / 1e9
        wait_s = measure_stage(stage, asked, work_s)
        TRACING.record(stage, trace, asked, ended, wait_s=wait_s, work_s=work_s)
        return result

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica that says no. Raises `RuntimeError` when its computing hangs."""
        if (busy := self.compute.busy_s) > self.config.hang_timeout_s:
            limit = self.config.hang_timeout_s
            raise RuntimeError(f"one call has been computing for {busy:.1f} s, at most {limit:g} s are accepted")


def measure_stage(stage: str, asked_ns: int, work_s: float) -> float:
    """Measure a stage's call that has just ended: its work, and what it waited since it was asked for, which is given."""
    wait_s = max(0.0, (now_ns() - asked_ns) / 1e9 - work_s)
    METER.record(STAGE_SECONDS, work_s, stage=stage)
    METER.record(STAGE_WAIT_SECONDS, wait_s, stage=stage)
    return wait_s


def told_remembered(stage: str, trace: str) -> None:
    """Tell in the trace that the stage had nothing to compute."""
    moment = now_ns()
    TRACING.record(stage, trace, moment, moment, remembered=True)


def replica_id() -> str:
    """This replica's unique id, the one a pin names."""
    from ray import serve

    return serve.get_replica_context().replica_id.unique_id


def node_address() -> str:
    """The IP address by which other nodes reach this one."""
    import ray

    return str(ray.util.get_node_ip_address())


def pick_device(wanted: str, num_gpus: float) -> torch.device:
    """The device of that name; "auto" is the GPU where the deployment has one. Raises `ConfigError` when CUDA is not there."""
    import torch

    if wanted == "auto":
        wanted = "cuda" if num_gpus > 0 and torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {wanted!r}: torch {torch.__version__} finds no CUDA device; accepted here is 'cpu'")
    try:
        return torch.device(wanted)
    except RuntimeError:
        raise ConfigError(f"device {wanted!r}: accepted are 'auto', 'cpu', 'cuda' and 'cuda:N'") from None


class Recent(Generic[K, V]):
    """The values of the last few keys, so that a portrait or prompt used by many sessions is computed once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)
