"""Certificates of a CA of our own."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CA_NAME = "registry-stand-in"
SIGNS_OTHERS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def make_certificates(folder: Path, names: dict[str, tuple[str, ...]]) -> None:
    """A CA, and for each name a key and a certificate for its hosts."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    public = ca_key.public_key()
    builder = _begin_certificate(CA_NAME, public)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    builder = builder.add_extension(SIGNS_OTHERS, critical=True)
    _write_certificate(folder / "ca.pem", builder.sign(ca_key, hashes.SHA256()))
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    for name, hosts in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        is_for = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = _begin_certificate(name, key.public_key())
        builder = builder.add_extension(is_for, critical=False)
        builder = builder.add_extension(issuer, critical=False)
        signed = builder.sign(ca_key, hashes.SHA256())
        _write_certificate(folder / f"{name}.pem", signed)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        secret = key.private_bytes(*form, serialization.NoEncryption())
        (folder / f"{name}.key").write_bytes(secret)


def _begin_certificate(
    subject: str, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().issuer_name(_name(CA_NAME))
    builder = builder.subject_name(_name(subject))
    builder = builder.public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1))
    builder = builder.not_valid_after(now + timedelta(days=2))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    return builder.add_extension(identifier, critical=False)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
