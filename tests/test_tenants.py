"""Tenants as the directory describes them: keys, wrong files, reloading, and who is let in by what."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from liveact_models.config import ConfigError
from liveact_services.config import load_config
from liveact_services.errors import ServiceError
from liveact_services.tenants import DEFAULT_TENANT, UNLIMITED, Access, Caller, DirectoryError, Quotas, Tenant
from liveact_services.tenants.access import credential_in
from liveact_services.tenants.api_key import ApiKey, key_hash, key_id, key_matches, new_api_key
from liveact_services.tenants.source import DirectorySource
from liveact_services.tenants.watch import DirectoryWatch
from tenant_fixtures import Tenants

pytest_plugins = ["tenant_fixtures"]


def watch(place: Path | str, pools: tuple[str, ...] = ()) -> DirectoryWatch:
    return DirectoryWatch(DirectorySource(str(place)), pools)


def bearer(credential: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {credential}")]


async def refused(access: Access, credential: str) -> str:
    with pytest.raises(ServiceError) as caught:
        await access.caller(bearer(credential))
    assert credential not in str(caught.value)
    return caught.value.reason


# ---- keys


def test_a_key_holds_256_random_bits_and_is_kept_as_a_hash() -> None:
    made = [new_api_key() for _ in range(50)]
    assert len({key.text for key in made}) == 50
    for key in made:
        head, found, secret = key.text.split("_", 2)
        assert (head, found, len(secret)) == ("la", key.stored.id, 43)
        assert key.stored.sha256 == hashlib.sha256(key.text.encode()).hexdigest()
        assert secret not in key.stored.yaml()
        assert key_id(key.text) == key.stored.id


@given(st.text(max_size=80))
def test_what_is_no_key_has_no_id_and_matches_nothing(text: str) -> None:
    assert key_id(text) is None
    assert not key_matches(text, new_api_key().stored)
    assert not key_matches(text, None)


def test_a_key_matches_itself_only() -> None:
    first, second = new_api_key(), new_api_key()
    assert key_matches(first.text, first.stored)
    assert not key_matches(first.text, second.stored)
    assert not key_matches(first.text[:-1] + "!", first.stored)
    assert key_hash("\ud800") == key_hash("?")


def test_a_key_expires_at_its_time() -> None:
    at = datetime(2027, 1, 31, tzinfo=UTC)
    key = ApiKey(id="0" * 12, sha256="0" * 64, expires=at)
    assert not key.expired(at.timestamp() - 1)
    assert key.expired(at.timestamp())
    assert ApiKey(id="0" * 12, sha256="0" * 64, expires="2027-01-31T00:00:00+00:00") == key  # type: ignore[arg-type]


# ---- values


def test_a_tenant_is_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        DEFAULT_TENANT.weight = 2  # type: ignore[misc]
    for wrong in ({"weight": "2"}, {"weight": 0}, {"id": "A B"}, {"pool": ""}, {"colour": "red"}, {"disabled": 1}):
        with pytest.raises(ValidationError):
            Tenant(**{"id": "acme", **wrong})  # type: ignore[arg-type]


def test_quotas_are_unlimited_until_said() -> None:
    assert set(UNLIMITED.model_dump().values()) == {None}
    assert Quotas(requests_per_second=0.5).request_burst == 1
    assert Quotas(requests_per_second=7).request_burst == 7
    assert Quotas(requests_per_second=7, burst=20).request_burst == 20


# ---- the directory


WRONG = {
    "tenants: {}": "tenants: Input should be a valid list",
    "- a": "expected a table of tenants and issuers, found list",
    "": "expected a table of tenants and issuers, found NoneType",
    "tenants: []": "at least one is needed",
    "tenants: [{id: a}, {id: a}]": r"tenants.1.id: tenant 'a' is there already",
    "tenants: [{id: A}]": r"tenants.0.id: String should match",
    "tenants: [{name: a}]": r"tenants.0.id: Field required",
    "tenants: [{id: a, wieght: 2}]": r"tenants.0.wieght: unknown; accepted are id, name, quotas, weight, pool, portraits",
    "tenants: [{id: a, quotas: {session: 2}}]": r"quotas.session: unknown; accepted are sessions, streams, width",
    "tenants: [{id: a, quotas: {sessions: -1}}]": r"tenants.0.quotas.sessions: Input should be greater than or equal to 0",
    "tenants: [{id: a, quotas: {sessions: '2'}}]": r"tenants.0.quotas.sessions: Input should be a valid integer",
    "tenants: [{id: a, weight: .inf}]": r"tenants.0.weight: Input should be less than or equal to 1000",
    "tenants: [{id: a, pool: gold}]": r"tenants.0.pool: 'gold' is not configured; accepted are default, silver",
    "tenants: [{id: a, keys: [{id: x}]}]": r"tenants.0.keys.0.id: String should match",
    "tenants: [{id: a, keys: [{id: '0123456789ab', sha256: la_x}]}]": r"tenants.0.keys.0.sha256: String should match",
    "tenants: [{id: a, keys: [{id: '0123456789ab', sha256: H, expires: 2027-01-01}]}]": r"expires: expected a time with its",
    "tenants: [{id: a, keys: [{id: '0123456789ab', sha256: H, expires: soon}]}]": r"keys.0.expires: expected a time",
    "tenants: [{id: a, keys: [{id: '0123456789ab', sha256: H}, {id: '0123456789ab', sha256: H}]}]": r"keys.1.id: key 01234",
    "tenants: [\n{id: a},\n]\nb: [": r"tenants.yaml: line \d: not YAML",
    "tenants: [{id: a, keys: [{expires: 2027-13-01T00:00:00Z}]}]": r"tenants.yaml: not YAML \(month must be in 1..12\)",
    "tenants: [{id: a}]\n1: 2": r"a field's name is no text",
    "tenants: [{id: a}]\nissuers: [{}]": r"issuers.0.issuer: Field required",
}
ISSUER = "{issuer: i, audience: a, algorithms: [RS256], jwks: keys.json}"
WRONG |= {
    f"tenants: [{{id: a}}]\nissuers: [{ISSUER.replace(*change)}]": told
    for change, told in {
        ("RS256", "HS256"): r"issuers.0.algorithms.0: Input should be 'RS256', .*'EdDSA'",
        ("RS256", "none"): r"issuers.0.algorithms.0: Input should be 'RS256'",
        ("[RS256]", "[]"): r"issuers.0.algorithms: List should have at least 1",
        ("keys.json", "http://example.com/k"): r"issuers.0.jwks: expected a path or an https:// URL",
        ("keys.json", "https://me:secret@example.com/k"): r"issuers.0.jwks: expected a URL without user and password",
        ("keys.json", "file:///k"): r"issuers.0.jwks: expected a path or an https:// URL",
        ("i,", "i, leeway_s: 4000,"): r"issuers.0.leeway_s: Input should be less",
    }.items()
}
WRONG[f"tenants: [{{id: a}}]\nissuers: [{ISSUER}, {ISSUER}]"] = r"issuers.1.issuer: 'i' is there already"


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_naming_the_place_and_what_is_accepted(tenants: Tenants, text: str) -> None:
    tenants.path.write_text(text.replace("sha256: H", f"sha256: {'f' * 64}"))
    with pytest.raises(DirectoryError, match=WRONG[text]) as caught:
        watch(tenants.path, ("silver",))
    assert str(tenants.path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "tenants: [{id: a, keys: [{id: '0123456789ab', sha256: %s}]}]",
        "tenants: [{id: a, keys: [{%s: x}]}]",
        "tenants: [{id: a, keys: [%s]}]",
        "tenants: [{id: a, keys: [{id: '0123456789ab' sha256: %s}]}]",
        "tenants:\n  - id: a\n  keys: [\n  %s: : [",
        "%s",
    ],
)
def test_a_key_pasted_in_the_wrong_place_is_not_repeated(tenants: Tenants, text: str) -> None:
    key = new_api_key().text
    tenants.path.write_text(text % key)
    with pytest.raises(DirectoryError) as caught:
        watch(tenants.path)
    assert key[16:] not in str(caught.value)


def test_a_pool_is_one_that_is_configured(tenants: Tenants) -> None:
    tenants.add("acme", pool="gold", weight=2.5)
    config = load_config(tenants=str(tenants.write()), pools={"gold": {"replicas": 3}})
    directory = config.open_tenants()
    assert directory is not None
    assert directory.current.tenants["acme"].pool == "gold"
    with pytest.raises(ConfigError, match=r"pools: .*is `denoiser`"):
        load_config(pools={"default": {}})
    with pytest.raises(ConfigError, match=r"pools"):
        load_config(pools={"No Name": {}})
    with pytest.raises(ConfigError, match=r"tenants.0.pool: 'gold' is not configured; accepted are default$"):
        load_config(tenants=str(tenants.path)).open_tenants()
    assert load_config().open_tenants() is None


def test_a_relative_place_is_relative_to_who_starts_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(tenants="tenants.yaml").tenants == str(tmp_path / "tenants.yaml")
    assert load_config(tenants="env:WHO").tenants == "env:WHO"


# ---- where it comes from


def test_an_environment_variable_holds_a_directory() -> None:
    source = DirectorySource("env:WHO", {"WHO": "tenants: [{id: acme}]"})
    assert list(DirectoryWatch(source).current.tenants) == ["acme"]
    with pytest.raises(DirectoryError, match=r"env:OTHER: the environment variable 'OTHER' is not set"):
        DirectoryWatch(DirectorySource("env:OTHER", {}))


def test_a_folders_files_make_up_one_directory(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("tenants: [{id: second}]")
    (tmp_path / "a.yaml").write_text("tenants: [{id: first}]\n")
    (tmp_path / "notes.txt").write_text("not: [yaml")
    (tmp_path / ".a.yaml").write_text("not: [yaml")
    assert list(watch(tmp_path).current.tenants) == ["first", "second"]
    (tmp_path / "c.yaml").write_text("tenants: [{id: first}]\n")
    with pytest.raises(DirectoryError, match=r"c.yaml: tenants.0.id: tenant 'first' is there already"):
        watch(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match=r"none.yaml: cannot be read \(No such file"):
        watch(tmp_path / "none.yaml")
    with pytest.raises(DirectoryError, match=r"holds no file; accepted are names that end in .yaml or .yml"):
        watch(tmp_path)
    (tmp_path / "t.yaml").write_bytes(b"\xff")
    with pytest.raises(DirectoryError, match="not UTF-8"):
        watch(tmp_path)


# ---- reloading


def test_a_new_version_is_taken_over_and_the_same_is_not_read_again(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants.add("acme")
    directory = watch(tenants.write())
    assert not directory.poll()
    tenants.add("globex")
    tenants.write()
    assert directory.poll()
    assert set(directory.current.tenants) == {"acme", "globex"}
    monkeypatch.setattr(DirectorySource, "read", lambda self: pytest.fail("it was read again"))
    assert not directory.poll()


def test_a_wrong_version_is_refused_once_in_the_log_and_the_old_one_stays(
    tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    tenants.add("acme")
    directory = watch(tenants.write())
    before = directory.current
    for damage in ("tenants: [{id: A}]", "tenants: []"):
        caplog.clear()
        tenants.path.write_text(damage)
        assert [directory.poll() for _ in range(3)] == [False] * 3
        assert directory.current is before
        (entry,) = caplog.records
        assert entry.levelno == logging.ERROR
        assert "the one before stays in force" in entry.message
        assert "tenants" in entry.message
    tenants.path.unlink()
    assert not directory.poll()
    tenants.add("globex")
    tenants.write()
    assert directory.poll()
    assert set(directory.current.tenants) == {"acme", "globex"}


def test_a_mounted_secret_changes_by_a_symlink(tmp_path: Path) -> None:
    """As the kubelet does it: files are links into ..data, a link to the version's folder that is exchanged at once."""

    def mount(version: str, text: str) -> None:
        (tmp_path / version).mkdir()
        (tmp_path / version / "tenants.yaml").write_text(text)
        (tmp_path / "..new").symlink_to(version)
        os.replace(tmp_path / "..new", tmp_path / "..data")

    mount("..2026_1", "tenants: [{id: acme}]")
    (tmp_path / "tenants.yaml").symlink_to("..data/tenants.yaml")
    directory = watch(tmp_path)
    assert list(directory.current.tenants) == ["acme"]
    mount("..2026_2", "tenants: [{id: bcme}]")
    assert directory.poll()
    assert list(directory.current.tenants) == ["bcme"]
    single = watch(tmp_path / "tenants.yaml")
    mount("..2026_3", "tenants: [{id: ccme}]")
    assert single.poll()
    assert list(single.current.tenants) == ["ccme"]


