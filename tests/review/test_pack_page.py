"""The page on which a person answers a pack: order, what is kept, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from opened_files import opened_files
from review_page import WRITE, Answer, Page, served

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.review.pack_page import Answer as Given
from pathopatch.review.pack_page import PackReading, create_pack_app
from pathopatch.review.security import Access

NAMES = ["0b.png", "1a.tif", "3c.png"]  # in their order


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Three images, of which one has two channels of 16 bit: the first is full, the second empty."""
    images = tmp_path / "pack/send/images"
    images.mkdir(parents=True)
    for name in ("0b.png", "3c.png"):
        cv2.imwrite(str(images / name), np.full((16, 16, 3), 200, np.uint8))
    tifffile.imwrite(images / "1a.tif", np.full((2, 16, 16), [[[65535]], [[0]]], np.uint16))
    (images / "other.png").write_bytes(b"not of the pack")
    (images.parent / "answers.csv").write_text("image,score\n3c.png,\n0b.png,\n1a.tif,\n")
    (tmp_path / "pack/key.parquet").write_bytes(b"key")
    return tmp_path / "pack"


@contextmanager
def page_of(pack: Path, *, token: str = "", reader: str = "reader") -> Iterator[Page]:
    with served(create_pack_app(PackReading(pack, reader), Access(tokens={reader: token} if token else {}))) as page:
        yield page


