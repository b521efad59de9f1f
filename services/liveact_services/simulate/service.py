"""How the simulated service behaves, and what it has of each session."""

from __future__ import annotations

from dataclasses import dataclass, field

from liveact_services.conductor.stages import SessionSpec
from liveact_services.denoiser.simulation import Device
from liveact_services.placement.pins import ASK_AGAIN_S


@dataclass(frozen=True)
class Service:
    """How the simulated service behaves; seconds."""

    max_sessions: int = 8
    max_utilisation: float = 0.85
    """As `sessions` of the configuration has them."""
    device: Device = field(default_factory=lambda: Device(pixel_s=0.21 * 1.6 / (512 * 512)))
    """Of a replica: 512x512 at 20 frames a second takes 0.21 of its time, so four such sessions fit."""
    tick_s: float = 10.0
    """How often the policy hears of the fleet: Serve's replicas report that often."""
    hear_s: float = 2.0
    """How often routers hear of a replica."""
    retry_s: float = ASK_AGAIN_S
    """After which who found no room asks again where no time was told."""
    patience_s: float = 60.0
    """How long a client waits. Told a time within it, it comes back then; told a later one, it asks again as if told none."""
    block_s: float = 1.6
    """A session moves at a block's end, and `transfer_s` later it is there."""
    transfer_s: float = 0.3
    gathers: bool = True
    """Whether replicas make room for sessions that find none; `sessions.make_room`."""
    moves: bool = True
    """Whether surplus replicas are drained by moving their sessions; otherwise they wait for them to end."""


@dataclass(slots=True)
class Session:
    """One session of the workload."""

    spec: SessionSpec
    need: float
    """Share of a replica's time that its blocks take on average."""
    tenant: int
    asked_s: float
    last_s: float
    """How much of it is still to come once it is placed."""
    ends_s: float = 0.0
    replica: int = -1
    """Where it is; -1 while it waits."""
    began_s: float = -1.0
    """When it was first placed."""
    told_s: float = -1.0
    """How long it was told to wait, while it does just that; else negative."""

    @property
    def name(self) -> str:
        """Of the workload's, by number."""
        return self.spec.session
