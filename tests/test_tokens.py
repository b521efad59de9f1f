"""JWTs of issuers made here: what is accepted, every way to be refused, and how the issuer's keys are had."""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from liveact_services.errors import ServiceError
from liveact_services.tenants import Access
from liveact_services.tenants.key_set import KeySet, KeySetError, parse_key_set, read_source
from liveact_services.tenants.source import DirectorySource
from liveact_services.tenants.watch import DirectoryWatch
from tenant_fixtures import Tenants

pytest_plugins = ["tenant_fixtures"]

ISSUER, AUDIENCE = "https://login.test/", "liveact"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHERS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def jwk(algorithm: str, key: Any, **fields: Any) -> dict[str, Any]:
    """The public key as an issuer publishes it."""
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": algorithm, "use": "sig", **fields}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


PUBLISHED = key_set(*(jwk(algorithm, key) for algorithm, key in KEYS.items()))


def token(algorithm: str = "ES256", key: Any = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    now = int(time.time())
    payload = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 300, "iat": now, "tenant": "acme", **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key or KEYS[algorithm], algorithm, {"kid": algorithm} if headers is None else headers)


def access(tenants: Tenants, **fields: Any) -> Access:
    """Whoever `tenants` lets in, and the issuer's."""
    (tenants.path.parent / "keys.json").write_bytes(PUBLISHED)
    tenants.add("acme")
    tenants.add("globex")
    issuer = {
        "issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["RS256", "ES256", "EdDSA"], "jwks": "keys.json",
        "leeway_s": 300.0,
    }  # fmt: skip
    tenants.issuers = [{**issuer, **fields}]
    return Access(DirectoryWatch(DirectorySource(str(tenants.write()))))


async def enter(access: Access, credential: str) -> str:
    """The tenant that a token opens, or the reason that it opens none."""
    try:
        return (await access.caller([("authorization", f"Bearer {credential}")])).tenant.id
    except ServiceError as error:
        return "CREDENTIALS_LEAKED" if credential in str(error) else error.reason


# ---- what is accepted


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_token_names_its_tenant(tenants: Tenants, algorithm: str) -> None:
    doors = access(tenants)
    assert await enter(doors, token(algorithm)) == "acme"
    assert await enter(doors, token(algorithm, tenant="globex")) == "globex"
    assert await enter(doors, token(algorithm, aud=["other", AUDIENCE])) == "acme"
    assert await enter(doors, token(algorithm, exp=int(time.time()) - 100)) == "acme", "within the leeway"


async def test_the_claim_is_the_configured_one(tenants: Tenants) -> None:
    doors = access(tenants, tenant_claim="org")
    assert await enter(doors, token(org="globex")) == "globex"
    assert await enter(doors, token()) == "CREDENTIALS_INVALID"


async def test_without_a_key_id_the_only_key_that_fits_is_taken(tenants: Tenants) -> None:
    doors = access(tenants)
    assert await enter(doors, token("ES256", headers={})) == "acme"
    doors = access(tenants)
    two = key_set(jwk("ES256", KEYS["ES256"]), jwk("ES256", OTHERS["ES256"], kid="b"))
    (tenants.path.parent / "keys.json").write_bytes(two)
    assert await enter(doors, token("ES256", headers={})) == "CREDENTIALS_INVALID"


# ---- what is not


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize(
    ("reason", "claims"),
    [
        ("CREDENTIALS_EXPIRED", {"exp": 1_000_000_000}),
        ("CREDENTIALS_INVALID", {"nbf": 4_000_000_000}),
        ("CREDENTIALS_INVALID", {"aud": "another"}),
        ("CREDENTIALS_INVALID", {"aud": None}),
        ("CREDENTIALS_INVALID", {"exp": None}),
        ("CREDENTIALS_INVALID", {"iss": None}),
        ("CREDENTIALS_INVALID", {"iss": ISSUER + "x"}),
        ("CREDENTIALS_INVALID", {"iss": "https://other.test/"}),
        ("CREDENTIALS_INVALID", {"tenant": None}),
        ("CREDENTIALS_INVALID", {"tenant": ["acme"]}),
        ("TENANT_UNKNOWN", {"tenant": "nobody"}),
    ],
)
async def test_wrong_claims_are_refused(tenants: Tenants, algorithm: str, reason: str, claims: dict[str, Any]) -> None:
    assert await enter(access(tenants), token(algorithm, **claims)) == reason


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_token_signed_by_another_key_is_refused(tenants: Tenants, algorithm: str) -> None:
    doors = access(tenants)
    assert await enter(doors, token(algorithm, OTHERS[algorithm])) == "CREDENTIALS_INVALID"
    assert await enter(doors, token(algorithm, OTHERS[algorithm], {"kid": "unknown"})) == "CREDENTIALS_INVALID"
    assert await enter(doors, token(algorithm, headers={"kid": "RS256" if algorithm != "RS256" else "ES256"})) == (
        "CREDENTIALS_INVALID"
    ), "another algorithm's key"


