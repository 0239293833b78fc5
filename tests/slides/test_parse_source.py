"""What a command line names: a file, or a file of each channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_model import write_model
from made_slides import disc_image, write_channel

from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import ChannelMismatchError
from pathopatch.slides import parse_source
from pathopatch.slides.discovery_files import set_name
from pathopatch.stages.predict import predict_cohort, slides_to_predict


@pytest.mark.parametrize("text", ["CARS=a.tif,SHG=b.tif", " CARS = a.tif , SHG= b.tif ", "CARS=a.tif,  SHG =b.tif"])
def test_blanks_around_commas_and_equals_signs_do_not_count(text: str) -> None:
    assert parse_source(text) == {"CARS": "a.tif", "SHG": "b.tif"}


def test_a_channel_named_twice_in_two_cases_is_refused() -> None:
    with pytest.raises(ChannelMismatchError):
        parse_source("CARS=a.tif,cars=b.tif")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"CARS": "x/s01_CARS.tif", "SHG": "x/s01_SHG.tif"}, "s01"),
        ({"shg": "x/SHG-s01.ome.tif", "Cars": "x/cars-s01.ome.tif"}, "s01"),
        ({"CARS": "x/s01 cars 20x.tif", "SHG": "x/s01 shg 20x.tif"}, "s01 20x"),
        ({"CARS": "x/s7/cars.tif", "SHG": "x/s7/shg.tif"}, "s7"),
        ({"CARS": "x/cars/s01.tif", "SHG": "x/shg/s01.tif"}, "s01"),
        ({"CARS": "x/s01.tif#page=0", "SHG": "x/s01.tif#page=1"}, "s01"),
        ({"CARS": "x/a.tif", "SHG": "x/b.tif"}, "a"),
    ],
)
def test_a_set_of_files_is_named_by_what_their_stems_share(files: dict[str, str], name: str) -> None:
    assert set_name(files) == name


def test_channels_are_predicted_in_any_order_and_case(tmp_path: Path) -> None:
    image = disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    for name, plane in zip("RGB", image, strict=True):
        write_channel(tmp_path / f"s1_{name}.tif", plane)
    model = write_model(tmp_path / "model")
    tables = []
    for number, order in enumerate(("RGB", "bRg")):
        source = ", ".join(f"{name} = {tmp_path}/s1_{name.upper()}.tif" for name in order)
        rows = slides_to_predict(source)
        (outcome,) = predict_cohort(rows, model, tmp_path / str(number), PredictConfig(device="cpu"))
        assert (outcome.slide_id, outcome.state) == ("s1", "done")
        tables.append((tmp_path / str(number) / "heatmaps" / "s1" / "patches.csv").read_bytes())
    assert tables[0] == tables[1]
    assert np.char.count(str(tables[0]), "\\n") > 2
