"""A replica's ranks: one in the replica's own process, or several, each in a process and on a device of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liveact_services.denoiser.local_rank import LocalRank
from liveact_services.denoiser.shared_ranks import SharedRanks
from liveact_services.denoiser.step_ranks import StepRanks
from liveact_services.placement.rank_actors import own_placement_group

if TYPE_CHECKING:
    from liveact_services.config import DenoiserConfig
    from liveact_services.denoiser.rank import RankGroup
    from liveact_services.replica import Replica


def start_ranks(replica: Replica, stage: DenoiserConfig) -> RankGroup:
    """What computes for the replica. Raises `ConfigError` where the ranks do not fit the model, `CheckpointError` for weights."""
    config, checkpoint = replica.config, replica.checkpoint
    if stage.ranks == 1:
        sampling = config.sampling(checkpoint.config)
        return LocalRank(checkpoint, sampling, replica.device, stage.engine, offload_blocks=stage.offload_blocks)
    group = StepRanks if stage.parallel == "steps" else SharedRanks
    return group(config, stage, checkpoint.config, own_placement_group())
