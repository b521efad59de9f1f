"""Traces: in the client's own where it has one, through real models and a real collector, and nothing where none is wanted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from ray._common.formatters import JSONFormatter
from typer.testing import CliRunner

from liveact_services.cli.exits import ExitCode
from liveact_services.cli.main import app
from liveact_services.conductor.points import Opening, pack_opening, unpack_opening
from liveact_services.config import ConfigError, load_config
from liveact_services.errors import fail
from liveact_services.observability.config import TelemetryConfig
from liveact_services.observability.logs import REMEMBERED, TRACES, AddTraceId, SessionTraces
from liveact_services.observability.spans import blocks_of, read_spans
from liveact_services.observability.tracing import Tracing, sampled
from observability_fixtures import CLIENT
from stage_fixtures import session_spec


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    tracing = Tracing()
    yield tracing
    tracing.stop()


def written(tracing: Tracing, folder: Path) -> list[Any]:
    tracing.stop()
    return read_spans(folder)


# ---- whose trace it is -------------------------------------------------------------------------------------------------------


def test_a_clients_stream_is_part_of_its_trace(tracing: Tracing, tmp_path: Path) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path, sample_ratio=0.0), "Gateway")
    root = tracing.root("StreamAvatar", {"traceparent": CLIENT, "x-other": "1"})
    block = tracing.block(root.trace, 3, session="s")
    denoise = tracing.begin("denoise", block.trace)
    step = tracing.record("step", denoise.trace, 1_000_000_000, 3_000_000_000, step=0)
    for span in (denoise, block, root):
        span.end()
    assert len({trace.split("-")[1] for trace in (CLIENT, root.trace, block.trace, step)}) == 1
    spans = {span.name: span for span in written(tracing, tmp_path)}
    assert spans["StreamAvatar"].parent == "cd" * 8
    assert [child.name for child in spans["StreamAvatar"].children] == ["block"]
    assert [child.name for child in spans["block"].walk()] == ["block", "denoise", "step"]
    assert spans["step"].seconds == pytest.approx(2.0)
    assert spans["block"].attributes == {"block": 3, "session": "s"}
    assert spans["block"].service == "Gateway"


@pytest.mark.parametrize("header", ["", "nonsense", "00-0-0-01", f"00-{'0' * 32}-{'cd' * 8}-01", "ff" * 500])
def test_a_traceparent_that_is_none_begins_a_trace_of_our_own(tracing: Tracing, tmp_path: Path, header: str) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path), "Gateway")
    root = tracing.root("StreamAvatar", {"traceparent": header})
    root.end()
    (span,) = written(tracing, tmp_path)
    assert sampled(root.trace)
    assert span.trace == root.trace.split("-")[1] != "0" * 32
    assert span.parent == ""


def test_a_stream_that_is_not_sampled_has_an_id_and_no_spans(tracing: Tracing, tmp_path: Path) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path, sample_ratio=0.0), "Gateway")
    for metadata in ({}, {"traceparent": CLIENT[:-1] + "0"}):
        root = tracing.root("StreamAvatar", metadata)
        assert not sampled(root.trace)
        assert len(root.trace) == len(CLIENT)
        inner = tracing.block(root.trace, 0)
        assert inner.trace == root.trace, "its calls carry the id on"
        inner.end()
        tracing.record("step", root.trace, 1, 2)
        root.end()
    assert written(tracing, tmp_path) == []


def test_the_ratio_decides_where_clients_do_not(tracing: Tracing, tmp_path: Path) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path, sample_ratio=0.5, follow_clients=False), "Gateway")
    low, high = (f"00-{half}{'ab' * 7}{half}{'ab' * 7}-{'cd' * 8}-01" for half in ("00", "ff"))
    assert [sampled(tracing.root("call", {"traceparent": trace}).trace) for trace in (low, high)] == [True, False]


def test_every_nth_block_is_traced(tracing: Tracing, tmp_path: Path) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path, every_blocks=4), "Gateway")
    root = tracing.root("StreamAvatar", {})
    for block in range(9):
        tracing.block(root.trace, block).end()
    assert [span.attributes["block"] for span in blocks_of(written(tracing, tmp_path))] == [0, 4, 8]


def test_without_configuration_there_is_nothing_but_the_id_for_the_logs(tracing: Tracing) -> None:
    tracing.start(TelemetryConfig(), "Gateway")
    assert tracing.root("call", {}).trace == ""
    assert tracing.root("call", {"traceparent": CLIENT}).trace == CLIENT[:-1] + "0"
    assert tracing.block(CLIENT, 0).trace == CLIENT


def test_an_error_is_told_by_its_kind_and_never_by_its_words(tracing: Tracing, tmp_path: Path) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path), "Gateway")
    with pytest.raises(Exception, match="secret"), tracing.span("admit", CLIENT):
        raise fail("PROMPT_TOO_LONG", "secret prompt")
    tracing.stop()
    (path,) = tmp_path.iterdir()
    assert "ServiceError" in path.read_text()
    assert "secret" not in path.read_text()


def test_a_folder_that_cannot_be_written_costs_the_spans_and_nothing_else(
    tracing: Tracing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    tracing.start(TelemetryConfig(trace_dir=tmp_path / "file" / "traces"), "Gateway")
    assert "sends no spans" in caplog.text
    tracing.root("call", {}).end()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("otlp_endpoint", "collector:4317"),
        ("sample_ratio", 1.5),
        ("every_blocks", 0),
        ("log_format", "xml"),
        ("spans", 1),
    ],
)
def test_a_wrong_setting_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"telemetry.{field}"):
        load_config(telemetry={field: value})


# ---- a collector -------------------------------------------------------------------------------------------------------------


class Collector(collector_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def Export(self, request: Any, context: Any) -> Any:
        for told in request.resource_spans:
            service = next(a.value.string_value for a in told.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in told.scope_spans for span in scope.spans]
        return collector.ExportTraceServiceResponse()


def test_spans_reach_a_collector(tracing: Tracing) -> None:
    server, heard = grpc.server(futures.ThreadPoolExecutor(1)), Collector()
    collector_grpc.add_TraceServiceServicer_to_server(heard, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        tracing.start(TelemetryConfig(otlp_endpoint=f"http://127.0.0.1:{port}"), "Denoiser")
        tracing.record("denoise", CLIENT, 1, 2, block=7)
        tracing.stop()
    finally:
        server.stop(None)
    ((service, span),) = heard.spans
    assert (service, span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (
        "liveact.Denoiser", "denoise", "ab" * 16, "cd" * 8,
    )  # fmt: skip
    assert {a.key: a.value.int_value for a in span.attributes} == {"liveact.block": 7}


# ---- a session's trace -------------------------------------------------------------------------------------------------------


def test_a_sessions_trace_goes_with_it_to_another_server_and_agrees_to_nothing() -> None:
    spec = session_spec(trace=CLIENT)
    assert unpack_opening(pack_opening(Opening(spec))).spec.trace == CLIENT
    assert spec == session_spec(), "who is expected is known by what was agreed"


def test_the_command_shows_one_block_as_a_tree(tracing: Tracing, tmp_path: Path) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path), "Gateway")
    root = tracing.root("StreamAvatar", {"traceparent": CLIENT})
    tracing.record("place", root.trace, 10**18, 10**18 + 10**6, part="denoiser")
    for block in range(2):
        span = tracing.block(root.trace, block, session="s")
        denoise = tracing.record("denoise", span.trace, 10**18, 10**18 + 70 * 10**6)
        for step in range(3 - block):
            tracing.record("step", denoise, 10**18, 10**18 + 20 * 10**6, step=step)
        span.end()
    tracing.stop()
    run = CliRunner()
    shown = run.invoke(app, ["trace", str(tmp_path), "--opening"]).output
    assert "block 0 of session s" in shown, "the fullest"
    assert shown.count("Gateway step") == 3
    assert "70.0 ms" in shown
    assert "place" in shown
    told = json.loads(run.invoke(app, ["trace", str(tmp_path), "--block", "1", "--json"]).stdout.splitlines()[-1])
    assert [child["name"] for child in told["children"]] == ["denoise"]
    assert len(told["children"][0]["children"]) == 2
    for wrong in (["--block", "7"], ["--session", "t"], ["--trace-id", "0"]):
        assert run.invoke(app, ["trace", str(tmp_path), *wrong]).exit_code == ExitCode.BAD_INPUT
    assert run.invoke(app, ["trace", str(tmp_path / "none")]).exit_code == ExitCode.BAD_INPUT


def test_a_line_that_was_cut_off_is_passed_over(tracing: Tracing, tmp_path: Path) -> None:
    tracing.start(TelemetryConfig(trace_dir=tmp_path), "Gateway")
    tracing.record("one", CLIENT, 1, 2)
    tracing.stop()
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text() + path.read_text()[:40])
    assert [span.name for span in read_spans(tmp_path)] == ["one"]


# ---- logs --------------------------------------------------------------------------------------------------------------------


def test_a_json_line_about_a_session_names_its_trace() -> None:
    TRACES.note("session-with-trace", CLIENT)
    lines = []
    for session in ("session-with-trace", "another", None):
        extra = {} if session is None else {"session_id": session}
        record = logging.getLogger("liveact_services.test").makeRecord(
            "n", logging.INFO, "f", 1, "said", (), None, extra=extra
        )
        assert AddTraceId().filter(record)
        lines.append(json.loads(JSONFormatter().format(record)))
    assert (lines[0]["session_id"], lines[0]["trace_id"]) == ("session-with-trace", "ab" * 16)
    assert "trace_id" not in lines[1]
    assert "session_id" not in lines[2]


def test_a_process_remembers_the_traces_of_so_many_sessions() -> None:
    traces = SessionTraces()
    for number in range(REMEMBERED + 1):
        traces.note(str(number), CLIENT)
    traces.note("untraced", "")
    assert traces.trace_id("0") is None
    assert traces.trace_id(str(REMEMBERED)) == "ab" * 16
    assert traces.trace_id("untraced") is None
