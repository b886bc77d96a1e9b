"""Makes the certificates, NKeys and credentials that tests/it/workers.rs uses; needs Python 3 and openssl.

    python3 make.py          # in this directory

They are for a server at 127.0.0.1 on the machine of a test, and protect nothing. Formats: NKeys and JWTs as in
https://docs.nats.io/using-nats/developer/connecting/security; every key is made anew.
"""

import base64
import hashlib
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
YEARS = 100
SEED = 18 << 3  # 'S'
KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}  # 'O', 'A', 'U'


def openssl(*args, text=None):
    return subprocess.run(["openssl", *args], input=text, check=True, capture_output=True, cwd=HERE).stdout


def certificates():
    days = str(YEARS * 365)
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", days, "-subj", "/CN=tests of heterosis",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *new_key, "-keyout", "server-key.pem", "-out", "server.csr", "-subj", "/CN=localhost")
    names = HERE / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", days,
            "-out", "server.pem", "-extfile", "names")
    for left in ["ca-key.pem", "server.csr", "names", "ca.srl"]:
        (HERE / left).unlink(missing_ok=True)


def crc16(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021) & 0xFFFF if crc & 0x8000 else (crc << 1) & 0xFFFF
    return crc


def encoded(raw):
    return base64.b32encode(raw + crc16(raw).to_bytes(2, "little")).decode().rstrip("=")


class Key:
    def __init__(self, kind):
        prefix = KINDS[kind]
        self.pem = openssl("genpkey", "-algorithm", "ed25519")
        seed = openssl("pkey", "-outform", "DER", text=self.pem)[-32:]
        public = openssl("pkey", "-pubout", "-outform", "DER", text=self.pem)[-32:]
        first, second = SEED | (prefix >> 5), (prefix & 31) << 3
        self.seed = encoded(bytes([first, second]) + seed)
        self.public = encoded(bytes([prefix]) + public)

    def sign(self, data):
        with tempfile.TemporaryDirectory() as tmp:
            key, message = pathlib.Path(tmp, "key"), pathlib.Path(tmp, "message")
            key.write_bytes(self.pem)
            message.write_bytes(data)
            return openssl("pkeyutl", "-sign", "-inkey", str(key), "-rawin", "-in", str(message))


def url64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(issuer, subject, name, claims):
    body = {"iat": 1700000000, "iss": issuer.public, "name": name, "sub": subject.public, "nats": {"version": 2, **claims}}
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    head = url64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    text = head + "." + url64(json.dumps(body).encode())
    return text + "." + url64(issuer.sign(text.encode()))


def main():
    certificates()
    user = Key("user")
    (HERE / "user.nk").write_text(user.seed + "\n")
    (HERE / "user.pub").write_text(user.public + "\n")
    operator, account, system, member = Key("operator"), Key("account"), Key("account"), Key("user")
    unlimited = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    of_operator = token(operator, operator, "tests", {"type": "operator", "system_account": system.public})
    of_account = token(operator, account, "runs", {"type": "account", "limits": {**unlimited, **storage}})
    of_system = token(operator, system, "SYS", {"type": "account", "limits": unlimited})
    of_user = token(account, member, "worker", {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}})
    (HERE / "operator.conf").write_text(
        f"operator: {of_operator}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n"
        f"  {account.public}: {of_account}\n  {system.public}: {of_system}\n}}\n"
    )
    (HERE / "user.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{member.seed}\n------END USER NKEY SEED------\n"
    )


main()
