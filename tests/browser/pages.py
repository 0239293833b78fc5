"""The review page as a reviewer has it: the command runs, a browser opens its address, and its complaints are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Browser, Locator, Page, expect

from pathopatch.heatmaps.colors import ground_of, map_colors

READY = "body[data-ready=yes]"
expect.set_options(timeout=60_000)  # ms; on a busy machine nothing is quick
_windows: list[Visit] = []  # those that are open
_servers: dict[str, int] = {}  # address: process
_links: dict[str, dict[str, str]] = {}  # address, reader: what the command printed, with the token


@contextmanager
def serving(
    out: Path, *options: object, reviewer: str = "A. Reader", port: int = 0, under: Sequence[str] = ()
) -> Iterator[str]:
    """Run `pathopatch review` on a free port, `under` another command; yields its address without the slash at the end.

    Windows that still show it are closed before it ends: what they go on asking for would not be answered.
    """
    command = [
        *under,
        sys.executable,
        "-m",
        "pathopatch",
        "review",
        out,
        "--port",
        port,
        "--reader",
        reviewer,
        "--quiet",
    ]
    with subprocess.Popen(
        [str(argument) for argument in (*command, *options)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            readers = [reviewer, *(name for option, name in pairwise(map(str, options)) if option == "--reader")]
            printed = [process.stdout.readline().strip() for _ in readers]
            links = [line.removeprefix(f"{name}: ") for line, name in zip(printed, readers, strict=True)]
            assert links[0].startswith("http://127.0.0.1:"), "the command ended before it printed an address"
            address = links[0].partition("/?token=")[0]
            _servers[address], _links[address] = process.pid, dict(zip(readers, links, strict=True))
            yield address
        finally:
            for window in [visit for visit in _windows if visit.address == address]:
                window.close()
            process.terminate()
            process.wait(timeout=20)


def link_of(address: str, reader: str = "") -> str:
    """What the command printed for a reader, or for the first: the address with its token."""
    return _links[address].get(reader) or next(iter(_links[address].values()))


def pid_of(address: str) -> int:
    return _servers[address]


class Visit:
    """A browser window on the review page; what it logs as an error, and whom else it asks, is kept."""

    def __init__(
        self, browser: Browser, address: str, *, width: int = 1400, height: int = 900, reader: str = "", **options: Any
    ) -> None:
        self.address = address
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.requested: list[str] = []
        self._context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self._context.request.get(link_of(address, reader))  # as if it had been opened: the cookie stays
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))
        self._devtools = self._context.new_cdp_session(self.page)
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        _windows.append(self)

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "willReadFrequently" not in text:  # that is of the tests' own looking
            self.complaints.append(text)

    def _note(self, url: str) -> None:
        self.requested.append(url)
        if urlsplit(url).netloc != urlsplit(self.address).netloc:
            self.elsewhere.append(url)

    def close(self) -> None:
        """Close the window; a second time is no fault."""
        if self in _windows:
            _windows.remove(self)
            self._context.close()

    def worked_ms(self) -> float:
        """Return the CPU time of the page (this document so far) and its server, ms."""
        metrics = {
            metric["name"]: metric["value"] for metric in self._devtools.send("Performance.getMetrics")["metrics"]
        }
        fields = Path(f"/proc/{_servers[self.address]}/stat").read_text().rpartition(")")[2].split()
        served = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 1000 * (metrics["TaskDuration"] + served)

    def cohort(self, query: str = "") -> Page:
        self.page.goto(f"{self.address}/{query}")
        expect(self.page.locator(READY)).to_be_attached()
        return self.page

    def agreement(self) -> Page:
        self.page.goto(f"{self.address}/agreement")
        expect(self.page.locator(READY)).to_be_attached()
        return self.page

    def slide(self, slide_id: str) -> Page:
        self.page.goto(f"{self.address}/slides/{slide_id}")
        self.settled()
        for part in ("#display", "#details"):  # which are folded at first
            self.page.locator(part).evaluate("part => { part.open = true; }")
        return self.page

    def settled(self) -> None:
        """Wait until a slide's page is there."""
        expect(self.page.locator(READY)).to_be_attached()
        expect(self.page.locator("#viewer[data-ready=yes]")).to_be_attached()

    def has_tiles(self) -> None:
        """Wait until all tiles that are wanted are drawn."""
        expect(self.page.locator("#viewer[data-loaded=yes]")).to_be_attached()

    def place_of(self, x: float, y: float) -> tuple[float, float]:
        """Return the place in the window, px, of a point of the slide (level-0 px)."""
        viewer = self.page.locator("#viewer")
        corner = [float(part) for part in viewer.get_attribute("data-corner").split(",")]
        zoom = float(viewer.get_attribute("data-zoom"))
        box = viewer.bounding_box()
        return box["x"] + corner[0] + x * zoom, box["y"] + corner[1] + y * zoom

    def heat_at(self, x: float, y: float) -> tuple[int, ...]:
        """Red, green, blue, alpha of the heat layer over a point of the slide."""
        return self._pixel("#viewer canvas.heat", x, y)

    def tissue_at(self, x: float, y: float) -> tuple[int, ...]:
        """Red, green, blue, alpha of the slide's picture at a point of it."""
        return self._pixel("#viewer .openseadragon-canvas canvas:not(.heat)", x, y)

    def _pixel(self, canvas: str, x: float, y: float) -> tuple[int, ...]:
        across, down = self.place_of(x, y)
        box = self.page.locator("#viewer").bounding_box()
        rgba = self.page.locator(canvas).first.evaluate(
            "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]",
            [int(across - box["x"]), int(down - box["y"])],
        )
        return tuple(rgba)

    def positives(self) -> int:
        return int(self.page.locator("#positives").get_attribute("data-positives"))

    def standing(self) -> Locator:
        return self.page.locator("#standing")


def set_range(page: Page, name: str, value: float) -> None:
    """Move a slider as a hand does: its value, then the event."""
    page.locator(name).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )


def filled(page: Page) -> None:
    """The fill alone, opaque, of all values and whole patches."""
    page.get_by_label("Fill", exact=True).check()
    page.locator("#only-positive").uncheck()
    page.locator("#whole-patches").check()
    set_range(page, "#opacity", 1)


def assert_heat(seen: tuple[int, ...], facts: dict[str, Any], value: float) -> None:
    """Assert red, green, blue and alpha of a value in [0, 1] in the heat layer, opaque at 1."""
    assert abs(seen[3] - 255 * value) <= 1.5
    color = map_colors(np.array(value), ground_of(facts["background"]))
    # A canvas keeps colours times alpha, so that faint ones are known less well.
    assert np.abs(np.array(seen[:3]) - color).max() * seen[3] / 255 <= 3


def middle(facts: dict[str, Any], x: float, y: float) -> tuple[float, ...]:
    """Of the part of a cell that lies on the slide."""
    return tuple(at + min(facts["cell_px"], side - at) / 2 for at, side in zip((x, y), facts["size_px"], strict=True))
