"""Throw-away signers: an authority, and certificates that it signed, fit for C2PA or unfit in one way."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _certificate(
    subject: str, issuer: str, key: Any, by: Any, *, ca: bool = False, end: datetime.datetime = NOW + 30 * DAY,
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.EMAIL_PROTECTION,), signs: bool = True,
) -> x509.Certificate:  # fmt: skip
    usage = x509.KeyUsage(signs and not ca, not signs, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(NOW - 60 * DAY).not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca, None), True).add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False)
    )  # fmt: skip
    if purposes and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
    return builder.sign(by, None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256())


class Authority:
    """Signs certificates, whose files it writes into a folder."""

    def __init__(self, folder: Path, name: str = "Authority") -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _certificate(name, name, self.key, self.key, ca=True)
        self.anchor = folder / f"{name}.pem"
        self.anchor.write_bytes(self.certificate.public_bytes(PEM))

    def signer(self, name: str = "Signer", kind: str = "es256", **profile: Any) -> tuple[Path, Path]:
        """Certificate with chain, and key."""
        makers = {
            "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "ed25519": ed25519.Ed25519PrivateKey.generate,
            "ps256": lambda: rsa.generate_private_key(65537, 2048),
            "k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        }
        key = makers[kind]()
        leaf = _certificate(name, self.name, key, self.key, **profile)
        cert_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert_file.write_bytes(leaf.public_bytes(PEM) + self.certificate.public_bytes(PEM))
        key_file.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return cert_file, key_file