def unsigned(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None = None) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signing = b".".join(parts)
    digest = b"" if secret is None else base64.urlsafe_b64encode(hmac.digest(secret, signing, "sha256")).rstrip(b"=")
    return (signing + b"." + digest).decode()


async def test_neither_no_signature_nor_a_public_key_as_secret_passes(tenants: Tenants) -> None:
    doors = access(tenants)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 300, "tenant": "acme"}
    for name in ("none", "None", "NONE", "", None, 5):
        for kid in ("ES256", None):
            assert (
                await enter(doors, unsigned({"alg": name, "kid": kid, "typ": "JWT"}, claims)) == "CREDENTIALS_INVALID"
            )
    for kid, key in KEYS.items():
        public = key.public_key()
        encodings = [
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
            json.dumps(jwk(kid, key)).encode(),
            b"",
        ]
        for secret in encodings:
            for algorithm in ("HS256", kid):
                forged = unsigned({"alg": algorithm, "kid": kid}, claims, secret)
                assert await enter(doors, forged) == "CREDENTIALS_INVALID"
    assert await enter(doors, unsigned({"alg": "ES256", "kid": ["ES256"]}, claims)) == "CREDENTIALS_INVALID"
    assert await enter(doors, unsigned({"alg": "ES256", "kid": "ES256"}, claims, b"x")) == "CREDENTIALS_INVALID"


async def test_an_algorithm_that_is_not_listed_is_refused(tenants: Tenants) -> None:
    assert await enter(access(tenants, algorithms=["RS256"]), token("ES256")) == "CREDENTIALS_INVALID"
    doors = access(tenants)
    assert await enter(doors, token("RS512", KEYS["RS256"], {"kid": "RS256"})) == "CREDENTIALS_INVALID"
    assert await enter(doors, token("PS256", KEYS["RS256"], {"kid": "RS256"})) == "CREDENTIALS_INVALID"


async def test_a_token_that_is_damaged_or_huge_is_refused(tenants: Tenants) -> None:
    doors = access(tenants)
    good = token()
    head, body, signature = good.split(".")
    damaged = [
        f"{head}.{body}.", f".{body}.{signature}", f"{head}..{signature}", "..", f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body[:-2]}.{signature}", good + "x" * 9000, "\u00e9.\u00e9.\u00e9", f"{body}.{head}.{signature}",
    ]  # fmt: skip
    assert {await enter(doors, text) for text in damaged} == {"CREDENTIALS_INVALID"}


async def test_a_running_stream_outlives_its_token_and_not_its_issuer(tenants: Tenants) -> None:
    access(tenants)
    directory = DirectoryWatch(DirectorySource(str(tenants.path)))
    doors = Access(directory)
    caller = await doors.caller([("authorization", f"Bearer {token(exp=int(time.time()) - 100)}")])
    assert caller.issuer == ISSUER
    assert doors.check(caller).id == "acme"
    tenants.issuers = []
    tenants.write()
    directory.poll()
    with pytest.raises(ServiceError, match="CREDENTIALS_REVOKED"):
        doors.check(caller)
    assert await enter(doors, token()) == "CREDENTIALS_INVALID"


# ---- the issuer's keys


class Source:
    """Keys that change, fail and are counted; and a clock."""

    def __init__(self, *algorithms: str) -> None:
        self.data: bytes | None = key_set(*(jwk(name, KEYS[name]) for name in algorithms))
        self.reads = 0
        self.now = 0.0
        self.keys = KeySet("https://keys.test/", read=self.read, now=lambda: self.now, floor_s=10, max_age_s=300)

    def read(self, source: str) -> bytes:
        self.reads += 1
        assert threading.current_thread() is not threading.main_thread(), "fetched on the event loop"
        if self.data is None:
            raise KeySetError(f"{source}: cannot be read")
        return self.data

    async def settled(self) -> None:
        while (task := self.keys._refreshing) is not None:
            await task


async def test_keys_are_fetched_once_for_everybody() -> None:
    source = Source("ES256")
    found = await asyncio.gather(*(source.keys.key("ES256", "ES256") for _ in range(20)))
    assert all(key is not None for key in found)
    assert source.reads == 1


async def test_an_unknown_key_is_looked_for_again_but_not_more_often_than_the_floor() -> None:
    source = Source("ES256")
    assert await source.keys.key("RS256", "RS256") is None
    source.data = PUBLISHED
    for _ in range(50):
        assert await source.keys.key("RS256", "RS256") is None
    assert source.reads == 1
    source.now = 10
    assert await source.keys.key("RS256", "RS256") is not None
    assert source.reads == 2


async def test_old_keys_are_renewed_beside_the_calls_and_withdrawn_ones_forgotten() -> None:
    source = Source("ES256", "RS256")
    await source.keys.key("ES256", "ES256")
    source.data = key_set(jwk("RS256", KEYS["RS256"]))
    source.now = 299
    assert await source.keys.key("ES256", "ES256") is not None
    assert source.reads == 1
    source.now = 300
    assert await source.keys.key("ES256", "ES256") is not None
    await source.settled()
    assert source.reads == 2
    assert await source.keys.key("ES256", "ES256") is None


