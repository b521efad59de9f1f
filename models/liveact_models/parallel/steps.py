"""A device a diffusion step: while one makes the second step of a block, another makes the first of the block after it.

A step reads what earlier blocks left at the very same step and no other ("Neighbor Forcing and the KV cache" in model-facts), so
as soon as a step of a block is done that step of the next block can begin. What comes out is what one device makes step after
step, bit for bit. A block takes as long as ever, and a finished one comes every slowest step. Each device holds the whole model
and the caches of its step.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue

import torch
from torch import Tensor

from liveact_models.config import ConfigError, SamplingConfig
from liveact_models.denoiser import BlockDenoiser
from liveact_models.session import SessionState


@dataclass
class _Work:
    """A block on its way through the steps."""

    session: SessionState
    """As it was when the block began, but for its memory, which goes from block to block within a step."""
    audio: Tensor
    latent: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What the session remembers after this block, of the steps that are done."""
    error: BaseException | None = None


class StepPipeline:
    """Denoises the blocks of one session at a time, several under way at once."""

    def __init__(self, denoisers: Sequence[BlockDenoiser]) -> None:
        """One of the same weights a step; several may be one and the same. Raises `ConfigError` as `require_steps` does."""
        self.denoisers = tuple(denoisers)
        self.require_steps(self.denoisers[0].sampling)

    def denoise(self, session: SessionState, audio: Iterable[Tensor]) -> Iterator[Tensor]:
        """The latents [16, 6 or 8, height / 8, width / 8] of the session's next blocks, one for each of `audio`, in order.

        The session stands behind a block when that block's latents are given, its memory on the steps' devices. `audio` is asked
        for a few blocks ahead, in the caller's thread, and a prompt that is changed meanwhile is that of blocks asked for after.
        Who stops early, or meets an error, finds the session behind the last block that was given.

        Args:
            audio: features of each block's video frames, as `BlockDenoiser.steps` takes them.

        Raises:
            ConfigError: a session that is not denoised in as many steps, or whose steps share one cache.
            ValueError: a session or features that do not fit; the message says what does.
        """
        self.denoisers[0].check_fit(session)
        self.require_steps(session.sampling)
        queues: list[SimpleQueue[_Work | None]] = [SimpleQueue() for _ in range(len(self.denoisers) + 1)]
        given_up = threading.Event()
        threads = [
            threading.Thread(
                target=_Step(number, denoiser, session, torch.get_num_threads()).run,
                args=(queues[number], queues[number + 1], given_up), name=f"step {number}", daemon=True,
            )
            for number, denoiser in enumerate(self.denoisers)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            yield from self._through(session, iter(audio), queues[0], queues[-1])
        finally:
            given_up.set()
            queues[0].put(None)
            for thread in threads:
                thread.join()

    def _through(
        self,
        session: SessionState,
        audio: Iterator[Tensor],
        first: SimpleQueue[_Work | None],
        last: SimpleQueue[_Work | None],
    ) -> Iterator[Tensor]:
        """Keep the steps busy: one block more than there are steps is under way, so that none waits for the caller."""
        under_way, blocks = 0, count(session.block)
        while True:
            while under_way <= len(self.denoisers) and (features := next(audio, None)) is not None:
                block = next(blocks)
                self.denoisers[0].check_audio(block, features)
                first.put(_Work(dataclasses.replace(session, block=block, memory={}, conditioning=None), features))
                under_way += 1
            if not under_way:
                return
            work = last.get()
            assert work is not None
            if work.error is not None:
                raise work.error
            assert work.latent is not None
            under_way -= 1
            session.memory, session.block = work.memory, work.session.block + 1
            yield work.latent

    def require_steps(self, sampling: SamplingConfig) -> None:
        """Raises `ConfigError` for a sampling of another number of steps, or whose steps share one cache."""
        steps = len(self.denoisers)
        if sampling.num_steps != steps:
            raise ConfigError(f"{steps} step devices for {sampling.num_steps} diffusion steps: accepted is one a step")
        if sampling.context == "clean":
            raise ConfigError(
                "context 'clean' is one cache for all steps: accepted with a device a step is 'same-step'"
            )


class _Step:
    """One step of block after block, in a thread of its own."""

    def __init__(self, number: int, denoiser: BlockDenoiser, session: SessionState, threads: int) -> None:
        self._number, self._denoiser, self._threads = number, denoiser, threads
        self._session = session.at_step(number).to(denoiser.transformer.device)
        self._text = session.text
        """The session's own, which the one here is a copy of."""

    def run(
        self, inbox: SimpleQueue[_Work | None], outbox: SimpleQueue[_Work | None], given_up: threading.Event
    ) -> None:
        # A thread starts with the library's own number, and a sum's last bit depends on it.
        torch.set_num_threads(self._threads)
        device = self._denoiser.transformer.device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        while (work := inbox.get()) is not None and not given_up.is_set():
            if work.error is None:
                try:
                    self._advance(work, device)
                except BaseException as error:
                    work.error = error
            outbox.put(work)
        outbox.put(None)

    def _advance(self, work: _Work, device: torch.device) -> None:
        session = self._session
        if work.session.text is not self._text:
            self._text = work.session.text
            self._denoiser.set_prompt(session, self._text, work.session.prompt_version)
        session.block = work.session.block
        latent = None if work.latent is None else work.latent.to(device)
        work.latent, session.memory = self._denoiser.step(session, self._number, work.audio.to(device), latent)
        work.memory |= session.memory
