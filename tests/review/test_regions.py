"""Regions, the comparison of reviewers and exports, as the server answers."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from review_page import Page, answering, decide_as, predicted

from pathopatch.core.artefacts import read_table
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.review.reviewed_cohort import open_review
from pathopatch.review.security import Access

INSIDE = "POLYGON ((10 10, 50 10, 50 40, 10 10))"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicted(tmp_path_factory.mktemp("regions"))


@pytest.fixture
def page(made: Path) -> Iterator[Page]:
    (made / "review.sqlite").unlink(missing_ok=True)
    with answering(made, Access()) as served:
        yield served


def draw(page: Page, region: str = INSIDE, **fields: object) -> int:
    return page.decide(verdict=fields.pop("verdict", "tumour"), region=region, **fields).status


def archive(page: Page, name: str) -> dict[str, bytes]:
    answer = page.ask(f"/export/{name}")
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as opened:
        return {one: opened.read(one) for one in opened.namelist()}


@pytest.mark.parametrize(
    "region",
    ["POLYGON ((0 0, 90 70, 90 0, 0 70, 0 0))", "POLYGON ((0 0, 97 0, 0 80, 0 0))"],  # crosses itself; beyond the slide
)
def test_a_region_that_is_none_is_refused(page: Page, region: str) -> None:
    answer = page.decide(verdict="tumour", region=region)
    assert (answer.status, answer.json["code"]) == (400, "INPUT_UNSUPPORTED")
    assert page.revision == 0


def test_a_region_up_to_the_edge_of_the_slide_is_taken(page: Page) -> None:
    assert draw(page, "POLYGON ((0 0, 96 0, 96 80, 0 80, 0 0))") == 201


def test_regions_are_sent_as_one_file_per_slide(page: Page) -> None:
    assert page.ask("/export/decisions.zip").status == 404
    draw(page)
    files = archive(page, "decisions.zip")
    assert list(files) == ["a.geojson"]
    (feature,) = json.loads(files["a.geojson"])["features"]
    assert feature["geometry"]["coordinates"] == [[[10, 10], [50, 10], [50, 40], [10, 10]]]
    assert page.ask("/export/decisions.zip").body == page.ask("/export/decisions.zip").body


def test_a_folder_for_qupath_has_the_regions(page: Page) -> None:
    draw(page)
    files = archive(page, "qupath.zip")
    decisions = json.loads(gzip.decompress(files["qupath/a/decisions.geojson.gz"]))
    assert len(decisions["features"]) == 1


def test_every_readers_decisions_are_sent_as_one_file_per_slide(page: Page, made: Path) -> None:
    x, y = (int(place) for place in read_table(made / "predictions" / "a.parquet").iloc[0][["x", "y"]])
    assert page.ask("/export/decisions.zip").status == 404
    for reviewer, verdict in (("Ada", "tumour"), ("Bo", "non-tumour")):
        assert decide_as(made, reviewer, verdict=verdict, x=x, y=y, comment=f"of {reviewer}").status == 201
        decide_as(made, reviewer)
    decisions = json.loads(archive(page, "decisions.zip")["a.geojson"])["features"]
    of_each = [(each["properties"]["classification"]["name"], each["properties"]["name"]) for each in decisions]
    assert of_each == [
        ("disputed", "disputed (Ada: tumour, Bo: non-tumour)"),
        ("tumour (reviewer)", "tumour (Ada)"), ("non-tumour (reviewer)", "non-tumour (Bo)"),
        ("slide accepted", "accept (Ada: accept, Bo: accept)"),
        ("slide accepted", "accept (Ada)"), ("slide accepted", "accept (Bo)"),
    ]  # fmt: skip
    assert len({each["id"] for each in decisions}) == 6
    assert decisions[0]["properties"]["metadata"] == {"ANNOTATION_DESCRIPTION": "Ada: of Ada; Bo: of Bo"}
    assert page.ask("/export/decisions.zip").body == page.ask("/export/decisions.zip").body


def test_a_class_of_the_folder_is_saved_and_exported(made: Path) -> None:
    (made / "review.toml").write_text('region_classes = ["necrosis"]\n', encoding="utf-8")
    try:
        with answering(made, Access()) as page:
            assert page.ask("/api/slides/a").json["region_classes"] == ["necrosis"]
            assert draw(page, verdict="necrosis") == 201
            features = json.loads(archive(page, "decisions.zip")["a.geojson"])["features"]
            assert {"name": "necrosis"} in [feature["properties"]["classification"] for feature in features]
            assert ",necrosis," in page.ask("/export/decisions.csv").body.decode()
    finally:
        (made / "review.toml").unlink()
        (made / "review.sqlite").unlink()


def test_a_class_that_the_folder_has_not_is_refused(page: Page) -> None:
    answer = page.decide(verdict="necrosis", region=INSIDE)
    assert (answer.status, answer.json["code"]) == (400, "INPUT_UNSUPPORTED")
    assert "review.toml" in answer.json["remedy"]


@pytest.mark.parametrize("names", ['["Necrosis"]', '["accept"]', '["fat", "fat"]', '["=1"]', '"fat"'])
def test_a_class_that_is_none_is_refused_at_the_start(made: Path, names: str) -> None:
    (made / "review.toml").write_text(f"region_classes = {names}\n", encoding="utf-8")
    try:
        with pytest.raises(InputUnsupportedError, match="region_classes"), open_review(made, reviewer="Ada"):
            pass
    finally:
        (made / "review.toml").unlink()


def test_two_reviewers_are_compared(page: Page, made: Path) -> None:
    assert page.ask("/api/agreement").json["agreements"] == []
    decide_as(made, "Ada")
    decide_as(made, "Bo", verdict="reject", reason="out of focus", comment="=1")
    found = page.ask("/api/agreement").json
    assert [one["name"] for one in found["reviewers"]] == ["Ada", "Bo"]
    counts = [(one["kind"], one["n"], one["n_agreed"]) for one in found["agreements"]]
    assert counts == [("slide", 1, 0), ("patch", 0, 0)]
    assert [one["slide_id"] for one in found["differences"]] == ["a"]


def test_no_other_file_is_exported_and_no_path_is_a_model(page: Page) -> None:
    for name in ("export/review.sqlite", "export/decisions.xml", "models/..", "models/0123456789abcdef", "models/x"):
        assert page.ask(f"/{name}").status == 404
