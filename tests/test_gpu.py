"""On a CUDA device: the same numbers as on the CPU, as far as the type carries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.pipeline import Pipeline
from liveact_models.voice import Voice

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def latents(device: str, dtype: torch.dtype) -> np.ndarray:
    """The latents of three blocks."""
    voice = Voice((0.3 * np.sin(np.arange(16000 * 4) / 20)).astype(np.float32), 16000)
    picture = np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32).reshape(3, 64, 64)
    blocks = Pipeline(open_checkpoint("untrained"), device=device, dtype=dtype).render(picture, voice)
    return np.concatenate([block.latents for block in blocks], axis=1)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 5e-2)])
def test_a_gpu_makes_the_latents_of_the_cpu(dtype: torch.dtype, bound: float) -> None:
    ours, reference = latents("cuda", dtype), latents("cpu", torch.float32)
    assert np.linalg.norm(ours - reference) / np.linalg.norm(reference) <= bound
