"""Connections: addresses, and TLS files (PEM) checked before anyone connects.

A handshake that fails does not say why.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from datetime import datetime, timezone
from pathlib import Path

from keras_unet.errors import ConfigError

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile("-----BEGIN ([A-Z ]*)PRIVATE KEY-----")
_VERSION, _UTC_TIME = 0xA0, 0x17  # tags of DER


def identity(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """A certificate (with its chain) and its private key, PEM.

    Raises:
        ConfigError: names the file that cannot be read, is none of its kind, is encrypted or
            damaged; or the key is of another certificate, or the certificate of another time.
    """
    chain, secret = _read(certificate, "certificate"), _read(key, "key")
    found = _certificates(certificate, chain)
    kind = _KEY.search(secret)
    if kind is None:
        raise ConfigError(f"TLS key {key}: no private key in it; expected PEM, {_found(secret)}")
    if "ENCRYPTED" in kind[1] or "Proc-Type: 4,ENCRYPTED" in secret:
        raise ConfigError(
            f"TLS key {key}: is encrypted, and nobody is asked for a passphrase here; "
            f"expected a plain key (openssl pkey -in {key} -out plain.pem), readable by you alone"
        )
    try:  # with a passphrase, which a plain key does not need: else it would be asked for
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"TLS key {key}: belongs to another certificate than the first of {certificate}"
            ) from None
        raise ConfigError(
            f"TLS: certificate {certificate} or key {key} is damaged or refused ({_why(error)})"
        ) from None
    begins, ends = _validity(found[0])
    now = datetime.now(timezone.utc)
    if now > ends:
        raise ConfigError(f"TLS certificate {certificate}: has expired, on {_shown(ends)}")
    if now < begins:
        raise ConfigError(f"TLS certificate {certificate}: is not valid before {_shown(begins)}")
    return chain.encode(), secret.encode()


def authority(path: Path) -> bytes:
    """Certificates of who signs the other side's, PEM.

    Raises:
        ConfigError: the file cannot be read, holds no certificate or a damaged one, or all in it
            have expired.
    """
    text = _read(path, "authority")
    found = _certificates(path, text)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="\n".join(found))
    except ssl.SSLError as error:
        raise ConfigError(f"TLS certificate {path}: is damaged ({_why(error)})") from None
    last = max(_validity(one)[1] for one in found)
    if datetime.now(timezone.utc) > last:
        raise ConfigError(f"TLS certificate {path}: has expired, on {_shown(last)}")
    return text.encode()


def join_address(host: str, port: int) -> str:
    """ "host:port", with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine, whatever the network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: 127.example.org is anybody's
        return host == "localhost"


def _read(path: Path, what: str) -> str:
    try:
        return Path(path).read_bytes().decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"TLS {what} {path}: cannot be read ({error.strerror})") from None


def _certificates(path: Path, text: str) -> list[str]:
    found = _CERTIFICATE.findall(text)
    if not found:
        raise ConfigError(
            f"TLS certificate {path}: no certificate in it; expected PEM, {_found(text)}"
        )
    return found


def _found(text: str) -> str:
    """What a file of another kind is, for a message."""
    kind = re.search("-----BEGIN ([A-Z0-9 ]+)-----", text)
    if kind is not None:
        return f"found {kind[1].lower()}"
    if text.startswith("0"):
        return "found perhaps DER (openssl x509 or pkey -inform DER converts it)"
    return "found nothing of it" if text.strip() else "found an empty file"


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _why(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _validity(pem: str) -> tuple[datetime, datetime]:
    """From when to when a certificate is valid (RFC 5280, 4.1), UTC."""
    try:
        (_, outer), *_ = _parts(ssl.PEM_cert_to_DER_cert(pem))
        fields = _parts(_parts(outer)[0][1])
        times = _parts(fields[4 if fields[0][0] == _VERSION else 3][1])
        begins, ends = (_time(*one) for one in times)
    except (IndexError, ValueError) as error:
        raise ConfigError(f"TLS: a certificate without readable dates ({error})") from None
    return begins, ends


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """[(tag, content)] of DER."""
    found, at = [], 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            more = size & 0x7F
            size, at = int.from_bytes(data[at : at + more], "big"), at + more
        found.append((tag, data[at : at + size]))
        at += size
    return found


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year, 1950 to 2049
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
