"""The command encode: what it lists, what it passes on, what it prints."""

from pathlib import Path

import pytest
from array_slides import h_and_e
from made_encoders import write_torchscript
from made_slides import write_rgb_pyramid

from pathopatch.features.encoders import ENCODERS
from pathopatch.features.readers import open_features


def test_encoders_are_listed_with_their_licence(said):
    lines = said("encode", "--list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(ENCODERS)
    assert "CC BY-NC-ND 4.0" in lines[0]


def test_options_reach_the_encoder_and_its_folder_is_printed(typed, capsys, tmp_path, two_discs):
    write_rgb_pyramid(tmp_path / "slide.tif", h_and_e(two_discs), mpp=0.5, levels=1)
    encoder = write_torchscript(tmp_path / "mean.pt")
    stated = ["--input-px", 32, "--mean", "0.5,0.5,0", "--std", "1,1,2", "--mpp", 0.5, "--min-tissue", 0.5]
    given = ["encode", tmp_path / "slide.tif", "--encoder", encoder, "-o", tmp_path / "work", "--device", "cpu", "-q"]
    assert typed(*given, *stated) == 0
    folder, states = capsys.readouterr().out.splitlines()
    assert states == "slides: 1 done"
    features = open_features(Path(folder)).read("slide")
    assert (features.encoder.mean, features.encoder.std) == ((0.5, 0.5, 0.0), (1.0, 1.0, 2.0))
    assert features.tissue_fraction.min() >= 0.5
    assert features.features[:, 0].max() <= 245 / 255 - 0.5 + 1e-6


@pytest.mark.parametrize(
    ("options", "text"),
    [(["--mean", "0.5,x"], "no list of numbers"), (["--channels", "A,B"], "channels"), (["--encoder", "uni3"], "uni3")],
)
def test_bad_options_are_refused_before_any_slide_is_opened(typed, capsys, tmp_path, options, text):
    given = {"--encoder": "efficientnet-lite0", **dict([options])}
    arguments = [part for option in given.items() for part in option]
    assert typed("encode", tmp_path / "none.tif", *arguments, "-o", tmp_path / "work") != 0
    assert text in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
