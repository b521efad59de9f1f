"""On a CUDA device: the same numbers as on the CPU, as far as the type carries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.engine import Engine
from liveact_models.pipeline import Pipeline
from liveact_models.voice import Voice

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def latents(device: str, precision: str) -> np.ndarray:
    """The latents of three blocks."""
    voice = Voice((0.3 * np.sin(np.arange(16000 * 4) / 20)).astype(np.float32), 16000)
    picture = np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32).reshape(3, 64, 64)
    blocks = Pipeline(open_checkpoint("untrained"), device=device, engine=Engine(precision)).render(picture, voice)
    return np.concatenate([block.latents for block in blocks], axis=1)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("bf16", 5e-2), ("fp8", 0.2)])
def test_a_gpu_makes_the_latents_of_the_cpu(precision: str, bound: float) -> None:
    ours, reference = latents("cuda", precision), latents("cpu", "fp32")
    assert np.linalg.norm(ours - reference) / np.linalg.norm(reference) <= bound


def test_memory_that_sessions_take_is_taken_from_the_room_for_others() -> None:
    from liveact_models.timeline import block_frames
    from liveact_services.conductor.stages import Features
    from liveact_services.denoiser.local_rank import LocalRank
    from liveact_services.denoiser.rank import Conditions
    from stage_fixtures import session_spec

    checkpoint = open_checkpoint("untrained")
    model = checkpoint.config.transformer
    rank = LocalRank(checkpoint, checkpoint.config.sampling, torch.device("cuda"), Engine())
    empty = rank.room()
    _, total = torch.cuda.mem_get_info()
    assert 0 < empty <= total
    spec = session_spec(session="s", width=128, height=128)
    text, clip = np.zeros((5, model.text_dim), np.float32), np.zeros((model.clip_tokens, model.clip_dim), np.float32)
    rank.open(spec, Conditions(text, clip, np.zeros((model.out_dim, 14, 16, 16), np.float32)))
    rows = len(block_frames(0)) + 4
    rank.begin("s", 0, Features(np.zeros((rows, model.audio_blocks, model.audio_channels), np.float32), 0.0), None)
    while rank.advance("s") is None:
        pass
    assert rank._activations > 0
    # The session's own memory is part of what all sessions together may take; what a step needs beside it is not.
    assert rank.room() < empty
    assert rank.memory_of(spec) == 2 * rank._states["s"].memory_bytes
