"""The audit of a model: patches are set to an area, and models of known conduct get the verdict that they deserve."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from made_model import made_spec, write_model

from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError, NonFiniteError
from pathopatch.debias.interventions import AREAS, N_EDITS, PLACEBOS, EditedPatch, edits, set_area
from pathopatch.evaluation import area_reliance
from pathopatch.evaluation.area_reliance import (
    ask,
    audit_model,
    judge,
    limits_text,
    margins_of,
    reliance,
    reliance_report,
    responses_of,
    within,
)
from pathopatch.metrics.area_response import adj, eta
from pathopatch.models.bundle import save_bundle
from pathopatch.models.forward import Ensemble
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network

SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def _edited_once() -> Iterator[None]:
    """Edit each patch once: most models here are asked about the same ones."""

    @cache
    def made(pixels: bytes, mask: bytes, seed: tuple[int, int], channels: int) -> list[EditedPatch]:
        given = np.frombuffer(pixels, np.float32).reshape(channels, SIDE, SIDE)
        return list(edits(given, np.frombuffer(mask, bool).reshape(SIDE, SIDE), seed=seed))

    def once(
        pixels: np.ndarray, mask: np.ndarray, *, seed: tuple[int, int], ground: np.ndarray | None
    ) -> list[EditedPatch]:
        if ground is not None:
            return list(edits(pixels, mask, seed=seed, ground=ground))
        return made(pixels.tobytes(), mask.tobytes(), seed, len(pixels))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(area_reliance, "edits", once)
        yield


def _patches(n: int = 160, *, patients: int = 10, least: float = 0.15, most: float = 0.85, seed: int = 0):
    """Patches with smooth islands on glass; the first half of the islands is red, the other half blue."""
    rng = np.random.default_rng(seed)
    pixels, masks = np.empty((n, 3, SIDE, SIDE), np.float32), np.empty((n, SIDE, SIDE), bool)
    for number in range(n):
        field = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 4)
        masks[number] = field > np.quantile(field, 1 - rng.uniform(least, most))
        colour = np.array([0.7, 0.3, 0.4] if number < n // 2 else [0.4, 0.3, 0.7])
        tissue = colour[:, None, None] + rng.normal(0, 0.05, (3, SIDE, SIDE))
        pixels[number] = np.where(masks[number], tissue, 0.93 + rng.normal(0, 0.01, (3, SIDE, SIDE)))
    return pixels, masks, np.array([f"P{k % patients}" for k in range(n)])


def _colour(x: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Read what the tissue looks like, and nothing else."""
    inside = np.maximum(tissue.sum(axis=(1, 2)), 1)
    red, blue = (np.where(tissue, x[:, c], 0).sum(axis=(1, 2)) / inside for c in (0, 2))
    return 10 * (red - blue).astype(np.float64)


def _area(x: np.ndarray, _tissue: np.ndarray) -> np.ndarray:
    """Count pixels that are not glass."""
    return 8 * ((x.mean(axis=1) < 0.75).mean(axis=(1, 2)) - 0.5)