async def test_the_last_good_keys_stay_while_no_newer_can_be_had(caplog: pytest.LogCaptureFixture) -> None:
    source = Source("ES256")
    await source.keys.key("ES256", "ES256")
    for data in (None, b"", b"[]", b'{"keys": []}', b"<html>"):
        source.data = data
        source.now += 300
        assert await source.keys.key("ES256", "ES256") is not None
        await source.settled()
        assert "stay in force" in caplog.records[-1].message
    assert source.reads == 6
    assert await source.keys.key("ES256", "ES256") is not None


async def test_without_any_keys_a_token_is_to_be_tried_again() -> None:
    source = Source("ES256")
    source.data = None
    for _ in range(3):
        with pytest.raises(ServiceError) as caught:
            await source.keys.key("ES256", "ES256")
        assert (caught.value.reason, caught.value.retry_after_s) == ("AUTHENTICATION_UNAVAILABLE", 10)
    assert source.reads == 1
    source.data, source.now = PUBLISHED, 10
    assert await source.keys.key("ES256", "ES256") is not None


async def test_a_caller_that_hangs_up_does_not_end_the_fetch_for_others() -> None:
    source = Source("ES256")
    release = threading.Event()
    read = source.read
    source.keys._read = lambda place: (release.wait(60), read(place))[1]
    first = asyncio.create_task(source.keys.key("ES256", "ES256"))
    second = asyncio.create_task(source.keys.key("ES256", "ES256"))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await second is not None
    assert source.reads == 1


def test_keys_that_verify_nothing_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    small = rsa.generate_private_key(65537, 1024)
    private = {**jwk("ES256", KEYS["ES256"]), "d": "AAAA"}
    unusable = [
        jwk("RS256", small), private, {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}, {"kty": "EC"}, {}, "text",
        jwk("ES256", KEYS["ES256"], use="enc"), {"kty": "EC", "crv": "P-256", "x": "!", "y": "!"},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"}, {"kty": ["EC"]},
    ]  # fmt: skip
    for data in unusable:
        with pytest.raises(KeySetError, match="no public key that verifies tokens"):
            parse_key_set(json.dumps({"keys": [data]}).encode(), "k")
    assert "1024 bits; accepted are 2048" in caplog.text
    assert "AAAA" not in caplog.text
    listed = parse_key_set(json.dumps({"keys": [*unusable, jwk("EdDSA", KEYS["EdDSA"])]}).encode(), "k")
    assert [key["kid"] for key in listed] == ["EdDSA"]


async def test_a_key_is_used_for_its_own_algorithm_only() -> None:
    source = Source()
    source.data = key_set(jwk("RS256", KEYS["RS256"], alg="RS512"), jwk("ES256", KEYS["ES256"], kid="RS256"))
    assert await source.keys.key("RS256", "RS256") is None
    assert await source.keys.key("RS256", "RS512") is not None
    assert await source.keys.key("RS256", "ES384") is None


@pytest.fixture
def issuer_url() -> Iterator[str]:
    """A web server on this machine: /keys, /moved (to /keys), /large, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = {"/keys": 200, "/large": 200, "/moved": 302}.get(self.path, 404)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/keys")
            self.end_headers()
            self.wfile.write(PUBLISHED if self.path == "/keys" else b"x" * 300_000 if self.path == "/large" else b"")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_keys_come_from_a_url(tenants: Tenants, issuer_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert await enter(access(tenants, jwks=f"{issuer_url}/keys"), token()) == "acme"
    for path, told in {"/none": "Not Found", "/moved": "Found", "/large": "more than 262144 bytes"}.items():
        with pytest.raises(KeySetError, match=told):
            read_source(issuer_url + path)
    with pytest.raises(KeySetError, match="cannot be read"):
        read_source("http://127.0.0.1:9/")
    with pytest.raises(KeySetError, match="cannot be read"):
        read_source(str(tenants.path.parent / "none.json"))


async def test_a_file_of_keys_may_be_exchanged(tenants: Tenants) -> None:
    doors = access(tenants)
    renewed = token("ES256", OTHERS["ES256"], {"kid": "new"})
    assert await enter(doors, renewed) == "CREDENTIALS_INVALID"
    (tenants.path.parent / "keys.json").write_bytes(key_set(jwk("ES256", OTHERS["ES256"], kid="new")))
    (keys,) = doors._key_sets.values()
    keys._now = lambda: time.monotonic() + 60
    assert await enter(doors, renewed) == "acme"


async def test_no_token_is_logged(tenants: Tenants, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    doors = access(tenants)
    tokens = [token(), token(exp=1), token("RS256", OTHERS["RS256"]), token(headers={"kid": "x"}), token(tenant="z")]
    for text in tokens:
        await enter(doors, text)
    assert [text for text in tokens if text in caplog.text or text.rpartition(".")[2] in caplog.text] == []
