"""Interventions in training: what is composed, reproducibly, for any method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_patches import toy

from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import ComposingConfig, TrainConfig
from pathopatch.core.errors import InputUnsupportedError, NoTissueError
from pathopatch.core.mask_bits import pack_masks
from pathopatch.debias.interventions import Composition, Patch, compose, plan
from pathopatch.debias.methods import method
from pathopatch.metrics import auroc
from pathopatch.training.checkpoint import CheckpointFolder
from pathopatch.training.dataset import PatchMasks, PatchSet, Source
from pathopatch.training.fit import fit_arrays
from pathopatch.training.intervene import COPIES_PER_CLASS, Intervention, composed_validation, intervention_of

SIDE = 16


def masked(n_per_cell: list[list[int]], seed: int = 0) -> PatchSet:
    """Patches whose tissue is the first rows of pixels, as many as their fraction asks for; ground is dark."""
    patches = toy(n_per_cell, seed=seed, side=SIDE)
    area = np.rint(patches.tissue_fraction * SIDE**2).astype(int)
    mask = (np.arange(SIDE**2) < area[:, None]).reshape(-1, SIDE, SIDE)
    x = np.where(mask[:, None], patches.x, np.float16(0.02)).astype(np.float16)
    return replace(patches, x=x, tissue=PatchMasks(pack_masks(mask), SIDE), tissue_fraction=mask.mean(axis=(1, 2)))


def config(**changes: Any) -> TrainConfig:
    settings = {
        "method": "erm", "input_px": SIDE, "steps": 8, "batch_per_class": 8, "evaluations": 4, "threads": 1,
        "device": "cpu", "composing": {"share": 0.5},
    }  # fmt: skip
    return TrainConfig.model_validate(settings | changes)


TRAIN, VAL = masked([[30, 6], [6, 30]]), masked([[20, 20], [20, 20]], seed=1)


def weights(result: Any) -> list[torch.Tensor]:
    return list(result.network.state_dict().values())


def test_the_share_is_met_in_the_mean_within_each_class() -> None:
    intervention = Intervention(TRAIN, share=0.3, seed=0)
    indices = np.concatenate([np.flatnonzero(TRAIN.label == y)[:5] for y in (0, 1)]).tolist()
    drawn = [intervention.draw(indices, step) for step in range(400)]
    places = [place for draw in drawn for place in draw]
    for y in (0, 1):
        assert np.isin(places, range(5 * y, 5 * y + 5)).sum() / (400 * 5) == pytest.approx(0.3, abs=0.03)
    assert intervention.draw(indices, 7) == drawn[7]
    assert max(max(draw.values(), default=0) for draw in drawn) < COPIES_PER_CLASS


def test_a_copy_is_the_same_whenever_and_by_whom_it_is_made() -> None:
    first, second = Intervention(TRAIN, share=1, seed=3), Intervention(TRAIN, share=1, seed=3)
    later = [second.copy(1, number)[0] for number in (5, 2, 9)]
    for number, pixels in zip((5, 2, 9), later, strict=True):
        np.testing.assert_array_equal(first.copy(1, number)[0], pixels)
    assert first.copy(1, 5)[0] is first.copy(1, 5)[0]  # kept
    assert (first.copy(1, 5)[0] != Intervention(TRAIN, share=1, seed=4).copy(1, 5)[0]).any()


def test_areas_of_composed_patches_are_alike_in_both_classes() -> None:
    intervention = Intervention(TRAIN, share=1, seed=0)
    areas = [np.array([intervention.copy(y, number)[1].mean() for number in range(300)]) for y in (0, 1)]
    assert abs(areas[0].mean() - areas[1].mean()) < 0.06
    assert abs((areas[0] >= 0.25).mean() - (areas[1] >= 0.25).mean()) < 0.12
    natural = [TRAIN.tissue_fraction[TRAIN.label == y].mean() for y in (0, 1)]
    assert natural[1] - natural[0] > 0.3


def test_a_batch_holds_composed_patches_of_its_labels_and_their_new_attribute() -> None:
    intervention = Intervention(TRAIN, share=1, seed=0, threshold=0.25)
    indices = list(range(20))
    drawn = intervention.draw(indices, 0)
    assert len(drawn) == 20
    x = TRAIN.read(indices)
    own = np.arange(4, 12)
    part = x[4:12].copy()
    intervention.apply(part, own, indices, drawn)
    for row, place in enumerate(own.tolist()):
        pixels, tissue = intervention.copy(int(TRAIN.label[place]), drawn[place])
        np.testing.assert_array_equal(part[row], pixels.astype(np.float32))
        assert intervention.attributes(indices, drawn)[place] == (tissue.mean() >= 0.25)


def test_base_and_donors_share_their_tissue_with_patches_of_the_other_class(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def spy(base: Patch, donors: list[Patch], *arguments: Any, others: Any, **settings: Any) -> Composition:
        given.append((base, donors, others))
        return compose(base, donors, *arguments, others=others, **settings)

    monkeypatch.setattr("pathopatch.training.intervene.compose", spy)
    assert TRAIN.tissue is not None
    tissue = TRAIN.tissue.read(np.arange(len(TRAIN)))
    tissue[TRAIN.label == 1] = tissue[TRAIN.label == 1, ::-1]  # no mask is in both classes
    intervention = Intervention(replace(TRAIN, tissue=PatchMasks(pack_masks(tissue), SIDE)), share=1, seed=0)
    for label in (0, 1):
        masks = {mask.tobytes() for mask in tissue[TRAIN.label == 1 - label]}
        for number in range(5):
            intervention.compose(label, number)
            _, donors, others = given[-1]
            assert len(others) == 1 + len(donors)
            assert all(mask.tobytes() in masks for of_patch in others for mask in of_patch)


def test_an_attribute_that_is_not_the_area_stays() -> None:
    flipped = TRAIN.with_attribute(1 - TRAIN.attribute)
    intervention = Intervention(flipped, share=1, seed=0, threshold=0.25)
    drawn = intervention.draw(list(range(20)), 0)
    np.testing.assert_array_equal(intervention.attributes(list(range(20)), drawn), flipped.attribute[:20])


def test_a_masked_network_trains_on_masks_that_move_with_their_patches() -> None:
    with_masks = masked([[20, 20], [20, 20]], seed=1)
    settings = config(method="erm-balanced", composing={"share": 1.0}, mask="normalise")
    result = fit_arrays(TRAIN, with_masks, settings)
    # Other values outside the tissue do not change the logits, so the mask reached the network.
    assert with_masks.tissue is not None
    tissue = with_masks.tissue.read(np.arange(len(with_masks)))
    brighter = replace(with_masks, x=np.where(tissue[:, None], with_masks.x, np.float16(0.9)))
    np.testing.assert_array_equal(result.logits(with_masks), result.logits(brighter))


def test_batch_norms_over_all_pixels_are_refused_for_a_masked_network() -> None:
    with pytest.raises(InputUnsupportedError, match="statistics over all pixels"):
        fit_arrays(TRAIN, VAL, config(architecture="resnet18", mask="normalise", input_px=32))


@pytest.mark.parametrize("name", ["erm", "resample", "groupdro", "gerne"])
def test_a_resumed_run_meets_the_same_composed_patches(name: str, tmp_path: Any) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int, measures: dict[str, float]) -> None:
        if done == 5:
            raise Killed

    settings = config(method=name)
    undisturbed = fit_arrays(TRAIN, VAL, settings)
    with pytest.raises(Killed):
        fit_arrays(TRAIN, VAL, settings, checkpoints=CheckpointFolder(tmp_path, Stamp(stage="f")), progress=kill)
    resumed = fit_arrays(TRAIN, VAL, settings, checkpoints=CheckpointFolder(tmp_path, Stamp(stage="f")))
    assert all(map(torch.equal, weights(resumed), weights(undisturbed)))
    natural = fit_arrays(TRAIN, VAL, settings.model_copy(update={"composing": ComposingConfig()}))
    assert any(not torch.equal(a, b) for a, b in zip(weights(natural), weights(resumed), strict=True))


def test_without_an_intervention_masks_change_nothing() -> None:
    settings = config(composing={})
    bare = replace(TRAIN, tissue=None)
    assert all(map(torch.equal, weights(fit_arrays(TRAIN, VAL, settings)), weights(fit_arrays(bare, VAL, settings))))


def test_the_share_is_the_users_or_by_the_smallest_group() -> None:
    def share(name: str, data: PatchSet = TRAIN, **changes: Any) -> float | None:
        own = intervention_of(method(name), data, config(**changes))
        return None if own is None else own._share

    assert share("erm", composing={}) is None
    assert share("erm", composing={"share": "auto"}) == pytest.approx(0.94)
    assert share("erm", masked([[30, 0], [6, 30]]), composing={"share": "auto"}) == 1
    assert share("auto", composing={}) == pytest.approx(0.94)
    assert share("auto", composing={"share": 0.5}) == 0.5  # what the user sets comes first


def test_validation_without_a_group_selects_by_copies_of_the_others() -> None:
    biased = masked([[20, 0], [0, 20]], seed=1)
    composed = composed_validation(biased, config(threshold=0.25))
    counts = np.bincount(2 * composed.label + composed.attribute, minlength=4)
    assert counts.sum() == 1200
    assert counts.min() > 200
    assert composed.tissue is not None
    np.testing.assert_array_equal(composed.tissue.read(slice(None)).mean(axis=(1, 2)), composed.tissue_fraction)
    np.testing.assert_array_equal(composed.attribute, composed.tissue_fraction >= 0.25)
    patient_of = dict(zip(biased.patch_id.tolist(), biased.patient.tolist(), strict=True))
    for name, patient in zip(composed.patch_id.tolist(), composed.patient.tolist(), strict=True):
        assert patient_of[name.rpartition("#")[0]] == patient
    result = fit_arrays(TRAIN, biased, config(method="erm-balanced", composing={"share": 1.0}, threshold=0.25, steps=2))
    assert result.validation["is_composed"]
    assert result.decision_chosen_for == "wga"
    assert (
        "is_composed"
        not in fit_arrays(TRAIN, VAL, config(method="erm-balanced", composing={"share": 1.0}, steps=2)).validation
    )
    assert "is_composed" not in fit_arrays(TRAIN, biased, config(composing={}, steps=2)).validation


def test_validation_by_another_attribute_than_the_area_is_not_composed() -> None:
    flipped = masked([[20, 0], [0, 20]], seed=1)
    flipped = flipped.with_attribute(1 - flipped.attribute)
    with pytest.raises(InputUnsupportedError, match="not by tissue area"):
        fit_arrays(TRAIN, flipped, config(method="erm-balanced", composing={"share": 1.0}, threshold=0.25, steps=2))


def test_patches_without_masks_and_classes_without_tissue_are_refused() -> None:
    with pytest.raises(InputUnsupportedError, match="needs the tissue mask"):
        Intervention(replace(TRAIN, tissue=None), share=1, seed=0)
    empty = np.zeros((len(TRAIN), SIDE, SIDE), np.bool_)
    assert TRAIN.tissue is not None
    empty[TRAIN.label == 0] = TRAIN.tissue.read(np.flatnonzero(TRAIN.label == 0))
    with pytest.raises(NoTissueError, match="class 1 has no training patch with tissue"):
        Intervention(replace(TRAIN, tissue=PatchMasks(pack_masks(empty), SIDE)), share=1, seed=0)


def _with_tumor(share_of_tissue: float = 1.0, *, least: float | None = 0.1, known: bool = True) -> PatchSet:
    """Patches of slides whose label is by the share of tumour, which is the first part of a tumour patch's tissue."""
    assert TRAIN.tissue is not None
    tissue = TRAIN.tissue.read(slice(None))
    first = np.arange(SIDE**2).reshape(SIDE, SIDE) < share_of_tissue * tissue.sum(axis=(1, 2))[:, None, None]
    tumor = tissue & first & (TRAIN.label == 1)[:, None, None]
    source = Source(channels=("A",), dtype="uint8", patch_px=SIDE, stride_px=SIDE, mpp=1.0, least_tumor=least)
    has_tumor = np.full(len(TRAIN), True)
    has_tumor[-1] = known
    return replace(TRAIN, source=source, tumor=PatchMasks(pack_masks(tumor), SIDE), has_tumor=has_tumor)