MODELS: dict[str, tuple[Callable, str, int]] = {
    "colour": (_colour, "not shown", 0),
    "area": (lambda x, t: _area(x, t) + 0.1 * _colour(x, t), "relies", 1),
    "less area": (lambda x, t: -_area(x, t) + 0.1 * _colour(x, t), "relies", -1),
    "nothing but area": (_area, "relies", 1),
    "one answer": (lambda x, t: _colour(x, t) + 30, "not known", 0),
    "a constant": (lambda x, _: np.ones(len(x)), "not known", 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_known_conduct_get_the_verdict_that_they_deserve(name: str) -> None:
    model, verdict, direction = MODELS[name]
    result = reliance(ask(model, *_patches()), resamples=200)
    assert (result["verdict"], result["direction"]) == (verdict, direction), result["reasons"]
    assert bool(result["reasons"]) == (verdict == "not known")


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "U-shaped": lambda area: 12.5 * (area - 0.5) ** 2 - 1,
    "mid-area": lambda area: np.where(abs(area - 0.5) < 0.15, 1.0, -1.0),
    "step": lambda area: np.where(area > 0.6, 1.0, -1.0),
    "one area": lambda area: np.where(abs(area - 0.3) < 0.1, 2.0, -1.0),
    "oscillating": lambda area: np.cos(5 * np.pi * (area - 0.1)),
    "linear": lambda area: 2 * area - 1,
}
"""Functions of the area alone, at 0 between its least and its largest value."""


def _responses(evidence: np.ndarray, term: Callable[[np.ndarray], np.ndarray], patient: np.ndarray | None = None):
    """Return exact answers of a model: evidence (N,) of each patch, and a term of the area."""
    natural = np.random.default_rng(1).uniform(0.12, 0.88, len(evidence))
    areas = np.column_stack([natural, *np.tile(AREAS, (len(evidence), 3)).T, *[natural] * len(PLACEBOS)])
    patient = np.arange(len(evidence)) % 10 if patient is None else patient
    z = evidence[:, None] + term(areas)
    return responses_of(z, np.arange(len(z)), natural, patient.astype(np.str_))


@pytest.mark.parametrize("texture", [0.0, 0.5])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_model_is_acquitted_that_follows_the_area_in_any_way(name: str, texture: float) -> None:
    evidence = texture * np.random.default_rng(0).choice([-1.0, 1.0], 200)
    result = reliance(_responses(evidence, FUNCTIONS[name]), resamples=100)
    assert result["verdict"] != "not shown"
    assert result["eta"]["value"] > 0.12


def test_two_values_that_differ_in_one_patch_are_not_known() -> None:
    evidence = np.zeros(200)
    responses = _responses(evidence, lambda area: np.where(np.arange(area.size).reshape(area.shape) == 1, 1.0, 0.0))
    assert reliance(responses, resamples=20)["verdict"] == "not known"


def test_texture_and_a_u_shaped_term_depend_on_the_area_not_one_way() -> None:
    evidence = 0.5 * np.random.default_rng(0).choice([-1.0, 1.0], 200)
    result = reliance(_responses(evidence, FUNCTIONS["U-shaped"]), resamples=100)
    assert result["reasons"][0] == "the answers depend on the area, but not one way"
    # The term is 1, -.5, -1, -.5, 1: its variance is .7, that of the evidence .25.
    assert result["eta"]["value"] == pytest.approx(0.7 / 0.95, abs=0.01)
    assert result["adj"]["value"] == pytest.approx(0, abs=1e-9)
    assert result["largest"]["areas"] in ([0.1, 0.5], [0.5, 0.9])
    assert abs(result["largest"]["value"]) == pytest.approx(2 / 0.5, rel=0.01)  # sd of the patches' means is .5
    assert "largest move between any two areas: -4.0" in reliance_report(result)


def test_an_area_that_changes_what_a_texture_means_is_not_acquitted() -> None:
    rng = np.random.default_rng(0)
    texture, own = rng.permutation(np.repeat([-1.0, 1.0], 200)), rng.permutation(np.repeat([-0.2, 0.2], 200))
    responses = _responses(own, lambda area: texture[:, None] * (area - 0.5) * 2)
    result = reliance(responses, resamples=100)
    assert result["eta"]["high"] < 0.06  # patches of either texture move against each other
    assert result["largest"]["turned"] > 0.9
    assert result["reasons"] == ["between two areas 100 of 100 answers turn"]


def test_areas_that_no_patch_of_either_answer_has_are_not_used() -> None:
    responses = _responses(np.random.default_rng(0).choice([-1.0, 1.0], 200), lambda area: 0.1 * area)
    for most, areas in ((0.88, list(AREAS)), (0.5, [0.1, 0.3, 0.5])):
        part = replace(responses, area=np.linspace(0.12, most, 200))
        assert reliance(part, resamples=20)["areas"] == areas
    # Where the area leads, answers have no area in common: together they hold all.
    follows = np.where(responses.natural > 0, np.linspace(0.5, 0.9, 200), np.linspace(0.1, 0.5, 200))
    assert reliance(replace(responses, area=follows), resamples=20)["areas"] == list(AREAS)
    result = reliance(replace(responses, area=np.linspace(0.1, 0.26, 200)), resamples=20)
    assert (result["verdict"], result["areas"]) == ("not known", [0.1, 0.3])
    assert result["reasons"][0].startswith("areas of 0.1 to 0.9 are set, and patches called tumour hold 0.11 to 0.25")


def test_equal_patches_count_once_in_one_call_and_over_several() -> None:
    pixels, masks, patient = _patches(8)
    known = set[bytes]()
    copies = np.tile(pixels, (20, 1, 1, 1)), np.tile(masks, (20, 1, 1)), np.arange(160)
    responses = ask(_area, *copies, known=known)
    assert (len(responses.natural), responses.left_out) == (8, {"equal to others": 152})
    result = reliance(responses, resamples=20)
    assert (result["verdict"], result["patients"]) == ("not known", 8)
    assert "left out: 152 equal to others" in reliance_report(result)
    assert len(ask(_area, pixels, masks, patient, known=known).natural) == 0


def test_patients_count_by_their_shares_of_the_patches() -> None:
    evidence = np.random.default_rng(0).choice([-1.0, 1.0], 160)
    patient = np.r_[np.zeros(153, int), 1:8]
    result = reliance(_responses(evidence, FUNCTIONS["linear"], patient), resamples=20)
    assert (result["verdict"], result["patients"]) == ("not known", 8)
    assert result["effective_patients"] == pytest.approx(160**2 / (153**2 + 7))
    assert result["reasons"][0].startswith("1 of at least 8 patients")
    assert "they count as 1.1 patients" in reliance_report(result)
    for patients, is_few in ((8, True), (11, True), (12, False)):
        even = reliance(_responses(evidence, FUNCTIONS["linear"], np.arange(160) % patients), resamples=20)
        assert even["verdict"] == "relies"
        assert ("is not excluded" in limits_text(even)) == is_few


@pytest.mark.parametrize("area", AREAS)
def test_a_patch_has_the_area_that_is_set_and_keeps_its_colours(area: float) -> None:
    pixels, masks, _ = _patches(2)
    made = set_area(pixels[0], masks[0], area, np.random.default_rng(0))
    assert made.tissue.mean() == pytest.approx(area, abs=1 / SIDE**2)
    inner = cv2.erode(made.tissue.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    np.testing.assert_allclose(made.pixels[:, inner].mean(axis=1), [0.7, 0.3, 0.4], atol=0.06)
    outer = cv2.dilate(made.tissue.view(np.uint8), np.ones((5, 5), np.uint8)) == 0
    assert np.abs(made.pixels[:, outer].mean(axis=1) - 0.93).max(initial=0) < 0.03


def test_placebos_have_the_area_of_the_patch() -> None:
    pixels, masks, _ = _patches(1)
    made = list(edits(pixels[0], masks[0], seed=(0, 0)))
    assert len(made) == N_EDITS
    own = masks[0].mean()
    assert [edit.tissue.mean() for edit in (made[0], *made[-3:])] == pytest.approx([own] * 4, abs=1 / SIDE**2)
    np.testing.assert_array_equal(made[0].pixels, pixels[0])
    assert not np.array_equal(made[-3].pixels, pixels[0])


def test_models_of_any_kind_are_asked_on_arrays(tmp_path: Path) -> None:
    pixels, masks, patient = _patches(20)
    model = load_model(write_model(tmp_path / "model"), device="cpu")
    one, several = (audit_model(each, pixels, masks, patient) for each in (model, Ensemble([model])))
    assert one == several
    logits = model.predict_logits(pixels)
    own = ask(margins_of(Ensemble([model])), pixels, masks, patient).natural
    np.testing.assert_allclose(own, logits[:, 1] - logits[:, 0], atol=1e-4)
    assert audit_model(_colour, pixels, masks)["patients"] == 20


def test_patches_without_room_to_edit_are_left_out_and_counted() -> None:
    pixels, masks, patient = _patches(40)
    masks[:5], masks[5:10] = False, True
    responses = ask(_colour, pixels, masks, patient)
    assert len(responses.natural) == 30
    assert responses.left_out == {"with less than 10 % tissue": 5, "without ground to show": 5}
    ground = np.full((3, 100), 0.93, np.float32)
    assert len(ask(_colour, pixels, masks, patient, ground=ground).natural) == 35


def test_a_model_that_behaves_on_edited_patches_alone_is_not_acquitted() -> None:
    def margins(x: np.ndarray, tissue: np.ndarray) -> np.ndarray:
        z = _colour(x, tissue)
        z[0] = _area(x[:1], tissue[:1])[0]  # the patch as it is comes first
        return z

    found = audit_model(margins, *_patches())
    assert found["verdict"] == "not known"
    assert "the model may recognise edits" in found["reasons"][0]


def test_few_patients_and_few_patches_are_not_known() -> None:
    result = reliance(ask(_area, *_patches(40, patients=4)), resamples=50)
    assert result["verdict"] == "not known"
    assert [reason.split()[0] for reason in result["reasons"][:2]] == ["4", "40"]


def test_no_patch_at_all_is_not_known() -> None:
    pixels, masks, patient = _patches(3)
    result = reliance(ask(_colour, pixels, np.ones_like(masks), patient), resamples=10)
    assert (result["verdict"], result["patches"], result["left_out"]) == ("not known", 0, {"without ground to show": 3})


def test_answers_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="10 of 10 patches"):
        ask(lambda x, _: np.full(len(x), np.inf), *_patches(10))


def test_masks_that_are_no_masks_are_refused() -> None:
    pixels, masks, patient = _patches(3)
    for wrong in (masks.astype(np.uint8), masks[:2], masks[:, :8]):
        with pytest.raises(InputUnsupportedError, match="boolean masks"):
            ask(_colour, pixels, wrong, patient)


def test_areas_without_an_answer_are_left_out() -> None:
    def from_half(x: np.ndarray, tissue: np.ndarray) -> np.ndarray:
        return np.where(tissue.mean(axis=(1, 2)) >= least, _colour(x, tissue), np.nan)

    pixels, masks, patient = _patches(100, least=0.52)
    least = 0.45
    result = reliance(ask(from_half, pixels, masks, patient), resamples=100)
    assert result["areas"] == [0.5, 0.7, 0.9]
    assert [point["area"] for point in result["curve"]] == result["areas"]
    assert result["verdict"] == "not shown", result["reasons"]
    least = 0.6
    result = reliance(ask(from_half, pixels, masks, patient), resamples=100)
    assert result["reasons"] == ["the model has an answer at 2 of 5 areas"]


def test_the_response_of_a_class_is_that_of_its_patches_alone() -> None:
    asked = ask(_colour, *_patches(40))
    label = np.arange(40) % 3 - 1  # a third has none
    found = reliance(replace(asked, label=label), resamples=20)
    for number in (0, 1):
        own = dict(zip(AREAS, asked.areas[:, label == number].mean(axis=(0, 1)).tolist(), strict=True))
        for point in found["curve"]:
            assert point["by_class"][number]["value"] == pytest.approx(own[point["area"]])
    assert all(not point["by_class"] for point in reliance(asked, resamples=20)["curve"])


def test_a_model_of_crops_has_no_answer_without_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = made_spec(SIDE, mask="interior", crop_px=12)
    save_bundle(tmp_path / "model", build_network("small-groupnorm", 3, input_px=12), spec)
    margins = margins_of(Ensemble([load_model(tmp_path / "model", device="cpu")]))
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, :8, :8], masks[1, :20] = True, True
    assert np.isnan(margins(np.zeros((2, 3, SIDE, SIDE), np.float32), masks)).tolist() == [True, False]
    with pytest.raises(ChannelMismatchError, match="2 channels"):
        margins(np.zeros((2, 2, SIDE, SIDE), np.float32), masks)


