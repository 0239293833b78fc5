"""The patches.csv of wsinfer: golden text."""

import pandas as pd

from pathopatch.heatmaps.wsinfer_csv import write_wsinfer_csv


def test_the_table_is_wsinfers_to_the_letter(tmp_path):
    table = pd.DataFrame({"x": [0, 224], "y": [0, 448], "width": 224, "height": 224, "probability": [0.25, 1e-7]})
    write_wsinfer_csv(tmp_path / "patches.csv", table, class_names=("non-tumour", "tumour"))
    assert (tmp_path / "patches.csv").read_bytes() == (
        b"minx,miny,width,height,prob_non-tumour,prob_tumour\n0,0,224,224,0.75,0.25\n224,448,224,224,0.9999999,1e-07\n"
    )


def test_no_patch_leaves_the_header(tmp_path):
    empty = pd.DataFrame({"x": [], "y": [], "width": [], "height": [], "probability": []})
    write_wsinfer_csv(tmp_path / "patches.csv", empty, class_names=("no", "yes"))
    assert (tmp_path / "patches.csv").read_text() == "minx,miny,width,height,prob_no,prob_yes\n"