async def test_the_watch_polls_by_itself(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveact_services.tenants.watch.POLL_S", 0.01)
    tenants.add("acme")
    directory = watch(tenants.write())
    task = asyncio.create_task(directory.run())
    tenants.add("globex")
    tenants.write()
    async with asyncio.timeout(30):
        while "globex" not in directory.current.tenants:
            await asyncio.sleep(0.01)
    task.cancel()


# ---- who is let in


async def test_a_key_is_let_in_as_its_tenant(tenants: Tenants) -> None:
    keys = {name: tenants.add(name, weight=weight) for name, weight in (("acme", 2), ("globex", 1))}
    second = tenants.add_key("acme", expires="2999-01-01T00:00:00Z")
    access = Access(watch(tenants.write()))
    for text, tenant in ((keys["acme"], "acme"), (keys["globex"], "globex"), (second, "acme")):
        for metadata in (bearer(text), [("x-api-key", text)], [("authorization", f"bEaReR  {text} ".encode())]):
            caller = await access.caller(metadata)
            assert (caller.tenant.id, caller.key, caller.issuer) == (tenant, key_id(text), "")
            assert access.check(caller) == caller.tenant
            assert text not in repr(caller)


async def test_a_wrong_key_is_refused_in_one_way(tenants: Tenants) -> None:
    key, other = tenants.add("acme"), tenants.add("globex")
    access = Access(watch(tenants.write()))
    wrong = [
        new_api_key().text, key[:-1] + ("A" if key[-1] != "A" else "B"), key[:16] + other[16:], key.upper(), key[3:], "",
        key + "x", "a.b.c", "la_",
    ]  # fmt: skip
    assert {await refused(access, text) for text in wrong if text} == {"CREDENTIALS_INVALID"}


Change = Callable[[Tenants], None]
CHANGES: dict[str, tuple[Change, str, str]] = {
    "revoked": (lambda t: t.entries["acme"]["keys"][0].update(revoked=True), "CREDENTIALS_REVOKED", "CREDENTIALS_REVOKED"),
    "removed": (lambda t: t.change("acme", keys=[]), "CREDENTIALS_INVALID", "CREDENTIALS_REVOKED"),
    "expired": (
        lambda t: t.entries["acme"]["keys"][0].update(expires=str(datetime.now(UTC) - timedelta(seconds=1))),
        "CREDENTIALS_EXPIRED", "CREDENTIALS_EXPIRED",
    ),
    "disabled": (lambda t: t.change("acme", disabled=True), "TENANT_DISABLED", "TENANT_DISABLED"),
    "tenant removed": (lambda t: t.entries.pop("acme") and None, "CREDENTIALS_INVALID", "CREDENTIALS_REVOKED"),
    "given to another": (
        lambda t: t.entries["globex"]["keys"].append(t.entries["acme"]["keys"].pop()), "", "CREDENTIALS_REVOKED",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", sorted(CHANGES))
async def test_a_change_ends_new_calls_at_once_and_running_ones_at_their_check(tenants: Tenants, change: str) -> None:
    key = tenants.add("acme")
    tenants.add("globex")
    directory = watch(tenants.write())
    access = Access(directory)
    caller = await access.caller(bearer(key))
    apply, new, running = CHANGES[change]
    apply(tenants)
    tenants.write()
    assert directory.poll()
    if new:
        assert await refused(access, key) == new
    with pytest.raises(ServiceError) as caught:
        access.check(caller)
    assert caught.value.reason == running


async def test_a_check_gives_the_tenant_as_it_is_now(tenants: Tenants) -> None:
    key = tenants.add("acme")
    directory = watch(tenants.write())
    access = Access(directory)
    caller = await access.caller(bearer(key))
    tenants.change("acme", quotas={"sessions": 3})
    tenants.write()
    directory.poll()
    assert caller.tenant.quotas.sessions is None
    assert access.check(caller).quotas.sessions == 3


async def test_without_a_directory_everybody_is_the_default_tenant() -> None:
    access = Access(None)
    for metadata in ([], bearer("nonsense"), [("x-api-key", "a"), ("x-api-key", "b")]):
        caller = await access.caller(metadata)
        assert caller == Caller(DEFAULT_TENANT)
        assert access.check(caller) == DEFAULT_TENANT


def test_one_credential_is_wanted() -> None:
    for metadata, reason in (
        ([], "CREDENTIALS_MISSING"),
        ([("authorization", "Basic x")], "CREDENTIALS_INVALID"),
        ([("authorization", "Bearer a"), ("x-api-key", "a")], "CREDENTIALS_INVALID"),
    ):
        with pytest.raises(ServiceError) as caught:
            credential_in(metadata)
        assert caught.value.reason == reason