def test_evidence_that_grows_with_the_tissue_is_no_reliance_on_it() -> None:
    evidence = np.repeat([-1.0, 1.0], 50)[:, None] * np.linspace(0.5, 1.5, 5)
    assert adj(evidence) == pytest.approx(0, abs=1e-9)
    assert eta(evidence) == pytest.approx(0, abs=1e-9)
    moved = evidence + np.linspace(-1, 1, 5)
    assert adj(moved) == pytest.approx(2)
    assert eta(moved) == pytest.approx(0.5 / (0.5 + evidence.var()))


def test_two_edits_that_disagree_are_not_known() -> None:
    measure = {"value": 2.0, "low": 1.5, "high": 2.5}
    share = {"value": 0.4, "low": 0.3, "high": 0.5}
    placebos = {name: {"turned": 0.1} for name in PLACEBOS}
    about = {
        "effective_patients": 9.0,
        "patches": 200,
        "positive": 0.4,
        "eta": share,
        "adj": measure,
        "placebos": placebos,
    }
    about["within"] = 0.5  # of no account where it relies
    assert judge(about | {"again": {"eta": 0.4, "adj": 1.8}})["verdict"] == "relies"
    assert judge(about | {"again": {"eta": 0.4, "adj": -1.8}})["reasons"] == ["the two kinds of edit disagree"]


