"""A review page that answers on this machine, and what one sends it: exactly the bytes that a test says."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import made_slides as made
import pytest
from made_model import write_model

from pathopatch.core.config import PredictConfig
from pathopatch.review import viewer
from pathopatch.review.app import create_app
from pathopatch.review.reviewed_cohort import open_review
from pathopatch.review.security import Access, Guard
from pathopatch.review.server import create_server, listen
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.predict import predict_cohort

WRITE = {"X-Pathopatch": "review", "Content-Type": "application/json"}
DECISIONS = "/api/slides/a/decisions"
needs_viewer = pytest.mark.skipif(
    not viewer.is_installed() and not os.environ.get("CI"), reason=f"the viewer is not installed: {viewer.remedy()}"
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Page:
    """A page that answers on this machine; `ask` sends exactly what it is given."""

    port: int
    cookie: str = ""

    def ask(
        self, target: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            known = {"Cookie": self.cookie} if self.cookie else {}
            sent = {"Host": f"127.0.0.1:{self.port}"} | known | (headers or {})
            if body is not None and "Transfer-Encoding" not in sent:
                sent.setdefault("Content-Length", str(len(body)))
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )

    def decide(self, headers: dict[str, str] | None = None, *, slide: str = "a", **fields: object) -> Answer:
        """Send a decision on a slide as the page would, with `fields` in place of its own."""
        address = f"/api/slides/{slide}"
        state = self.ask(f"{address}/decisions").json
        fingerprint = self.ask(address).json["fingerprint"]
        defaults = {"revision": state["revision"], "verdict": "accept", "fingerprint": fingerprint, "threshold": 0.5}
        body = json.dumps({name: value for name, value in (defaults | fields).items() if value != "left out"}).encode()
        return self.ask(f"{address}/decisions", method="POST", headers=WRITE | (headers or {}), body=body)

    @property
    def revision(self) -> int:
        revision: int = self.ask(DECISIONS).json["revision"]
        return revision


@contextmanager
def answering(out: Path, access: Access, reviewer: str = "me") -> Iterator[Page]:
    with open_review(out, reviewer=reviewer) as review, served(create_app(review, access)) as page:
        yield page


@contextmanager
def served(app: Guard) -> Iterator[Page]:
    with listen("127.0.0.1", 0) as listener:
        server = create_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Page(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()


def decide_as(out: Path, reviewer: str, **fields: Any) -> Answer:
    """Send a decision from a page of the reviewer's own over the same folder."""
    with answering(out, Access(), reviewer) as page:
        return page.decide(**fields)


def predicted(folder: Path) -> Path:
    """Predict a slide `a` of 6 x 5 patches of 16 px, whose file has red label and macro images; return the folder."""
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_aperio(folder / "a.svs", image, levels=2)
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    rows = slides_to_predict(str(folder / "a.svs"))
    (outcome,) = predict_cohort(rows, write_model(folder / "model"), folder / "out", config)
    assert outcome.state == "done"
    return folder / "out"
