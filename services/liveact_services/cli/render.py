"""`liveact render`: the bare pipeline in this process, without a service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options, sealing
from liveact_services.cli.output import Output, frame_progress, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from liveact.v1 import avatar_pb2 as pb2
    from liveact_models.engine import Engine
    from liveact_models.pipeline import Block, Pipeline
    from liveact_services.client import Mp4Recorder
    from liveact_services.config import ServiceConfig


def render(
    image: options.Image,
    voice: Annotated[Path, typer.Argument(metavar="VOICE", help="A sound file.")],
    out: Annotated[Path, typer.Option(help="The MP4 to write.")] = Path("out/render.mp4"),
    size: options.Size = None,
    fps: Annotated[int, typer.Option(min=0, max=30, help="Frames a second; 0: the preset's default.")] = 0,
    prompt: options.Prompt = "",
    seed: options.Seed = 0,
    threads: options.Threads = 2,
    step_devices: Annotated[
        str, typer.Option(metavar="DEVICES", help="A device a diffusion step, all busy at once: cuda:0,cuda:1,cuda:2.")
    ] = "",
    visible_watermark: options.VisibleWatermark = False,
    invisible_watermark: options.InvisibleWatermark = False,
    c2pa_cert: sealing.Cert = None,
    c2pa_key: sealing.Key = None,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Render IMAGE and VOICE in this process: the model alone, as fast as it goes."""
    width, height = options.parse_size(size)
    portrait = options.read_image(image)
    chosen = options.effective_config(config, settings, preset=preset, checkpoint=checkpoint)
    from liveact_models.config import DEFAULT_PROMPT
    from liveact_services.client import Mp4Recorder, read_voice
    from liveact_services.watermark.marks import Marks

    seal = sealing.seal(c2pa_cert, c2pa_key, str(out), portrait, chosen.checkpoint)
    sound = read_voice(voice)
    note(f"loading {chosen.preset}, checkpoint {chosen.checkpoint}")
    pipeline = load_pipeline(chosen, threads, [name.strip() for name in step_devices.split(",") if name.strip()])
    fps = fps or pipeline.config.fps
    started = time.perf_counter()
    blocks = pipeline.render(
        portrait,
        sound.heard(),
        width=width or None,
        height=height or None,
        fps=fps,
        seed=seed,
        prompt=prompt or DEFAULT_PROMPT,
    )
    trust, frames, work_s, first_block_s = chosen.trust, 0, 0.0, None
    label = trust.label if visible_watermark or trust.visible_watermark else ""
    marked = invisible_watermark or trust.invisible_watermark
    mark = _render_id(portrait, voice.read_bytes(), seed) if marked else ""
    with Mp4Recorder(out, seal) as recorder, frame_progress("rendering") as bar:
        task = bar.add_task("", total=sound.seconds, frames=0)
        for block in blocks:
            if first_block_s is None:
                first_block_s = time.perf_counter() - started
                recorder.open(_session(block, fps, sound.rate))
                marks = Marks(block.frames.shape[2], block.frames.shape[1], label, trust.corner, mark)
            _record(recorder, block, marks.on(block.frames), frames, fps)
            frames, work_s = frames + len(block.frames), work_s + block.times.total_s
            bar.update(task, completed=frames / fps, frames=frames)
    video_s, wall_s = frames / fps, time.perf_counter() - started
    output = Output(json)
    output.show(
        f"{frames} frames, {video_s:.2f} s of video from {sound.seconds:.2f} s of voice, in {wall_s:.2f} s: "
        f"{work_s / video_s:.3f} s of model work per second of video",
        f"written to {out}",
    )
    if mark:
        output.show(f"The pictures carry the id {mark[:8]}.")
    if not pipeline.checkpoint.trained:
        output.show("The weights are untrained, so the picture is noise.")
    output.result(
        {
            "out": str(out), "watermark": mark[:8], "checkpoint": chosen.checkpoint, "frames": frames, "video_s": video_s,
            "voice_s": sound.seconds, "wall_s": round(wall_s, 3), "first_block_s": round(first_block_s or 0.0, 3),
            "realtime_factor": round(work_s / video_s, 4), "frames_per_second": round(frames / work_s, 2),
        }
    )  # fmt: skip


def load_pipeline(
    config: ServiceConfig, threads: int, step_devices: Sequence[str] = (), engine: Engine | None = None
) -> Pipeline:
    """The bare model that a service of this configuration would serve, in this process; `engine`: in place of its own."""
    import torch

    from liveact_models.pipeline import Pipeline
    from liveact_services.replica import pick_device

    torch.set_num_threads(threads)
    checkpoint = config.open_checkpoint()
    devices = [pick_device(name, 1) for name in step_devices]
    device = devices[0] if devices else pick_device(config.device, torch.cuda.device_count())
    sampling = config.sampling(checkpoint.config)
    return Pipeline(
        checkpoint, sampling=sampling, device=device, engine=engine or config.denoiser.engine,
        decoder=config.vae_decoder.engine, step_devices=devices,
    )  # fmt: skip


def _session(block: Block, fps: int, rate: int) -> pb2.Session:
    """What the recorder has to know."""
    from liveact.v1 import avatar_pb2 as pb2

    _, height, width, _ = block.frames.shape
    return pb2.Session(
        width=width, height=height, fps=fps, codec=pb2.VIDEO_CODEC_RGB,
        audio_format=pb2.AudioFormat(sample_rate_hz=rate, channels=1),
    )  # fmt: skip


def _render_id(portrait: bytes, voice: bytes, seed: int) -> str:
    """In place of a session's id: the same inputs have the same."""
    import hashlib

    return hashlib.sha256(portrait + voice + str(seed).encode()).hexdigest()[:16]


def _record(recorder: Mp4Recorder, block: Block, pictures: np.ndarray, first: int, fps: int) -> None:
    """The block's frames as they are to be shown, of which `first` is the number of the first, and their sound."""
    import numpy as np

    from liveact.v1 import avatar_pb2 as pb2

    pts_us = [round(index * 1e6 / fps) for index in range(first, first + len(pictures))]
    pcm = np.clip(np.rint(block.sound * 32768.0), -32768, 32767).astype("<i2").tobytes()
    recorder.audio(pb2.AudioSpan(pts_us=pts_us[0], data=pcm, block=block.index))
    for offset, pixels in enumerate(pictures):
        frame = pb2.VideoFrame(
            index=first + offset,
            pts_us=pts_us[offset],
            key_frame=True,
            codec=pb2.VIDEO_CODEC_RGB,
            data=pixels.tobytes(),
        )
        recorder.video(pb2.VideoChunk(frames=[frame], block=block.index))