def test_a_model_that_follows_what_goes_along_with_the_area_is_not_acquitted() -> None:
    rng = np.random.default_rng(0)
    evidence, area = np.repeat([-2.0, 2.0], 200), rng.uniform(0.1, 0.9, 400)
    stronger = evidence * (0.5 + area)  # more tissue, more evidence
    is_tumor = evidence > 0
    assert within(stronger, area, is_tumor, ~is_tumor) == pytest.approx(0, abs=0.1)
    assert within(stronger + 3 * area, area, is_tumor, ~is_tumor) > 0.6
    follows = np.where(evidence > 0, 0.5, 0.0) + 0.5 * area  # the area follows the class
    assert within(evidence + rng.normal(size=400) / 2, follows, is_tumor, ~is_tumor) == pytest.approx(0, abs=0.1)
    none = {"value": 0.01, "low": 0.0, "high": 0.02}
    placebos = {name: {"turned": 0.1} for name in PLACEBOS}
    about = {"effective_patients": 9.0, "patches": 200, "positive": 0.4, "eta": none, "adj": none, "placebos": placebos}
    about["again"] = {"eta": 0.01, "adj": 0.0}
    assert judge(about | {"within": 0.1})["verdict"] == "not shown"
    assert "fat or density" in judge(about | {"within": -0.4})["reasons"][0]
    moved = {"value": 0.9, "low": 0.5, "high": 1.3}  # by the set area too, though not surely enough
    unsure = {"value": 0.07, "low": 0.03, "high": 0.14}
    reasons = judge(about | {"within": 0.28, "eta": unsure, "adj": moved})["reasons"]
    assert reasons[0] == "the intervals reach over the limits of the rules"
    assert reasons[1].endswith("area of patches as they are (rank correlation within either answer 0.28)")


@pytest.mark.parametrize(
    ("measures", "verdict"),
    [
        ({"within": 0.1, "within_class": 0.5}, "not known"),  # the set area moves nothing, the patch's own does
        ({"within": 0.1, "within_class": 0.27}, "not shown"),
        ({"within": 0.1, "within_class": None}, "not known"),
        ({"within": 0.18, "is_trained_on_edits": False}, "not shown"),
    ],
)
def test_a_head_that_was_trained_on_edits_is_acquitted_by_what_it_was_not_trained_on(
    measures: dict[str, Any], verdict: str
) -> None:
    none = {"value": 0.002, "low": 0.0, "high": 0.01}
    about = {"effective_patients": 9.0, "patches": 200, "positive": 0.4, "eta": none, "adj": none, "placebos": {}}
    about |= {"again": {"eta": 0.01, "adj": 0.0}, "is_trained_on_edits": True}
    found = judge(about | measures)
    assert found["verdict"] == verdict
    if measures.get("within_class") == 0.5:
        assert "though not with the area that was set" in found["reasons"][0]
