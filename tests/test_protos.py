"""The public API's contract: lint, comments, stubs that match, and no breaking change against main."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from liveact_services.api_reference import described, reference

ROOT = Path(__file__).parent.parent
PROTOS = ROOT / "protos"
PROTO = "liveact/v1/avatar.proto"
VAULT = "liveact/vault/v1/vault.proto"
ALL = pytest.mark.parametrize("proto", [PROTO, VAULT])
BUF = Path(sys.executable).parent / "buf"


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *arguments], cwd=PROTOS, capture_output=True, text=True, timeout=120, check=False)


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def compile_protos(*arguments: str, root: Path = PROTOS, proto: str = PROTO) -> None:
    wellknown = Path(protoc.__file__).parent / "_proto"
    assert protoc.main(["protoc", f"-I{root}", f"-I{wellknown}", *arguments, str(root / proto)]) == 0


def test_buf_lint_is_clean() -> None:
    result = buf("lint")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "STANDARD" in (PROTOS / "buf.yaml").read_text()


def test_the_proto_is_formatted() -> None:
    result = buf("format", "--diff", "--exit-code")
    assert result.returncode == 0, result.stdout + result.stderr


@ALL
def test_the_stubs_are_what_the_proto_generates(proto: str, tmp_path: Path) -> None:
    compile_protos(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", proto=proto)
    for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
        name = proto.removesuffix(".proto") + ending
        assert (PROTOS / name).read_text() == (tmp_path / name).read_text(), f"{name} is stale: run make protos"


def test_the_reference_is_what_the_proto_generates() -> None:
    generated = reference(described(PROTOS))
    assert (ROOT / "docs" / "api.md").read_text() == generated, "docs/api.md is stale: run make protos"


def test_the_reference_tells_everything_of_the_api() -> None:
    file = described(PROTOS)
    lines = reference(file).splitlines()
    numbered = [line for line in lines if re.match(r"\| \d+ \| `", line)]
    assert len(numbered) == sum(len(of.field) for of in file.message_type) + sum(len(of.value) for of in file.enum_type)
    headed = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert headed == {of.name for of in (*file.message_type, *file.enum_type)}
    methods = [method.name for service in file.service for method in service.method]
    assert [name for name in methods if not any(line.startswith(f"| `{name}` | ") for line in lines)] == []


def test_a_changed_comment_would_make_the_reference_stale(tmp_path: Path) -> None:
    text = (PROTOS / PROTO).read_text()
    changed = text.replace("// The caller's avatars.\n", "// Every avatar of the caller's.\n")
    assert changed != text
    (tmp_path / PROTO).parent.mkdir(parents=True)
    (tmp_path / PROTO).write_text(changed)
    assert reference(described(tmp_path)) != reference(described(PROTOS))


# ---- comments

Path_ = tuple[int, ...]
FILE, MESSAGE, ENUM = (
    descriptor_pb2.FileDescriptorProto,
    descriptor_pb2.DescriptorProto,
    descriptor_pb2.EnumDescriptorProto,
)
SERVICE = descriptor_pb2.ServiceDescriptorProto


def named(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, Path_]]:
    """Every service, method, message, field, oneof, enum and enum value: its name and its path in the source info."""
    for s, service in enumerate(file.service):
        at: Path_ = (FILE.SERVICE_FIELD_NUMBER, s)
        yield service.name, at
        for m, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (*at, SERVICE.METHOD_FIELD_NUMBER, m)
    for m, message in enumerate(file.message_type):
        yield from message_parts(message, (FILE.MESSAGE_TYPE_FIELD_NUMBER, m), "")
    for e, enum in enumerate(file.enum_type):
        yield from enum_parts(enum, (FILE.ENUM_TYPE_FIELD_NUMBER, e), "")


def message_parts(message: descriptor_pb2.DescriptorProto, at: Path_, prefix: str) -> Iterator[tuple[str, Path_]]:
    name = prefix + message.name
    yield name, at
    for f, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*at, MESSAGE.FIELD_FIELD_NUMBER, f)
    # The compiler makes a oneof around an optional field: nobody wrote it, and nobody can comment it.
    made = {field.oneof_index for field in message.field if field.proto3_optional}
    for o, oneof in enumerate(message.oneof_decl):
        if o not in made:
            yield f"{name}.{oneof.name}", (*at, MESSAGE.ONEOF_DECL_FIELD_NUMBER, o)
    for n, nested in enumerate(message.nested_type):
        yield from message_parts(nested, (*at, MESSAGE.NESTED_TYPE_FIELD_NUMBER, n), f"{name}.")
    for e, enum in enumerate(message.enum_type):
        yield from enum_parts(enum, (*at, MESSAGE.ENUM_TYPE_FIELD_NUMBER, e), f"{name}.")


def enum_parts(enum: descriptor_pb2.EnumDescriptorProto, at: Path_, prefix: str) -> Iterator[tuple[str, Path_]]:
    yield prefix + enum.name, at
    for v, value in enumerate(enum.value):
        yield f"{prefix}{enum.name}.{value.name}", (*at, ENUM.VALUE_FIELD_NUMBER, v)


def uncommented(root: Path, tmp_path: Path, proto: str = PROTO) -> list[str]:
    out = tmp_path / "descriptors"
    compile_protos(f"--descriptor_set_out={out}", "--include_source_info", root=root, proto=proto)
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    return [name for name, at in named(file) if not comments.get(at, "").endswith((".", ":"))]


@ALL
def test_everything_in_the_api_is_commented_in_whole_sentences(proto: str, tmp_path: Path) -> None:
    assert uncommented(PROTOS, tmp_path, proto) == []


def test_a_missing_comment_would_be_found(tmp_path: Path) -> None:
    text = (PROTOS / PROTO).read_text()
    for comment in (
        "  // Counts the session's frames from 0.\n",
        "// Stop speaking: voice not yet turned into video is dropped.\n",
    ):
        assert comment in text
        text = text.replace(comment, "\n")
    (tmp_path / PROTO).parent.mkdir(parents=True)
    (tmp_path / PROTO).write_text(text)
    assert uncommented(tmp_path, tmp_path) == ["Interrupt", "VideoFrame.index"]


# ---- breaking changes


def main_branch() -> str | None:
    """The commit to compare with: main as the remote has it, else here; none before the proto was first committed."""
    for branch in ("origin/main", "main"):
        if git("cat-file", "-e", f"{branch}:protos/{PROTO}").returncode == 0:
            return branch
    return None


def test_nothing_breaks_main(tmp_path: Path) -> None:
    branch = main_branch()
    if branch is None:
        pytest.skip(f"no branch main here holds protos/{PROTO}: nothing to compare with")
    (tmp_path / PROTO).parent.mkdir(parents=True)
    (tmp_path / PROTO).write_text(git("show", f"{branch}:protos/{PROTO}").stdout)
    (tmp_path / "buf.yaml").write_text((PROTOS / "buf.yaml").read_text())
    result = buf("breaking", "--against", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_breaking_change_would_be_found(tmp_path: Path) -> None:
    text = (PROTOS / PROTO).read_text()
    changed = re.sub(r"(\bbool key_frame = )3;", r"\g<1>30;", text)
    assert changed != text
    (tmp_path / PROTO).parent.mkdir(parents=True)
    (tmp_path / PROTO).write_text(changed)
    (tmp_path / "buf.yaml").write_text((PROTOS / "buf.yaml").read_text())
    result = buf("breaking", str(tmp_path), "--against", str(PROTOS))
    assert result.returncode != 0
    assert "VideoFrame" in result.stdout
