"""TLS files that cannot be used are named, with what is wrong and the cure, before it starts."""

from __future__ import annotations

import datetime
import sys

import pytest

from keras_unet.errors import ConfigError
from keras_unet.serving import Client
from keras_unet.serving.protocol import connection

trustme = pytest.importorskip("trustme")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def files(tmp_path_factory, authority):
    """A folder of PEM files: good ones, and each kind of bad ones."""
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    times = {
        "good": {},
        "other": {},
        "old": {"not_before": now - 3 * day, "not_after": now - day},
        "future": {"not_before": now + day, "not_after": now + 2 * day},
        "far": {"not_after": datetime.datetime(2061, 5, 6, 7, 8, 9)},  # GeneralizedTime
    }
    for name, dates in times.items():
        issued = authority.issue_cert("localhost", "127.0.0.1", "::1", **dates)
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        (folder / f"{name}.pem").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key((folder / "good.key").read_bytes(), None)
    for name, kind in (
        ("pkcs8", form.PrivateFormat.PKCS8),
        ("old", form.PrivateFormat.TraditionalOpenSSL),
    ):
        secret = form.BestAvailableEncryption(b"secret")
        (folder / f"{name}-encrypted.key").write_bytes(
            key.private_bytes(form.Encoding.PEM, kind, secret)
        )
    der = key.private_bytes(form.Encoding.DER, form.PrivateFormat.PKCS8, form.NoEncryption())
    (folder / "der.key").write_bytes(der)
    (folder / "both.pem").write_bytes(
        (folder / "good.key").read_bytes() + (folder / "good.pem").read_bytes()
    )
    good = (folder / "good.pem").read_text().splitlines()
    (folder / "torn.pem").write_text("\n".join([*good[:3], *good[5:]]))
    key_lines = (folder / "good.key").read_text().splitlines()
    (folder / "torn.key").write_text("\n".join([key_lines[0], key_lines[2], key_lines[-1]]))
    (folder / "text.pem").write_text("hello")
    (folder / "empty.pem").write_text("")
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("good.pem", "pkcs8-encrypted.key", r"pkcs8-encrypted.key: is encrypted.*openssl pkey"),
        ("good.pem", "old-encrypted.key", r"old-encrypted.key: is encrypted"),
        ("good.pem", "other.key", r"other.key: belongs to another certificate.*good.pem"),
        ("other.pem", "good.key", r"good.key: belongs to another certificate"),
        ("old.pem", "old.key", r"old.pem: has expired, on 20\d\d-\d\d-\d\d \d\d:\d\d UTC"),
        ("future.pem", "future.key", r"future.pem: is not valid before 20"),
        ("nothing.pem", "good.key", r"certificate .*nothing.pem: cannot be read \(No such file"),
        ("good.pem", "nothing.key", r"key .*nothing.key: cannot be read \(No such file"),
        (".", "good.key", r"cannot be read \(Is a directory"),
        ("good.key", "good.pem", r"good.key: no certificate in it.*found .*private key"),
        ("good.pem", "good.pem", r"good.pem: no private key in it.*found certificate"),
        ("text.pem", "good.key", r"text.pem: no certificate.*found nothing of it"),
        ("empty.pem", "good.key", r"empty.pem: no certificate.*found an empty file"),
        ("good.pem", "der.key", r"der.key: no private key.*found perhaps DER"),
        ("torn.pem", "good.key", r"torn.pem or key .* is damaged"),
        ("good.pem", "torn.key", r"torn.key is damaged"),
    ],
)
def test_what_is_wrong_with_a_pair_is_named(files, certificate, key, message):
    with pytest.raises(ConfigError, match=message):
        connection.identity(files / certificate, files / key)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
def test_a_key_that_may_not_be_read_is_named(files, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)  # root may read all
    with pytest.raises(ConfigError, match=r"good.pem: cannot be read \(Permission denied"):
        connection.identity(files / "good.pem", files / "good.key")


def test_good_pairs_pass(files):
    for certificate, key in (
        ("good.pem", "good.key"),
        ("far.pem", "far.key"),
        ("both.pem", "both.pem"),
    ):
        chain, secret = connection.identity(files / certificate, files / key)
        assert chain == (files / certificate).read_bytes()
        assert secret == (files / key).read_bytes()
    assert connection.authority(files / "ca.pem") == (files / "ca.pem").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.pem", "cannot be read"),
        ("good.key", "no certificate in it"),
        ("torn.pem", "is damaged"),
        ("old.pem", "has expired"),
    ],
)
def test_a_client_says_what_is_wrong_with_its_files(files, name, message):
    for url in ("grpcs://localhost", "https://localhost"):
        with pytest.raises(ConfigError, match=message):
            Client(url, certificate=files / name)
    with pytest.raises(ConfigError, match="needs its key"):
        Client("grpcs://localhost", client_certificate=files / "good.pem")
    with pytest.raises(ConfigError, match="is encrypted"):
        pair = {
            "client_certificate": files / "good.pem",
            "client_key": files / "pkcs8-encrypted.key",
        }
        Client("grpcs://localhost", **pair)