def test_the_scale_is_what_the_mosaic_states(pack: Path) -> None:
    assert PackReading(pack, "reader").state()["mpp"] is None
    for metadata, mpp in (({"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}, 0.5), ({}, None)):
        tifffile.imwrite(
            pack / "send/mosaic.ome.tif", np.zeros((16, 16), np.uint8), metadata={"axes": "YX", **metadata}
        )
        assert PackReading(pack, "reader").state()["mpp"] == mpp


def give(page: Page, image: str, score: object = "yes", seconds: object = 1.26, **headers: str) -> Answer:
    body = json.dumps({"image": image, "score": score, "seconds": seconds}).encode()
    return page.ask("/api/pack", method="POST", headers=WRITE | headers, body=body)


def test_images_come_in_the_order_of_their_names_and_answers_outlive_the_page(pack: Path) -> None:
    file = pack / "answers-reader.csv"
    with page_of(pack) as page:
        assert page.ask("/api/pack").json["next"] == NAMES[:2]
        assert give(page, "0b.png").json["next"] == NAMES[1:]
        assert file.read_text() == "image,score,seconds\n0b.png,yes,1.3\n"
    with page_of(pack) as page:
        assert page.ask("/api/pack").json["next"] == NAMES[1:]
        assert give(page, "1a.tif", "no", 20).status == 201
        last = give(page, "3c.png", "yes", 0).json
    assert (last["images"], last["answered"], last["next"], last["file"]) == (3, 3, [], str(file))
    assert last["command"] == f"pathopatch audit-model --answers {file} --pack {pack} -o asked"
    assert file.read_text() == "image,score,seconds\n0b.png,yes,1.3\n1a.tif,no,20.0\n3c.png,yes,0.0\n"


def test_the_part_that_was_sent_is_answered_where_it_lies(pack: Path) -> None:
    sent = (pack / "send").rename(pack.parent / "elsewhere")
    with page_of(sent, reader="M. Né/../x") as page:
        state = give(page, "0b.png").json
    assert re.fullmatch(r"answers-M\.-Né-\.\.-x-[0-9a-f]{8}\.csv", Path(state["file"]).name)
    assert Path(state["file"]).parent == sent
    assert " --pack PACK " in state["command"]


def test_a_second_answer_is_refused_and_the_page_goes_on_at_the_next(pack: Path) -> None:
    with page_of(pack) as page, page_of(pack) as other:
        give(page, "0b.png", "no")
        for name in ("0b.png", "9z.png", "../../key.parquet"):
            refused = give(other, name)
            assert (refused.status, refused.json["state"]["next"]) == (409, NAMES[1:])
        give(other, "1a.tif")
    assert (pack / "answers-reader.csv").read_text().endswith("\n0b.png,no,1.3\n1a.tif,yes,1.3\n")


_PROGRAM = """
import sys
from pathlib import Path
from pathopatch.review.pack_page import Answer, PackReading
reading = PackReading(Path(sys.argv[1]), "reader")
for number in range(int(sys.argv[2]), 400, 2):
    reading.record(Answer(image=f"{number:03d}.png", score="yes", seconds=1.0))
"""


@pytest.mark.fault("two-reviewers")
def test_two_processes_that_answer_one_pack_lose_nothing(pack: Path) -> None:
    names = [f"{number:03d}.png" for number in range(400)]
    for name in names:
        (pack / "send/images" / name).write_bytes(b"")
    (pack / "send/answers.csv").write_text("image,score\n" + "".join(f"{name},\n" for name in names))
    command = [sys.executable, "-c", _PROGRAM, str(pack)]
    pages = [subprocess.Popen([*command, str(first)]) for first in (0, 1)]
    assert [page.wait(240) for page in pages] == [0, 0]
    assert PackReading(pack, "reader").answers().keys() == set(names)


def test_two_readers_have_two_files_and_one_reader_has_one(pack: Path) -> None:
    files = {PackReading(pack, name).file for name in ("a b", "a-b", "a_b", "a/b", "x" * 100, "x" * 101)}
    assert len(files) == 6
    with page_of(pack, reader="Ada") as page:
        give(page, "0b.png")
    early, late = PackReading(pack, "Zoë"), PackReading(pack, "ZOË")  # both before there is an answer
    early.record(Given(image="0b.png", score="yes", seconds=1.0))
    assert late.answers().keys() == {"0b.png"}
    for same in ("ada", " ADA\n"):
        assert PackReading(pack, same).file == pack / "answers-Ada.csv"
    with pytest.raises(InputUnsupportedError, match="5000 characters"):
        PackReading(pack, "x" * 5000)


def test_neither_the_key_nor_a_file_that_is_not_listed_is_read_or_served(pack: Path) -> None:
    with opened_files(pack) as opened, page_of(pack) as page:
        for target in ("key.parquet", "../key.parquet", "..%2f..%2fkey.parquet", "other.png", "answers.csv"):
            assert page.ask(f"/api/pack/{target}").status == 404
        for name in NAMES:
            assert give(page, name).status == page.ask(f"/api/pack/{name}").status + 1 == 201
    assert "answers-reader.csv" in opened
    assert "key.parquet" not in opened


def test_an_image_of_other_channels_is_shown_in_their_colours(pack: Path) -> None:
    with page_of(pack) as page:
        body = page.ask("/api/pack/1a.tif").body
        assert page.ask("/api/pack/3c.png").body == (pack / "send/images/3c.png").read_bytes()
    drawn = np.asarray(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR))
    assert np.unique(drawn.reshape(-1, 3), axis=0).tolist() == [[0, 0, 255]]  # blue, green, red


def test_no_other_answer_is_taken_and_without_the_secret_none(pack: Path) -> None:
    with page_of(pack, token="secret") as page:
        assert {page.ask(target).status for target in ("/", "/api/pack", "/api/pack/0b.png")} == {403}
        assert give(page, "0b.png").status == 403
        known = Page(page.port, cookie="pathopatch-review=secret")
        assert "default-src 'self'" in known.ask("/").headers["content-security-policy"]
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"X-Pathopatch": ""}):
            assert give(known, "0b.png", **headers).status == 403
        for score, seconds in (("maybe", 1), ("yes", -1), ("yes", float("nan")), (1, 1), ("yes", "1")):
            assert give(known, "0b.png", score, seconds).status == 400
        assert not (pack / "answers-reader.csv").exists()
        assert give(known, "0b.png").status == 201


def test_a_pack_that_lost_an_image_or_answers_to_another_pack_are_refused(pack: Path) -> None:
    (pack / "answers-reader.csv").write_text("image,score,seconds\nother.png,yes,1.0\n")
    with pytest.raises(InputMissingError, match="answers to other images"):
        PackReading(pack, "reader")
    (pack / "send/images/1a.tif").unlink()
    with pytest.raises(InputMissingError, match=r"no image 1a\.tif"):
        PackReading(pack, "other")
    (pack / "send/answers.csv").write_text("image,score\n../../key.parquet,\n")
    with pytest.raises(InputUnsupportedError):
        PackReading(pack, "other")


def test_the_command_takes_predictions_or_a_pack(pack: Path, said: Callable) -> None:
    for arguments in ((), (pack, "--pack", pack), ("--pack", pack, "--host", "::1"), ("--pack", pack, "--import", "a")):
        told = said("review", *arguments, code=2).err
    assert "--import: it goes without --pack" in told
