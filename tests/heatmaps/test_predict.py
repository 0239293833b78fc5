"""The heatmap law on painted slides: the cells lie on the squares, at any scale, stride and edge."""

import math

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from made_prediction import MeanIntensity, grey_slide, mean_model
from made_slides import write_channel, write_scn

from pathopatch.core.config import IntensityConfig, PredictConfig, TissueConfig
from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError, NonFiniteError
from pathopatch.heatmaps import predict
from pathopatch.heatmaps.prediction_files import _tissue_warnings
from pathopatch.heatmaps.slide_prediction import predict_slide
from pathopatch.heatmaps.stitch import stitch
from pathopatch.models.forward import Ensemble
from pathopatch.models.spec import TrainingRange, tiling_of
from pathopatch.patches.grid import Grid
from pathopatch.patches.tile import tile_slide
from pathopatch.slides import open_slide
from pathopatch.training.dataset import load_patches

LOW, DARK, BRIGHT = 10, 100, 200  # glass, tissue that scales to 0, tissue that scales to 1
MPP = 0.5


class Overlap(MeanIntensity):
    """Two logits, 0 and the mean of the product of both channels."""

    def forward(self, x):
        return super().forward(x[:, :1] * x[:, 1:])


def checkered(height, width, side):
    """Return an image of squares that begin at whole multiples of a real side, and which of them are bright."""
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    values = np.random.default_rng(5).choice([LOW, DARK, BRIGHT], (rows, columns), p=[0.2, 0.4, 0.4])
    values.flat[:3] = BRIGHT, DARK, LOW
    y, x = (np.minimum(((np.arange(n) + 0.5) / side).astype(int), k - 1) for n, k in ((height, rows), (width, columns)))
    return values.astype(np.uint8)[y][:, x], values == BRIGHT


def predict_table(slide, model, **options):
    return predict_slide(slide, model, **options).table


def heatmap(table, slide, *, patch, stride, downsample=1.0):
    grid = Grid(width=slide.size[0], height=slide.size[1], downsample=downsample, patch_px=patch, stride_px=stride)
    return stitch(grid, table["x"], table["y"], table["logit"])


ALL = PredictConfig(all_patches=True)


@pytest.mark.parametrize("size", [(96, 128), (90, 131), (10, 40)], ids=["whole", "padded", "narrower than a patch"])
def test_each_cell_is_its_square_at_the_slides_own_scale(tmp_path, size):
    image, bright = checkered(*size, 16)
    with grey_slide(tmp_path / "a.tif", image) as slide:
        table = predict_table(slide, mean_model(), config=ALL)
        cells = heatmap(table, slide, patch=16, stride=16)
    inside = [np.minimum(n - 16 * np.arange(k), 16) / 16 for n, k in zip(size, bright.shape, strict=True)]
    # Padding is background, which scales to 0: an overhanging patch holds its square in part.
    np.testing.assert_allclose(cells, bright * inside[0][:, None] * inside[1], atol=1e-6)


@pytest.mark.parametrize("downsample", [2.0, 1.37])
def test_each_cell_is_its_square_at_a_coarser_target(tmp_path, downsample):
    side = 16 * downsample
    image, bright = checkered(round(8 * side), round(11 * side), side)
    with grey_slide(tmp_path / "a.tif", image) as slide:
        table = predict_table(slide, mean_model(mpp=MPP * downsample), config=ALL)
        cells = heatmap(table, slide, patch=16, stride=16, downsample=downsample)
    # Origins are whole px: at 1.37 a patch is off its square by half a px of 22 at most, and so are painted edges.
    tolerance = 1e-6 if downsample == 2 else 2 * 1.0 / side
    np.testing.assert_allclose(cells, bright, atol=tolerance)


