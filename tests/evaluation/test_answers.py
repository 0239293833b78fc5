"""Answers to a pack: their kinds, the decision value, what is wrong with them, and places that match."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathopatch.core.errors import InputCorruptError, InputUnsupportedError, TableError
from pathopatch.evaluation.answers import match_places, read_answers
from pathopatch.metrics.area_response import MARGINS, YES_NO

NAMES = ("a.png", "b.png", "c.png")
CORNERS = np.array([(10, 10), (30, 10), (10, 30)])


def read(folder: Path, text: str, name: str = "answers.csv", **options: object) -> object:
    (folder / name).write_text(text)
    return read_answers(folder / name, NAMES, CORNERS, 10, **options)  # type: ignore[arg-type]


def table(*answers: str) -> str:
    return "image,score\n" + "".join(f"{name},{text}\n" for name, text in zip(NAMES, answers, strict=False))


@pytest.mark.parametrize(("steps", "least"), [(("1", "0.25", "0.26"), 0.005), (("1.0", 1 / 255, 2 / 255), 0.5 / 255)])
def test_probabilities_become_logits_that_their_smallest_step_ends(
    tmp_path: Path, steps: tuple[object, ...], least: float
) -> None:
    found = read_answers(write(tmp_path, table(*map(str, steps))), NAMES, CORNERS, 10)
    assert (found.kind, found.rule) == ("probability", MARGINS)
    p = np.array([1 - least, *map(float, steps[1:])])
    assert found.margins == pytest.approx(np.log(p / (1 - p)), rel=1e-4)
    found = read_answers(write(tmp_path, table("1", "0.25", "0.5")), NAMES, CORNERS, 10, decision=0.25)
    assert found.margins[1] == 0


@pytest.mark.parametrize(("answers", "decision"), [(("0", "1", "1"), None), (("0.3", "0.95", "1"), 0.9)])
def test_few_distinct_probabilities_stay_on_their_side_of_the_decision(
    tmp_path: Path, answers: tuple[str, ...], decision: float | None
) -> None:
    options = {"kind": "probability", "decision": decision}
    found = read_answers(write(tmp_path, table(*answers)), NAMES, CORNERS, 10, **options)  # type: ignore[arg-type]
    assert (found.margins > 0).tolist() == [False, True, True]


def test_semicolons_and_decimal_commas_are_read(tmp_path: Path) -> None:
    text = table("0.75", "0.25", "0.5").replace(",", ";").replace(".7", ",7").replace(".2", ",2")
    found = read_answers(write(tmp_path, text), NAMES, CORNERS, 10)
    assert found.margins == pytest.approx([np.log(3), -np.log(3), 0])
    text = "minx;miny;width;height;p\n10;10;10;10;0,75\n30;10;10;10;0,25\n10;30;10;10;0,5\n"
    by_place = read_answers(write(tmp_path, text), NAMES, CORNERS, 10, column="p")
    assert by_place.margins == pytest.approx([np.log(3), -np.log(3), 0])


def write(folder: Path, text: str) -> Path:
    (folder / "answers.csv").write_text(text)
    return folder / "answers.csv"


@pytest.mark.parametrize(
    ("answers", "options", "kind", "signs"),
    [
        (("yes", "No", "YES"), {}, "yes-no", [1, -1, 1]),
        (("1", "0", "none"), {}, "yes-no", [1, -1, np.nan]),
        (("Krebs", "nix", "nix"), {"yes": "krebs"}, "yes-no", [1, -1, -1]),
        (("3", "-2", "0.5"), {"kind": "logit"}, "logit", [3, -2, 0.5]),
        (("3", "-2", "0.5"), {"kind": "logit", "decision": 0.5}, "logit", [2.5, -2.5, 0]),
        (("30", "10", "20"), {}, "score", [10, -10, 0]),
        (("30", "10", "20"), {"decision": 30}, "score", [0, -20, -10]),
    ],
)
def test_kinds_of_answers(
    tmp_path: Path, answers: tuple[str, ...], options: dict[str, object], kind: str, signs: list[float]
) -> None:
    found = read_answers(write(tmp_path, table(*answers)), NAMES, CORNERS, 10, **options)  # type: ignore[arg-type]
    assert found.kind == kind
    assert found.margins == pytest.approx(signs, nan_ok=True)
    assert (found.rule is YES_NO) == (kind == "yes-no")
    assert bool(found.reason) == (kind == "score")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table("0.1", "0.2"), "column 'image', value 'c.png': not answered"),
        (table("0.1", "", "0.3"), "row 3, column 'score', value '': no answer"),
        (table("0.1", "0.2", "0.3") + "a.png,0.4\n", "row 5, column 'image', value 'a.png': answered twice"),
        (table("0.1", "0.2", "0.3") + "d.png,0.4\n", "row 5, column 'image', value 'd.png': no such image"),
        (table("0.1", "much", "0.3"), "row 3, column 'score', value 'much': no such answer"),
        (table("0.1", "nan", "0.3"), "row 3, column 'score', value 'nan': no such answer"),
    ],
)
def test_what_is_wrong_is_listed_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TableError, match="problem") as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_stated_kinds_and_words_are_held(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="1.5"):
        read(tmp_path, table("0.1", "1.5", "0.3"), kind="probability")
    with pytest.raises(TableError, match="perhaps"):
        read(tmp_path, table("ja", "nein", "perhaps"), yes="ja")
    with pytest.raises(InputUnsupportedError, match="every answer is '0.5'"):
        read(tmp_path, table("0.5", "0.5", "0.5"))
    with pytest.raises(InputUnsupportedError, match="no image is answered"):
        read(tmp_path, table("none", "none", "none"))


def test_places_need_a_column_that_is_named_where_there_are_several(tmp_path: Path) -> None:
    text = "minx,miny,width,height,prob_a,prob_b\n10,10,10,10,0.1,0.9\n30,10,10,10,0.2,0.8\n"
    with pytest.raises(InputUnsupportedError, match="prob_a, prob_b"):
        read(tmp_path, text)
    found = read_answers(write(tmp_path, text), NAMES, CORNERS, 10, column="prob_b")
    assert np.isfinite(found.margins).tolist() == [True, True, False]  # a program may leave out glass
    assert found.overlap == 1
    with pytest.raises(TableError, match="another answer to this place"):
        read(tmp_path, text + "10,10,10,10,0.1,0.4\n", column="prob_b")
    with pytest.raises(TableError, match="the patch has no place"):
        read(tmp_path, text.replace("30,", "here,"), column="prob_b")
    with pytest.raises(TableError, match="miny"):
        read(tmp_path, text.replace("miny", "top"), column="prob_b")
    for broken in ("{", '{"type": "FeatureCollection"}', '{"features": [{"geometry": null}]}'):
        with pytest.raises(InputCorruptError, match="GeoJSON"):
            read(tmp_path, broken, "answers.geojson")


def test_a_box_matches_the_image_that_it_has_most_in_common_with() -> None:
    boxes = np.array([(14, 10, 10, 10), (11, 10, 10, 10), (0, 0, 40, 40), (30, 16, 10, 10)], float)
    matched, overlap = match_places(boxes, CORNERS, 10)
    assert matched.tolist() == [1, -1, -1]  # half a patch off is no answer, nor is a patch of 16 times the area
    assert overlap == pytest.approx([90 / 110])
    assert match_places(np.empty((0, 4)), CORNERS, 10)[0].tolist() == [-1] * 3
