"""Tiling a slide again: equal bytes, no work twice, stale or unfinished output replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_slides import h_and_e, low_counts, write_mask
from made_outlines import geojson, polygon, square
from numpy.typing import NDArray
from written_files import TIMES, contents

from pathopatch.core.artefacts import Stamp, fingerprint_file, read_table
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import read_json
from pathopatch.patches import source as source_module
from pathopatch.patches.labels import LabelSource
from pathopatch.patches.store import PatchStore, tile_stamp
from pathopatch.patches.tile import tile_slide

Make = Callable[..., Any]
Discs = NDArray[np.bool_]
CONFIG = TileConfig(patch_px=32)


def test_a_second_run_reads_no_patch_and_changes_no_file(
    make_slide: Make, two_discs: Discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, out = make_slide(low_counts(two_discs)), tmp_path / "work"
    tile_slide(slide, CONFIG, out)
    before = (contents(out, without=TIMES), (out / "status" / "slide.json").read_bytes())
    monkeypatch.setattr(source_module, "analyse_slide", lambda *_: pytest.fail("analysed again"))
    assert tile_slide(slide, CONFIG, out).state == "current"
    assert (contents(out, without=TIMES), (out / "status" / "slide.json").read_bytes()) == before


@pytest.mark.parametrize("change", ["config", "pixels", "mask", "mpp", "background", "patient"])
def test_stale_artefacts_stop_a_run_unless_forced(
    make_slide: Make, two_discs: Discs, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "work"
    pixels, mask = low_counts(two_discs), write_mask(tmp_path / "mask.png", two_discs)
    source = LabelSource(tumor_mask=mask)
    tile_slide(make_slide(pixels), CONFIG, out, labels=source)
    config, facts, patient = CONFIG, {}, "slide"
    if change == "config":
        config = TileConfig(patch_px=48)
    elif change == "pixels":
        pixels[0, 5, 5] += 1
    elif change == "mask":
        write_mask(mask, ~two_discs)
    elif change == "patient":
        patient = "other"
    else:
        facts = {"mpp": 0.5} if change == "mpp" else {"background": "bright"}
    slide = make_slide(pixels, **facts)
    before = contents(out, without=TIMES)
    with pytest.raises(StaleArtefactError, match="differs|was .*, is "):
        tile_slide(slide, config, out, labels=source, patient_id=patient)
    assert contents(out, without=TIMES) == before
    again = tile_slide(slide, config, out, labels=source, patient_id=patient, force=True)
    assert again.state == "done"
    assert contents(out, without=TIMES) != before


@pytest.mark.parametrize("at", ["store", "table", "status"])
@pytest.mark.parametrize("force", [False, True])
def test_a_run_killed_anywhere_is_unfinished_and_a_rerun_completes_it(
    make_slide: Make, two_discs: Discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, force: bool
) -> None:
    slide, out = make_slide(low_counts(two_discs)), tmp_path / "work"
    tile_slide(slide, CONFIG, tmp_path / "undisturbed")
    if force:  # another configuration's finished output stands there
        tile_slide(slide, TileConfig(patch_px=40), out)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        places = {
            "store": "pathopatch.patches.store_writer.StoreWriter.finish",
            "table": "pathopatch.core.artefacts.Job.write_table",
            "status": "pathopatch.core.artefacts.Job.record",
        }
        patched.setattr(places[at], die)
        with pytest.raises(KeyboardInterrupt):
            tile_slide(slide, CONFIG, out, force=force)
    entry = json.loads((out / "status" / "slide.json").read_text())["tile"]
    assert entry["state"] == "running"
    assert "stamp" not in entry
    # Without its status the pair of store and table is adopted, and only if it was made of the same.
    result = tile_slide(slide, CONFIG, out, force=force)
    assert result.state == ("current" if at == "status" else "done")
    assert contents(out, without=TIMES) == contents(tmp_path / "undisturbed", without=TIMES)
    assert read_json(out / "status" / "slide.json")["tile"]["state"] == "done"


def test_pixels_that_were_removed_are_not_current_with_force(
    make_slide: Make, two_discs: Discs, tmp_path: Path
) -> None:
    slide, out = make_slide(low_counts(two_discs)), tmp_path / "work"
    tile_slide(slide, CONFIG, out)
    assert tile_slide(slide, CONFIG, out, dry=True).state == "current"
    shutil.rmtree(out / "slides" / "slide.zarr" / "patches")
    assert tile_slide(slide, CONFIG, out, dry=True).state == "current"
    assert tile_slide(slide, CONFIG, out, dry=True, force=True).state == "to do"


def test_a_page_of_the_same_file_is_another_slide(
    make_slide: Make, two_discs: Discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = make_slide(low_counts(two_discs))
    tile_slide(slide, CONFIG, tmp_path / "work")
    monkeypatch.setattr(slide, "_pixels", slide._pixels[::-1])
    del slide.fingerprint  # which an open slide keeps
    with pytest.raises(StaleArtefactError, match="'slide' differs"):
        tile_slide(slide, CONFIG, tmp_path / "work")


@pytest.mark.parametrize("look", [low_counts, h_and_e])
def test_a_correction_tiles_anew_and_without_it_all_is_as_before(
    make_slide: Make, two_discs: Discs, tmp_path: Path, look: Callable[[Discs], Any]
) -> None:
    slide, out = make_slide(look(two_discs)), tmp_path / "work"
    y, x = (int(places.mean()) for places in np.nonzero(two_discs[:, : two_discs.shape[1] // 2]))
    glass_y, glass_x = np.argwhere(~two_discs[:-40, :-40])[0]
    tile_slide(slide, CONFIG, out)
    path = geojson(
        tmp_path,
        polygon(square(x - 10, y - 10, 20), name="Not tissue"),
        polygon(square(float(glass_x), float(glass_y), 12), name="missed tissue"),
    )
    with pytest.raises(StaleArtefactError, match="tissue_mask"):
        tile_slide(slide, CONFIG, out, tissue_mask=path)
    before, untouched = read_table(out / "patches" / "slide.parquet"), contents(out, without=TIMES)
    tile_slide(slide, CONFIG, out, tissue_mask=path, force=True)
    after = read_table(out / "patches" / "slide.parquet")
    assert 0 < (after["tissue_fraction"] != before["tissue_fraction"]).sum() < len(after) / 4
    corrected = PatchStore(out / "slides" / "slide.zarr").tissue()
    assert (corrected[y, x], corrected[glass_y + 6, glass_x + 6]) == (0, 1)
    tile_slide(slide, CONFIG, out, force=True)
    assert contents(out, without=TIMES) == untouched


def test_corrections_stand_alone(make_slide: Make, two_discs: Discs, tmp_path: Path) -> None:
    outlines = [polygon(square(2, 2, 9), name=name) for name in ("Not tissue", "Tissue")]
    with pytest.raises(InputUnsupportedError, match="beside outlines of the classes Tissue"):
        tile_slide(
            make_slide(low_counts(two_discs)), CONFIG, tmp_path / "work", tissue_mask=geojson(tmp_path, *outlines)
        )


def test_a_store_of_version_0_2_is_current_while_its_files_are(make_slide: Make, two_discs: Discs) -> None:
    slide = make_slide(low_counts(two_discs))
    for mark, is_current in ((fingerprint_file(slide.paths[0]), True), ("another", False)):
        now = tile_stamp(slide, CONFIG, "S", "P", None, None)
        earlier = Stamp(stage="tile", settings=now.settings, inputs={"slide 0": mark, "pixels": "as probed then"})
        stamp = tile_stamp(slide, CONFIG, "S", "P", None, None, earlier=earlier)
        assert (not stamp.differences(earlier)) == is_current