@pytest.mark.parametrize("stride", [8, 12, 5])
def test_overlapping_patches_average_over_each_pixel_they_cover(tmp_path, stride):
    height, width, patch = 75, 98, 16
    image, _ = checkered(height, width, 16)
    with grey_slide(tmp_path / "a.tif", image) as slide:
        table = predict_table(slide, mean_model(patch, stride), config=ALL)
        cells = heatmap(table, slide, patch=patch, stride=stride)
    scaled = np.pad((image == BRIGHT).astype(float), ((0, patch), (0, patch)))
    total, number = np.zeros((height, width)), np.zeros((height, width))
    for y in range(0, height, stride):
        for x in range(0, width, stride):
            area = np.s_[y : y + patch, x : x + patch]
            total[area] += scaled[area].mean()
            number[area] += 1
    for row, y in enumerate(range(0, height, stride)):
        for column, x in enumerate(range(0, width, stride)):
            cell = np.s_[y : y + stride, x : x + stride]
            assert cells[row, column] == pytest.approx(total[cell].sum() / number[cell].sum(), abs=1e-6)


def test_the_table_names_places_and_sizes_in_level_0_px(tmp_path):
    image, _ = checkered(60, 60, 32)
    with grey_slide(tmp_path / "my slide.tif", image) as slide:
        table = predict_table(slide, mean_model(mpp=MPP * 1.37, temperature=0.5), config=ALL)
    assert table["patch_id"].tolist()[:3] == ["my_slide@0,0", "my_slide@22,0", "my_slide@44,0"]
    assert table["x"].tolist()[3:6] == [0, 22, 44]
    assert set(table["width"]) == set(table["height"]) == {22}  # 16 * 1.37 = 21.92
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-table["logit"] / 0.5)))


def glass_with_tissue(tissue_rows):
    """Return 4 x 4 patches of 16 px; patch (0, 0) is tissue, patch (0, 1) in its first rows, the rest is glass."""
    image = np.full((64, 64), LOW, np.uint8)
    image[:16, :16] = BRIGHT
    image[:tissue_rows, 16:32] = DARK
    return image


def test_patches_below_the_models_min_tissue_are_not_predicted(tmp_path):
    with grey_slide(tmp_path / "a.tif", glass_with_tissue(4)) as slide:
        for least, due in ((0.25, ["a@0,0", "a@16,0"]), (0.26, ["a@0,0"])):
            table = predict_table(slide, mean_model(min_tissue=least))
            assert table["patch_id"].tolist() == due
        assert table["tissue_fraction"].tolist() == [1.0]


def test_the_config_may_set_min_tissue_or_ask_for_all(tmp_path):
    with grey_slide(tmp_path / "a.tif", glass_with_tissue(4)) as slide:
        assert len(predict_table(slide, mean_model(), config=PredictConfig(min_tissue=0.5))) == 1
        everything = predict_table(slide, mean_model(), config=ALL)
        assert len(predict_table(slide, mean_model(), config=PredictConfig(min_tissue=0))) == 16
    assert len(everything) == 16
    assert everything["tissue_fraction"].tolist() == [1.0, 0.25] + [0.0] * 14


class FirstChannel(MeanIntensity):
    """Two logits, 0 and the mean of the first channel."""

    def forward(self, x):
        return super().forward(x[:, :1])


def test_channels_are_taken_by_name_whatever_their_order_and_case(tmp_path):
    image = np.stack([checkered(96, 96, 16)[0], np.full((96, 96), DARK)]).astype(np.uint8)
    model = mean_model(network=FirstChannel, channels=("CARS", "SHG"), mean=(0.0, 0.0), std=(1.0, 1.0))
    tables = []
    for name, planes, channels in (("a", image, ("CARS", "SHG")), ("b", image[::-1], ("shg", "Cars"))):
        metadata = {"axes": "CYX", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP, "Channel": {"Name": list(channels)}}
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", planes, photometric="minisblack", metadata=metadata)
        with open_slide(tmp_path / f"{name}.ome.tif", background="dark") as slide:
            assert slide.channels == channels
            tables.append(predict_table(slide, model, config=ALL, slide_id="s"))
    assert tables[0].logit.nunique() > 1
    pd.testing.assert_frame_equal(*tables)


def test_a_slide_of_other_channels_is_refused(tmp_path):
    with (
        grey_slide(tmp_path / "a.tif", np.zeros((64, 64), np.uint16)) as slide,
        pytest.raises(ChannelMismatchError, match="uint16"),
    ):
        predict_table(slide, mean_model())


