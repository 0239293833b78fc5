"""Crops that lie wholly in tissue: where they are, that they hide the area, and that bundles predict by them."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from made_model import made_spec

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.bundle import save_bundle
from pathopatch.models.export import export_model
from pathopatch.models.interior import (
    CROPS,
    choose_crop_px,
    crop_shares,
    cut_crops,
    has_crop,
    interior,
    largest_crop_px,
    random_corner,
    spread_corners,
)
from pathopatch.models.loading import load_model
from pathopatch.models.networks import InteriorCrops, build_network, classifier_of

SIDE, CROP = 48, 12


def _disc(radius, y=24, x=24, side=SIDE):
    rows, columns = np.indices((side, side))
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_the_interior_has_no_holes_and_no_rim():
    tissue = _disc(16)
    tissue[20:24, 20:24] = False
    inside = interior(tissue)
    np.testing.assert_array_equal(inside, interior(_disc(16)))
    assert not (inside.astype(bool) & ~_disc(16)).any()
    assert inside[24, 24 + 14]
    assert not inside[24, 24 + 15]
    assert interior(np.ones((SIDE, SIDE), bool)).all()  # tissue goes on beyond the patch
    wide = interior(_disc(60, 96, 96, side=192))  # a 64th of the side
    assert wide[96, 96 + 56]
    assert not wide[96, 96 + 57]


def test_the_share_of_each_crop_is_counted():
    inside = interior(_disc(15))
    shares = crop_shares(inside, CROP)
    assert shares.shape == (SIDE - CROP + 1,) * 2
    for row, column in ((0, 0), (18, 20), (30, 12)):
        assert shares[row, column] == pytest.approx(inside[row : row + CROP, column : column + CROP].mean())


def test_crops_lie_in_the_tissue_and_far_apart():
    tissue = _disc(20)
    corners = spread_corners(tissue, CROP)
    assert len({tuple(corner) for corner in corners.tolist()}) == CROPS
    assert all(crop_shares(interior(tissue), CROP)[row, column] >= 0.95 for row, column in corners)
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    assert distance[~np.eye(CROPS, dtype=bool)].min() > 5
    drawn = {random_corner(tissue, CROP, draw) for draw in np.linspace(0, 0.999, 50)}
    assert len(drawn) > 40
    assert all(crop_shares(interior(tissue), CROP)[place] >= 0.95 for place in drawn)


def test_of_few_crops_none_is_taken_twice_and_without_one_the_fullest_is():
    tissue = np.zeros((SIDE, SIDE), bool)
    tissue[10:25, 10:24] = True  # the interior has 13 x 12 px
    assert sorted(map(tuple, spread_corners(tissue, CROP).tolist())) == [(11, 11), (12, 11)]
    small = _disc(6)
    assert has_crop(np.stack([tissue, small, np.zeros_like(small)]), CROP).tolist() == [True, False, False]
    (corner,) = spread_corners(small, CROP)
    assert crop_shares(interior(small), CROP)[tuple(corner)] == crop_shares(interior(small), CROP).max()
    assert random_corner(small, CROP, 0.7) == tuple(corner)


def test_the_side_serves_95_percent_of_each_class_and_bin():
    fraction = np.repeat([0.15, 0.45, 0.85], 40)
    label = np.tile([0, 1], 60)
    largest = np.repeat([10, 20, 40], 40)
    largest[:1] = 0  # 1 of 20 of the first class and bin
    choice = choose_crop_px(largest, label, fraction)
    assert (choice.crop_px, choice.left_out) == (10, ())
    largest[:6] = 0
    choice = choose_crop_px(largest, label, fraction)
    assert choice.crop_px == 20
    assert [(y, round(low, 2), round(high, 2)) for y, low, high in choice.left_out] == [
        (0, 0.15, 0.25),
        (1, 0.15, 0.25),
    ]
    with pytest.raises(InputUnsupportedError, match="no crop of 8 px"):
        choose_crop_px(np.zeros_like(largest), label, fraction)


def test_the_largest_crop_of_a_mask():
    tissue = np.zeros((SIDE, SIDE), bool)
    tissue[4:30, 4:40] = True  # the interior has 24 x 34 px; 95 % of 25 px are not even
    assert largest_crop_px(tissue) == 24
    assert largest_crop_px(np.ones((SIDE, SIDE), bool)) == SIDE
    assert largest_crop_px(_disc(4)) == 0


def _masked(x, tissue):
    return torch.from_numpy(np.concatenate([x, tissue[:, None].astype(np.float32)], axis=1))


def test_a_network_of_crops_does_not_see_the_area_and_prediction_is_the_same_everywhere(tmp_path):
    torch.manual_seed(0)
    inner = build_network("small-groupnorm", 3, input_px=CROP)
    network = InteriorCrops(inner, CROP).eval()
    assert classifier_of(network) is classifier_of(inner)
    rng = np.random.default_rng(0)
    x = rng.random((3, 3, SIDE, SIDE), dtype=np.float32)
    tissue = np.stack([_disc(20), _disc(12), _disc(5)])
    with torch.inference_mode():
        logits = network(_masked(x, tissue)).numpy()
        seen = np.zeros_like(tissue)
        for mask, one in zip(tissue, seen, strict=True):
            for row, column in spread_corners(mask, CROP):
                one[row : row + CROP, column : column + CROP] = True
        assert (seen & ~tissue)[:2].sum() < 0.05 * seen[:2].sum()  # hardly any glass
        changed = np.where(seen[:, None], x, 0.9).astype(np.float32)
        np.testing.assert_array_equal(network(_masked(changed, tissue)).numpy(), logits)
        crops, owner = cut_crops(_masked(x, tissue).numpy(), CROP)
        assert np.bincount(owner).tolist()[0] == CROPS
        each = inner(torch.from_numpy(crops)).numpy()
    expected = np.stack([each[owner == number].mean(axis=0) for number in range(3)])
    np.testing.assert_allclose(logits, expected, atol=1e-6)

    spec = made_spec(SIDE, input_px=SIDE, mask="interior", crop_px=CROP, mean=(0.0,) * 3, std=(1.0,) * 3)
    save_bundle(tmp_path / "model", inner, spec)
    for runtime in ("torch", "openvino"):
        model = load_model(tmp_path / "model", device="cpu", runtime=runtime, precision="float32")
        assert model.spec.input_shape == (3, CROP, CROP)
        np.testing.assert_allclose(model.predict_logits(x, tissue), logits, atol=1e-5)
        assert model.takes(tissue).tolist() == [True, True, False]
    with pytest.raises(InputUnsupportedError, match="needs the tissue mask"):
        model.predict_logits(x)


def test_training_draws_other_crops_each_time_and_repeats_them_by_the_seed():
    torch.manual_seed(0)
    network = InteriorCrops(build_network("small-groupnorm", 3, input_px=CROP), CROP).train()
    x = _masked(np.random.default_rng(0).random((4, 3, SIDE, SIDE), dtype=np.float32), np.stack([_disc(20)] * 4))
    torch.manual_seed(1)
    first, second = network(x), network(x)
    torch.manual_seed(1)
    torch.testing.assert_close(network(x), first, rtol=0, atol=0)
    assert (first != second).any()


def test_an_export_is_an_ordinary_classifier_of_crops_that_states_their_rule(tmp_path):
    torch.manual_seed(0)
    inner = build_network("small-groupnorm", 3, input_px=CROP)
    spec = made_spec(2 * SIDE, input_px=SIDE, mask="interior", crop_px=CROP)
    save_bundle(tmp_path / "model", inner, spec)
    assert "has no answer" in (tmp_path / "model" / "README.md").read_text()
    assert export_model(tmp_path / "model", tmp_path / "onnx", kind="onnx")
    about = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert about["input"]["shape"] == ["N", 3, CROP, CROP]
    assert about["model"]["mpp"] == 1.0  # two px of a patch are one of the network's
    assert "up to 8 crops of 12 px" in about["crops"]
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    crops = np.random.default_rng(0).random((4, 3, CROP, CROP), dtype=np.float32)
    (probability,) = session.run(["probabilities"], {"patches": crops})
    with torch.inference_mode():
        expected = inner.eval()(torch.from_numpy((crops - 0.5) / 0.2)).softmax(dim=1).numpy()
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert not export_model(tmp_path / "model", tmp_path / "onnx", kind="onnx")
