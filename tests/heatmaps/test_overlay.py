"""The picture: the map lies on the slide to the pixel, and nothing else changes the slide."""

import numpy as np
import pytest
from PIL import Image

from pathopatch.heatmaps.colors import blended
from pathopatch.heatmaps.overlay import ORIGIN, Legend, blend, render, view_size
from pathopatch.patches.picture import write_png


def _grey(height=120, width=160):
    return np.full((height, width, 3), 128, np.uint8)


def _one_cell(ny, nx, row, column, value=1.0):
    cells = np.full((ny, nx), np.nan)
    cells[row, column] = value
    return cells


@pytest.mark.parametrize(("cell", "rows", "columns"), [(8.0, (16, 24), (24, 32)), (5.48, (11, 16), (16, 22))])
def test_a_cell_colours_exactly_the_pixels_whose_centres_it_holds(cell, rows, columns):
    # Cell (2, 3) of side 5.48 spans rows 10.96 to 16.44 and columns 16.44 to 21.92.
    shape = (-(-120 // int(cell)), -(-160 // int(cell)))
    changed = (blend(_grey(), _one_cell(*shape, 2, 3), (cell, cell)) != 128).any(axis=2)
    due = np.zeros((120, 160), bool)
    due[rows[0] : rows[1], columns[0] : columns[1]] = True
    np.testing.assert_array_equal(changed, due)


def test_rows_and_columns_have_their_own_scale():
    changed = (blend(_grey(), _one_cell(6, 20, 1, 1), (20.0, 8.0)) != 128).any(axis=2)
    assert np.argwhere(changed).min(axis=0).tolist() == [20, 8]
    assert np.argwhere(changed).max(axis=0).tolist() == [39, 15]


def _texture(ground):
    """A slide of tissue with fine structure beside glass, uint8 (96, 192, 3)."""
    noise = np.random.default_rng(0).normal(0, 25, (96, 96, 1))
    tissue, glass = ((190, 120, 170), 245) if ground == "bright" else ((120, 70, 40), 8)
    return np.hstack([np.clip(tissue + noise, 0, 255), np.full((96, 96, 3), glass)]).astype(np.uint8)


@pytest.mark.parametrize("ground", ["bright", "dark"])
@pytest.mark.parametrize("probability", [0.0, 0.01, 0.02])
def test_tissue_and_glass_without_a_finding_look_as_on_the_slide(ground, probability):
    slide = _texture(ground)
    shown = blend(slide, np.full((2, 4), probability), (48.0, 48.0), ground)
    assert np.abs(shown.astype(int) - slide).max() < 3
    if probability == 0:
        np.testing.assert_array_equal(shown, slide)


@pytest.mark.parametrize("ground", ["bright", "dark"])
def test_the_map_fills_tissue_alone_and_a_cell_without_any_whole(ground):
    slide = _texture(ground)
    tissue = np.zeros((24, 48), bool)  # of the overview, four times as coarse
    tissue[:, :20] = True  # the first cell and two thirds of the second; none in the third and fourth
    changed = (blend(slide, np.ones((2, 4)), (48.0, 48.0), ground, tissue) != slide).any(axis=2)
    assert changed[:, :80].all()
    assert not changed[:, 80:96].any()
    assert changed[:, 96:].all()


@pytest.mark.parametrize("ground", ["bright", "dark"])
def test_tissue_keeps_three_fifths_of_its_contrast_under_the_map(ground):
    slide = _texture(ground)[:, :96]
    shown = blend(slide, np.ones((2, 2)), (48.0, 48.0), ground)
    before, after = (
        picture.astype(float).mean(axis=2).reshape(12, 8, 12, 8).std(axis=(1, 3)) for picture in (slide, shown)
    )
    assert (after / before).min() >= 0.6


@pytest.mark.parametrize(("ground", "glass"), [("bright", 245), ("dark", 8)])
def test_more_probability_is_a_stronger_colour(ground, glass):
    slide = np.full((10, 110, 3), glass, np.uint8)
    shown = blend(slide, np.linspace(0, 1, 11)[None], (10.0, 10.0), ground)[5, 5::10].astype(float)
    assert (np.diff(np.abs(shown - glass).sum(axis=1)) > 3).all()


@pytest.mark.parametrize("picture", [(190, 120, 170), (90, 60, 130), (215, 160, 190), (150, 95, 60)])
def test_hues_of_the_bright_map_are_far_from_stained_tissue(picture):
    # Pink, purple, pale pink and brown under the map turn towards green, which no usual stain has.
    shown = blend(np.full((4, 4, 3), picture, np.uint8), np.ones((1, 1)), (4.0, 4.0))[0, 0].astype(int)
    assert shown[1] > shown[0]
    assert shown[1] > shown[2]


@pytest.mark.parametrize("ground", ["bright", "dark"])
def test_colours_are_within_their_range_at_any_probability(ground):
    # 1.2888934919352835e-09 was 255.00000000000003, which no plot takes.
    values = np.concatenate([[1.2888934919352835e-09], np.random.default_rng(0).uniform(size=100_000) ** 8])
    colors = blended(np.full(3, 0 if ground == "dark" else 255), values, ground, highest=1.0)
    assert colors.min() >= 0
    assert colors.max() <= 255


def test_the_rendered_picture_holds_the_blended_slide_at_its_origin():
    picture, cells = _grey(1000, 1100), _one_cell(10, 11, 4, 5)
    sheet = render(picture, cells, cell_px=(100.0, 100.0), um_per_px=0.5)
    row, column = ORIGIN
    view, due = sheet[row : row + 1000, column : column + 1100], blend(picture, cells, (100.0, 100.0))
    inner = np.zeros((1000, 1100), bool)
    inner[410:490, 510:590] = True
    np.testing.assert_array_equal(view[inner], due[inner])
    edge = (view != due).any(axis=2)  # the dashed line, within the cell
    assert (np.argwhere(edge).min(axis=0).tolist(), np.argwhere(edge).max(axis=0).tolist()) == ([400, 500], [499, 599])


def test_a_dashed_line_surrounds_the_analysed_cells_only():
    cells = np.full((10, 10), np.nan)
    cells[2:6, 3:7] = 0.0
    sheet = render(_grey(1000, 1000), cells, cell_px=(100.0, 100.0), um_per_px=1)
    row, column = ORIGIN
    changed = (sheet[row : row + 1000, column : column + 1000] != 128).any(axis=2)
    assert not changed[210:590, 310:690].any()
    line = changed[200, 300:700]
    assert 0.3 < line.mean() < 0.7
    changed[200:600, 300:700] = False
    assert not changed.any()


def test_the_outline_stays_inside_the_cells_called_tumour():
    cells = np.full((10, 10), 0.2)
    cells[3:5, 3:5] = 0.9
    with_line, without = (
        render(_grey(1000, 1000), cells, cell_px=(100.0, 100.0), um_per_px=1, legend=Legend(threshold=threshold))
        for threshold in (0.5, 0.95)
    )
    row, column = ORIGIN
    changed = (with_line != without).any(axis=2)[row : row + 1000, column : column + 1000]
    assert changed[300:500, 300:500].any()
    changed[300:500, 300:500] = False
    assert not changed.any()


def test_the_scale_bar_is_as_long_as_it_says():
    sheet = render(_grey(1000, 1000), np.full((1, 1), np.nan), cell_px=(1000.0, 1000.0), um_per_px=2.0)
    row, column = ORIGIN
    line = sheet[row + 1000 + 17, column:]
    assert (line[:100] == 25).all()  # a quarter of 2000 um is 500 um: 250 px
    assert (line == 25).all(axis=1).sum() == 250


def test_a_map_of_nan_is_drawn_and_says_so():
    empty, full = (
        render(_grey(), np.full((2, 2), value), cell_px=(80.0, 80.0), um_per_px=1.0) for value in (np.nan, 0.5)
    )
    row, column = ORIGIN
    assert (empty[row : row + 100, column : column + 100] == 128).all()
    assert (empty[:, -250:] != full[:, -250:]).any()
    assert (empty[row:-40, -8:] == 255).all()  # the text ends before the margin


def test_equal_pictures_give_equal_bytes_and_hold_no_metadata(tmp_path):
    image = render(_grey(), np.full((2, 2), 0.5), cell_px=(80.0, 80.0), um_per_px=1.0, legend=Legend(name="s1"))
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, image)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as read:
        assert read.info == {}
        np.testing.assert_array_equal(np.asarray(read), image)


@pytest.mark.usefixtures("large_pictures")
@pytest.mark.parametrize("shape", [(700, 900), (40, 1000), (1000, 40), (3, 2), (1, 500), (1536, 1000), (3, 1536)])
def test_the_place_of_the_slide_in_the_picture_follows_from_its_size(shape):
    picture = np.zeros((*shape, 3), np.uint8)  # black, and the frame is not
    sheet = render(picture, np.full((2, 2), np.nan), cell_px=(shape[0] / 2, shape[1] / 2), um_per_px=1.0)
    (top, left), (height, width) = ORIGIN, view_size(sheet.shape[:2], shape)
    factor = max(1, 1000 // max(shape))
    assert (height, width) == (factor * shape[0], factor * shape[1])
    assert not sheet[top : top + height, left : left + width].any()
    assert sheet[top + height, left].any()
    if max(shape) == 1536:  # as large as pictures get: of a larger slide, whose sides were rounded
        assert view_size(sheet.shape[:2], tuple(37 * side + 9 for side in shape)) == (height, width)


def test_undecodable_cells_are_hatched_to_their_edge_and_in_the_legend():
    picture, cells = _grey(1000, 1000), _one_cell(10, 10, 4, 5)
    unreadable = np.zeros((10, 10), bool)
    unreadable[2, 3] = True
    plain, hatched = (
        render(picture, cells, hatched={"unreadable": marked}, cell_px=(100.0, 100.0), um_per_px=0.5)
        for marked in (np.zeros_like(unreadable), unreadable)
    )
    row, column = ORIGIN
    changed = np.argwhere((plain != hatched).any(axis=2)[row : row + 1000, column : column + 1000])
    assert (changed.min(axis=0).tolist(), changed.max(axis=0).tolist()) == ([200, 300], [299, 399])
    assert 0.2 < len(changed) / 100**2 < 0.5
    assert (plain != hatched)[row : row + 1000, column + 1000 :].any()


def test_a_warning_stands_in_the_legend_and_the_map_is_untouched():
    picture, cells = _grey(1000, 1000), _one_cell(10, 10, 4, 5)
    plain, warned = (
        render(picture, cells, cell_px=(100.0, 100.0), um_per_px=0.5, legend=Legend(warnings=warnings))
        for warnings in ((), ("model's scale: unknown", "model was selected on", "this very slide"))
    )
    changed = np.argwhere((plain != warned).any(axis=2))
    assert changed[:, 1].min() > ORIGIN[1] + 1000
    assert changed[:, 1].max() < plain.shape[1] - 1  # it ends on the sheet


def test_the_line_around_a_hole_is_dashed_and_the_outer_one_is_not():
    cells = np.full((10, 10), 0.9)
    cells[4:6, 4:6] = 0.1
    sheet = render(_grey(1000, 1000), cells, cell_px=(100.0, 100.0), um_per_px=1, legend=Legend(threshold=0.5))
    row, column = ORIGIN
    view = sheet[row : row + 1000, column : column + 1000].astype(int)
    is_drawn = [(line.max(axis=1) < 20).mean() for line in (view[450:550, 999], view[399, 405:595])]
    assert is_drawn[0] == 1
    assert 0.3 < is_drawn[1] < 0.7


def test_what_opens_at_a_corner_is_no_hole():
    cells = np.full((10, 10), 0.9)
    cells[4:6, 4:6] = cells[:4, 6] = 0.1  # they meet at a corner, as on the review page
    sheet = render(_grey(1000, 1000), cells, cell_px=(100.0, 100.0), um_per_px=1, legend=Legend(threshold=0.5))
    row, column = ORIGIN
    line = sheet[row + 500, column + 600 : column + 603].astype(int)
    assert line.max(axis=1).min() < 20


def test_the_legend_is_the_same_on_pale_and_deep_slides():
    bars = []
    for grey in (240, 90):
        picture = np.full((1000, 1000, 3), grey, np.uint8)
        sheet = render(picture, np.full((2, 2), 0.4), cell_px=(500.0, 500.0), um_per_px=1)
        bars.append(sheet[:, ORIGIN[1] + 1010 :])
    np.testing.assert_array_equal(*bars)