def test_logits_that_are_not_finite_name_their_patches(tmp_path):
    with (
        grey_slide(tmp_path / "a.tif", glass_with_tissue(4)) as slide,
        pytest.raises(NonFiniteError, match=r"a@0,0, a@16,0"),
    ):
        predict_table(slide, mean_model(gain=float("nan")))


def test_a_stride_beyond_the_patch_is_refused():
    spec = mean_model().spec
    assert tiling_of(spec, PredictConfig(stride_px=4)).step_px == 4
    with pytest.raises(InputUnsupportedError, match="stride of 17 px"):
        tiling_of(spec, PredictConfig(stride_px=17))


OFFSET, SIZE, FRAME = (64, 32), (160, 96), (288, 192)  # (x, y), (width, height), level-0 px


def squares(side):
    """Values 0, 64, 128 of squares of a given side, (rows, columns)."""
    return np.random.default_rng(3).choice([0, 64, 128], (SIZE[1] // side, SIZE[0] // side)).astype(np.uint8)


def painted_scn(path, side):
    values = squares(side)
    image = np.repeat(np.kron(values, np.ones((side, side), np.uint8))[None], 3, axis=0)
    write_scn(path, image, OFFSET, FRAME)
    return values


def rgb_model(patch, stride, mpp):
    return mean_model(
        patch,
        stride,
        mpp=mpp,
        channels=("R", "G", "B"),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        background="bright",
        intensity=IntensityConfig(),
        tissue=TissueConfig(background="bright", method="fixed", fixed_threshold=0.2, min_speck_um2=0, max_hole_um2=0),
    )


@pytest.mark.parametrize(("patch", "stride", "downsample"), [(16, 16, 1), (16, 16, 2), (16, 8, 1)])
def test_cells_lie_on_their_squares_in_the_level_0_frame(tmp_path, patch, stride, downsample):
    side = patch * downsample
    values = painted_scn(tmp_path / "a.scn", side)
    with open_slide(tmp_path / "a.scn", background="bright") as slide:
        assert slide.size == (OFFSET[0] + SIZE[0], OFFSET[1] + SIZE[1]) or slide.size == FRAME
        assert slide.bounds == (*OFFSET, *SIZE)
        table = predict_table(slide, rgb_model(patch, stride, 0.5 * downsample), config=ALL)
        heat = heatmap(table, slide, patch=patch, stride=stride, downsample=downsample)
    per_square = patch // stride
    left, top = (offset // side * per_square for offset in OFFSET)
    expected = np.kron(values / 255, np.ones((per_square, per_square)))
    height, width = expected.shape
    cells = heat[top : top + height, left : left + width]
    if stride == patch:
        np.testing.assert_allclose(cells, expected, atol=1e-6)
        outside = np.ones_like(heat, bool)
        outside[top : top + height, left : left + width] = False
        np.testing.assert_allclose(heat[outside], 1, atol=1e-6)  # beyond the bounds is white glass
    else:  # the first cell of a square at the bounds' corner is shared by four patches: one on it, three half off
        patches = {(x, y): logit for x, y, logit in zip(table["x"], table["y"], table["logit"], strict=True)}
        x, y = OFFSET
        shared = [patches[(x - i * stride, y - j * stride)] for i in (0, 1) for j in (0, 1)]
        assert patches[OFFSET] == pytest.approx(values[0, 0] / 255, abs=1e-6)
        assert cells[0, 0] == pytest.approx(np.mean(shared), abs=1e-6)


def two_planes(folder, shift):
    """Write one tissue in two channels, the second `shift` px further on; return the open slide."""
    rng = np.random.default_rng(1)
    tissue = cv2.GaussianBlur(
        (cv2.GaussianBlur(rng.normal(size=(360, 360)), (0, 0), 5) > 0.02).astype(float), (0, 0), 1
    )
    planes = [200 * tissue[20:340, 20 - x : 340 - x] + rng.uniform(5, 15, (320, 320)) for x in (0, shift)]
    for name, plane in zip(("a", "b"), planes, strict=True):
        write_channel(folder / f"{name}{shift}.tif", plane.astype(np.uint8), mpp=MPP)
    return open_slide({"CARS": folder / f"a{shift}.tif", "SHG": folder / f"b{shift}.tif"}, background="dark")


def test_a_model_of_aligned_channels_aligns_each_slide_by_its_own_shift(tmp_path):
    kinds = {"channels": ("CARS", "SHG"), "mean": (0.0, 0.0), "std": (1.0, 1.0), "intensity": IntensityConfig()}
    with two_planes(tmp_path, 8) as apart, two_planes(tmp_path, 0) as together:
        plain, aligning = (mean_model(64, 64, network=Overlap, align=align, **kinds) for align in (False, True))
        expected = predict_table(together, aligning, slide_id="s")
        moved = predict_table(apart, aligning, slide_id="s")
        as_recorded = predict_table(apart, plain, slide_id="s")
    inner = expected["x"] < 256  # the last column holds pixels from outside
    assert np.abs(moved["logit"] - expected["logit"])[inner].max() < 0.02
    assert np.abs(as_recorded["logit"] - expected["logit"])[inner].min() > 0.04


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_are_filled_across_the_rows_of_the_grid_and_change_nothing(tmp_path, monkeypatch, batch):
    image, _ = checkered(96, 128, 16)
    sizes = []
    model = mean_model()
    forward = model.runtime.logits
    monkeypatch.setattr(model.runtime, "logits", lambda x, **rest: sizes.append(len(x)) or forward(x, **rest))
    with grey_slide(tmp_path / "a.tif", image) as slide:
        due = predict_table(slide, mean_model())
        monkeypatch.setattr(predict, "_MOST_PATCHES", batch)
        table = predict_table(slide, model)
    pd.testing.assert_frame_equal(table, due, rtol=1e-6)
    whole, rest = divmod(len(table), batch)
    assert sizes == [batch] * whole + [rest] * bool(rest)


@pytest.mark.parametrize(
    ("batch_bytes", "per_pass", "expected"), [(4 * 16**2 * 5, 2, 4), (4 * 16**2 * 5, 9, 5), (1, 4, 1)]
)
def test_a_batch_is_whole_passes_and_of_bounded_memory(tmp_path, monkeypatch, batch_bytes, per_pass, expected):
    monkeypatch.setattr(predict, "_BATCH_BYTES", batch_bytes)
    sizes = []
    model = mean_model()
    forward = model.runtime.logits
    monkeypatch.setattr(model.runtime, "patches_per_pass", per_pass)
    monkeypatch.setattr(model.runtime, "logits", lambda x, **rest: sizes.append(len(x)) or forward(x, **rest))
    with grey_slide(tmp_path / "a.tif", checkered(96, 128, 16)[0]) as slide:
        predict_table(slide, model, config=ALL)
    assert set(sizes[:-1]) == {expected}


def test_the_table_has_its_columns_and_types_with_and_without_rows(tmp_path):
    blank = np.full((64, 64), LOW, np.uint8)
    with (
        grey_slide(tmp_path / "a.tif", glass_with_tissue(4)) as slide,
        grey_slide(tmp_path / "b.tif", blank) as glass,
    ):
        some, none = predict_table(slide, mean_model()), predict_table(glass, mean_model())
    assert (some.dtypes == none.dtypes).all()
    assert (len(some), len(none)) == (2, 0)
    assert some["spread"].isna().all()  # one model is of one opinion
    assert some["flag_blurred"].isna().all()  # a bundle from before what was seen was kept


def test_what_is_measured_is_what_tiling_measures(tmp_path):
    image, _ = checkered(90, 131, 16)
    image = np.random.default_rng(0).normal(image, 8).clip(0, 255).astype(np.uint8)
    model = mean_model()
    with grey_slide(tmp_path / "a.tif", image) as slide:
        tile_slide(slide, tiling_of(model.spec, ALL), tmp_path / "work", slide_id="a")
        table = predict_table(slide, model, config=ALL).set_index("patch_id")
    tiled = pd.read_parquet(tmp_path / "work" / "patches" / "a.parquet").set_index("patch_id")
    for name in ("tissue_fraction", "saturated_fraction", "sharpness"):
        np.testing.assert_allclose(table[name], tiled.loc[table.index, name], rtol=1e-6)


@pytest.mark.parametrize("mpp", [MPP, 1.37 * MPP], ids=["own scale", "coarser"])
def test_evaluate_and_predict_agree_on_the_same_patches(tmp_path, mpp):
    image, _ = checkered(90, 131, 16)
    image = np.random.default_rng(0).normal(image, 8).clip(0, 255).astype(np.uint8)
    model = mean_model(mpp=mpp, input_px=12)
    with grey_slide(tmp_path / "a.tif", image) as slide:
        tile_slide(slide, tiling_of(model.spec, ALL), tmp_path / "work", slide_id="a")
        table = predict_table(slide, model, config=ALL).set_index("patch_id")
    groups = pd.read_parquet(tmp_path / "work" / "patches" / "a.parquet").assign(split="test", label=1)
    patches = load_patches(tmp_path / "work", groups, input_px=12, splits=("test",), cache_gib=0)
    logits = model.predict_logits(patches.read(slice(0, len(patches))))
    np.testing.assert_allclose(table.loc[patches.patch_id, "logit"], logits[:, 1] - logits[:, 0], atol=1e-6)


def test_a_patch_unlike_those_of_training_is_flagged(tmp_path):
    with grey_slide(tmp_path / "a.tif", glass_with_tissue(16)) as slide:
        seen = TrainingRange(mean=((0.0, 0.9),))  # patch (0, 0) has 1, patch (0, 1) about 0.47
        table = predict_table(slide, mean_model(seen=seen)).set_index("patch_id")
    assert table["flag_out_of_range"].to_dict() == {"a@0,0": True, "a@16,0": False}


class MeanOverTissue(MeanIntensity):
    """Two logits, 0 and the mean of the scaled patch over its mask."""

    def forward(self, x):
        pixels, mask = x[:, :-1], x[:, -1:]
        mean = self.gain * (pixels * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp_min(1)
        return torch.stack([torch.zeros_like(mean), mean], dim=1)


def test_a_masked_model_is_given_the_tissue_of_each_patch(tmp_path, monkeypatch):
    image, _ = checkered(100, 120, 10.0)
    slide = grey_slide(tmp_path / "a.tif", image)
    model = mean_model(16, 12, network=MeanOverTissue, mask="normalise")
    for batch in (3, 64):
        monkeypatch.setattr(predict, "_MOST_PATCHES", batch)
        table = predict_table(slide, model)
        assert len(table) > 60
        for row in table.itertuples():
            patch = np.full((16, 16), LOW, np.uint8)
            part = image[row.y : row.y + 16, row.x : row.x + 16]
            patch[: part.shape[0], : part.shape[1]] = part
            expected = (patch[patch > LOW] == BRIGHT).mean()
            assert row.logit == pytest.approx(expected, abs=1e-6)


def test_a_model_of_crops_sees_tissue_alone_and_gives_no_answer_without_one(tmp_path, monkeypatch):
    image = glass_with_tissue(4)  # of patch (0, 1) a quarter: no crop of 8 px fits
    image[32:48, :10] = BRIGHT  # a strip: its interior is 9 px wide, for the edge of a patch is no rim
    slide = grey_slide(tmp_path / "a.tif", image)
    model = mean_model(mask="interior", crop_px=8)
    for batch in (1, 64):
        monkeypatch.setattr(predict, "_MOST_PATCHES", batch)
        prediction = predict_slide(slide, model)
        assert prediction.table["patch_id"].tolist() == ["a@0,0", "a@0,32"]
        np.testing.assert_allclose(prediction.table["logit"], [1.0, 1.0], atol=1e-6)  # no pixel of glass
    source = predict.slide_source(slide, model.spec, "a", PredictConfig())
    made = predict.predict_patches(source, Ensemble([model]), PredictConfig())
    assert (len(made.too_little_tissue), made.unreadable) == (1, 0)
    maps = dict(zip(*reversed(made.maps()), strict=True))
    assert np.argwhere(made.without_answer(maps)).tolist() == [[0, 1]]  # glass without a patch has no mark
    everything = predict.predict_patches(source, Ensemble([model]), PredictConfig(all_patches=True))
    assert len(everything.too_little_tissue) == 1  # not the glass
    assert _tissue_warnings(made) == [
        "1 of 16 patches (6.2%) hold too little tissue for a crop that the model could judge and have no value"
    ]
