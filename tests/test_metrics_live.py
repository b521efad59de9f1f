"""A live service as those who watch it see it: its metrics in a real Prometheus, a block's trace, its logs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Service, pcm16, serving
from failover_fixtures import kill, pids, record
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.config import load_config
from liveact_services.errors import ClientError
from liveact_services.observability.metrics import METRICS
from liveact_services.observability.spans import blocks_of, read_spans
from metrics_fixtures import WITH_PROMETHEUS, Prometheus, endpoint, log_lines, prometheus, scraped, until_scraped
from observability_fixtures import dashboards, rule_queries
from test_service import Heard, say, session, speech

TRACE = "4b" * 16
SECRET_PROMPT, SECRET_KEY = "A whispered-secret-prompt person speaks.", "lak_whispered-secret-key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def watched(folder: Path) -> Iterator[Service]:
    """A service that tells all it can."""
    config = load_config(
        port=0, http_port=0, data_dir=folder / "service", checkpoint="untrained",
        denoiser={"replicas": 2}, vae_decoder={"replicas": 2}, sessions={"max_sessions": 4, "max_utilisation": 1000},
        telemetry={"trace_dir": str(folder / "traces"), "log_format": "json"},
    )  # fmt: skip
    with serving(config) as service:
        yield service


@pytest.fixture(scope="module")
def watcher(folder: Path, watched: Service) -> Iterator[Prometheus]:
    with prometheus(folder, endpoint()) as running:
        yield running


@WITH_PROMETHEUS
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_metric_is_told_and_every_query_has_an_answer(
    watched: Service, watcher: Prometheus, portrait: bytes, folder: Path
) -> None:
    traced = (("traceparent", f"00-{TRACE}-{'2c' * 8}-01"),)
    async with AvatarClient(watched.address, metadata=traced, token=SECRET_KEY) as client:
        await a_refusal(client)
        await asyncio.gather(
            a_call_that_stalls_and_is_resumed(client, portrait),
            a_call_that_loses_its_decoder(client, watched, portrait),
        )
    await until_scraped(*(metric.series[-1] for metric in METRICS))
    unanswered = [*dashboards(), *rule_queries()]
    async with asyncio.timeout(150):
        while unanswered := [query for query in unanswered if not await answered(watcher, query.plain())]:
            names = sorted({query.where for query in unanswered})
            print(f"not yet: {names}")
            await asyncio.sleep(5)
    the_trace_of_one_block_has_every_stage(folder / "traces")
    await asyncio.to_thread(every_line_about_a_session_is_json_and_holds_no_secret)
    (folder / "metrics.txt").write_text(await asyncio.to_thread(scraped))


async def answered(watcher: Prometheus, expr: str) -> bool:
    """Whether the expression has a value, or all that an alert compares has: while all is well an alert has none itself."""
    compared = [re.sub(r"^absent\((.*)\)$", r"\1", clause.split(" > ")[0]) for clause in expr.split(" and ")]
    return all([await asyncio.to_thread(watcher.query, one) for one in compared])


async def a_refusal(client: AvatarClient) -> None:
    with pytest.raises(ClientError) as refused:
        async with client.stream(session(b"no picture", prompt=SECRET_PROMPT), resume=False) as stream:
            await stream.ready()
    assert refused.value.reason == "IMAGE_FORMAT_UNSUPPORTED"


async def a_call_that_stalls_and_is_resumed(client: AvatarClient, portrait: bytes) -> None:
    """At speaking pace: the voice runs dry once, the Denoisers stand still for a while, and the stream breaks."""
    config = session(portrait, prompt=SECRET_PROMPT, pacing=pb.PACING_REALTIME, codec=pb.VIDEO_CODEC_JPEG)
    async with client.stream(config, resume=False, auto_ack=False) as stream:
        token, heard = stream.session.resume_token, Heard()
        await stream.ready()
        await stream.send_audio(pcm16(speech(2.5)), "a")
        async for message in stream:
            heard.take(message)
            if "UNDERRUN" in heard.kinds():
                break
    async with client.resume(token, len(heard.frames)) as stream:
        await stream.send_audio(pcm16(speech(8.0)), "a")
        await stream.end_utterance("a")
        stood_still = False
        async for message in stream:
            heard.take(message)
            if not stood_still and len(heard.frames) > 140:
                stood_still = True
                await stand_still(5.0)
            if len(heard.frames) > 340:
                await stream.close()
                break
        async for message in stream:
            heard.take(message)
    assert [frame.index for frame in heard.frames] == list(range(len(heard.frames)))


async def stand_still(seconds: float) -> None:
    stopped = list(pids("Denoiser").values())
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


async def a_call_that_loses_its_decoder(client: AvatarClient, watched: Service, portrait: bytes) -> None:
    heard, killed = Heard(), False
    config = session(portrait, pacing=pb.PACING_REALTIME, codec=pb.VIDEO_CODEC_JPEG, prompt=SECRET_PROMPT)
    async with client.stream(config) as stream:
        await stream.ready()
        await say(stream, speech(16.0))
        await stream.close()
        async for message in stream:
            heard.take(message)
            if not killed and len(heard.frames) > 160:
                killed = True
                kill("VaeDecoder", (await record(watched, stream.session.name)).decoder)
    assert "MIGRATED" in heard.kinds()


def the_trace_of_one_block_has_every_stage(traces: Path) -> None:
    blocks = blocks_of(read_spans(traces), trace=TRACE)
    fullest = max(blocks, key=lambda block: len(list(block.walk())))
    found = {(span.service, span.name) for span in fullest.walk()}
    assert found >= {
        ("Gateway", "block"), ("AudioEncoder", "audio"), ("Denoiser", "denoise"), ("Denoiser", "step"),
        ("VaeDecoder", "decode"), ("VaeDecoder", "vae"), ("VaeDecoder", "media"), ("Denoiser", "export"),
        ("VaeDecoder", "export"), ("Vault", "keep"),
    }  # fmt: skip
    for span in fullest.walk():
        for child in span.children:
            assert child.began_s >= span.began_s - 0.001, f"{child.name} began before {span.name}"
    once = {(span.service, span.name) for span in read_spans(traces) if span.trace == TRACE}
    assert once >= {
        ("Conditioner", "text"),
        ("Conditioner", "image"),
        ("VaeEncoder", "reference"),
        ("Gateway", "StreamAvatar"),
    }


def every_line_about_a_session_is_json_and_holds_no_secret() -> None:
    lines = log_lines()
    # What begins otherwise is Serve's copy on a process's stderr, which is text whatever is configured.
    told = [json.loads(line) for line in lines if "session ready after" in line and line.startswith("{")]
    assert told
    assert {line["trace_id"] for line in told} == {TRACE}
    assert all(len(line["session_id"]) == 16 and line["deployment"] == "liveact_Gateway" for line in told)
    assert [line for line in lines if "whispered-secret" in line] == []