@pytest.mark.parametrize("least", [None, 0.1])
def test_labels_by_the_share_of_tumour_keep_that_share(least: float | None) -> None:
    intervention = Intervention(_with_tumor(0.6, least=least), share=1, seed=0)
    made = [intervention.compose(1, number) for number in range(60)]
    share = np.array([composition.tumor.mean() for composition in made if composition.tumor is not None])
    assert len(share) == 60
    if least is None:
        assert share.min() < 0.1
    else:
        assert share.min() >= 0.1
    healthy = [intervention.compose(0, number).tumor for number in range(20)]
    assert not any(tumor is None or tumor.any() for tumor in healthy)


def test_labels_by_the_share_of_tumour_need_to_know_where_it_is() -> None:
    with pytest.raises(InputUnsupportedError, match="a patch is tumour from 10 % of tumour on"):
        Intervention(_with_tumor(known=False), share=1, seed=0)
    with pytest.raises(InputUnsupportedError, match="is not known of all"):
        Intervention(replace(_with_tumor(), tumor=None), share=1, seed=0)
    Intervention(_with_tumor(known=False, least=None), share=1, seed=0)


def test_composing_without_validation_warns_that_the_threshold_may_be_far_off() -> None:
    settings = config(select="last", tune_threshold=False, steps=2)
    with pytest.warns(UserWarning, match="its threshold may be far off"):
        fit_arrays(TRAIN, None, settings)
    with pytest.warns(UserWarning, match="its threshold may be far off"):
        fit_arrays(TRAIN, VAL, settings)
    fit_arrays(TRAIN, VAL, config(steps=2))
    fit_arrays(TRAIN, None, config(select="last", tune_threshold=False, steps=2, composing={}))


def test_sizes_of_parts_and_pieces_follow_one_law_in_both_classes_of_a_biased_cohort() -> None:
    """Bases are balanced, so the law must be theirs: by natural fractions the kept part has an AUROC of 0.58."""
    intervention = Intervention(masked([[60, 6], [6, 60]]), share=1, seed=0)
    plans = [
        [
            plan(
                intervention._fractions,
                label=y,
                fraction=float(intervention.area[base]),
                rng=np.random.default_rng([y, number]),
            )
            for number, base in enumerate(intervention.bases[y].tolist())
        ]
        for y in (0, 1)
    ]
    label = np.repeat([0, 1], [len(part) for part in plans])
    for measure in ("keep", "target"):
        values = np.array([getattr(drawn, measure) for part in plans for drawn in part])
        assert auroc(values, label) == pytest.approx(0.5, abs=0.02), measure
    pieces = np.array([drawn.pieces[0] for part in plans for drawn in part])
    assert auroc(pieces, label) == pytest.approx(0.5, abs=0.02)
