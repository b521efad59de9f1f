"""One transformer on several ranks, a device each: tokens are shared out for what treats them alike, heads for attention.

Applied to the model from outside; whatever the number of ranks, it is one function (model-facts, "Two GPUs"). Or a device a
diffusion step, each with the whole model: what one session's blocks take one after the other is then done on all at once.
"""

from liveact_models.parallel.group import Peers, host_store, join_group
from liveact_models.parallel.steps import StepPipeline
from liveact_models.parallel.ulysses import EXACT, heads_of, share
from liveact_models.parallel.wire import WIRES, ExactWire, Fp8Wire, Wire

__all__ = [
    "EXACT",
    "WIRES",
    "ExactWire",
    "Fp8Wire",
    "Peers",
    "StepPipeline",
    "Wire",
    "heads_of",
    "host_store",
    "join_group",
    "share",
]
