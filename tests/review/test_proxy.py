"""The page behind a real proxy: nginx with TLS and a login, by the settings of the page *From review to retraining*."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from review_page import DECISIONS, needs_viewer, predicted

from pathopatch.core.files import json_text
from pathopatch.groups.decisions.log import read_log
from pathopatch.review.server import listen

DOC = Path(__file__).parents[2] / "docs" / "how-to" / "review.md"
NGINX, OPENSSL = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), shutil.which("openssl")
pytestmark = [
    pytest.mark.slow,
    needs_viewer,
    pytest.mark.skipif(
        (NGINX is None or OPENSSL is None) and os.environ.get("PATHOPATCH_PROXY") != "required",
        reason="nginx and openssl are not installed",
    ),
]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the proxy, and the folder of predictions."""
    folder = tmp_path_factory.mktemp("proxy")
    out = predicted(folder)
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", folder / "review.key", "-out", folder / "review.pem"]
    subprocess.run([OPENSSL, "req", "-x509", "-subj", "/CN=127.0.0.1", *key], check=True, capture_output=True)
    (folder / "readers").write_text("".join(f"{name}:{{PLAIN}}secret\n" for name in ("ada", "bo")))
    (settings,) = re.findall("```nginx\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    for stated, ours in {
        "443 ssl": f"127.0.0.1:{port} ssl", "/etc/ssl/": f"{folder}/", "/etc/nginx/": f"{folder}/",
        "/run/pathopatch/": f"{folder}/",
    }.items():  # fmt: skip
        assert stated in settings
        settings = settings.replace(stated, ours)
    user = "user root;" if os.geteuid() == 0 else ""
    stores = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}"
        f"http {{ access_log off; {stores} {settings} }}"
    )
    words = ["review", out, "--socket", folder / "page", "--trust-header", "X-Remote-User", "--quiet"]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "pathopatch", *map(str, words)], stdout=subprocess.PIPE, text=True
        ) as page,
        subprocess.Popen([str(NGINX), "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL) as proxy,
    ):
        try:
            assert page.stdout is not None
            assert page.stdout.readline().strip() == f"unix:{folder / 'page'}"
            yield f"https://127.0.0.1:{port}", out
        finally:
            proxy.send_signal(signal.SIGTERM)
            page.send_signal(signal.SIGTERM)
    assert not (folder / "page").exists()


def ask(address: str, login: str = "", body: object = None, **headers: str) -> tuple[int, bytes]:
    """Status and answer of a request through the proxy, by whose certificate nobody vouches."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if login:
        sent["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    data = None if body is None else json_text(body).encode()
    for _ in range(50):  # until nginx listens
        try:
            request = urllib.request.Request(address, data, sent)  # noqa: S310
            with urllib.request.urlopen(request, context=trusting, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the proxy does not answer")


def test_who_logs_in_at_the_proxy_is_the_reader_whatever_the_browser_says(door: tuple[str, Path]) -> None:
    address, out = door
    assert ask(address)[0] == 401
    status, cohort = ask(f"{address}/api/cohort", "ada:secret", X_Remote_User="bo")
    assert (status, b'"reviewer":"ada"' in cohort.replace(b" ", b"")) == (200, True)
    fingerprint = re.findall(rb'"fingerprint": ?"(\w+)"', ask(f"{address}/api/slides/a", "ada:secret")[1])[0].decode()
    write = {"X_Pathopatch": "review", "Content_Type": "application/json", "Origin": address}
    for name, verdict in (("ada", "accept"), ("bo", "reject")):
        body = {"revision": 0, "verdict": verdict, "fingerprint": fingerprint, "threshold": 0.5}
        assert ask(address + DECISIONS, f"{name}:secret", body, **write)[0] == 201
        assert ask(address + DECISIONS, f"{name}:secret", body, **write | {"Origin": "https://evil.example"})[0] == 403
    assert [(row.reviewer, row.verdict) for row in read_log(out / "review.sqlite")] == [
        ("ada", "accept"),
        ("bo", "reject"),
    ]
