"""A head on features predicts slides by the weights of its encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from array_slides import h_and_e
from made_encoders import PX, write_head, write_torchscript
from made_slides import write_rgb_pyramid

from pathopatch.core.artefacts import content_fingerprint, read_table
from pathopatch.core.config import EncodeConfig, PredictConfig
from pathopatch.core.errors import CheckpointIncompatibleError, InputMissingError, InputUnsupportedError
from pathopatch.core.status import read_status
from pathopatch.core.task import Outcome
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.encode import encode_cohort
from pathopatch.stages.encoder import encoder_of_head
from pathopatch.stages.find_slides import features_to_predict, slides_to_predict
from pathopatch.stages.predict import predict_cohort

CONFIG = PredictConfig(device="cpu")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder whose features are the mean red, green and blue of a patch."""
    return write_torchscript(tmp_path / "mean.pt")


@pytest.fixture
def slide(tmp_path: Path, two_discs: np.ndarray) -> Path:
    """Two discs of tissue on glass at 0.5 um/px."""
    write_rgb_pyramid(tmp_path / "slide.tif", h_and_e(two_discs), mpp=0.5, levels=1)
    return tmp_path / "slide.tif"


def predict_encoded(
    cohort: Sequence[SlideRow],
    head: Path,
    weights: Path,
    out: Path,
    config: PredictConfig = CONFIG,
    *,
    mpp: float | None = None,
) -> list[Outcome]:
    encoder = encoder_of_head(head, weights, config, mpp=mpp)
    return predict_cohort(cohort, head, out, config, encoder=encoder)


@pytest.mark.slow
def test_a_head_predicts_a_slide_as_it_predicts_its_features(
    tmp_path: Path, slide: Path, encoder: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    head, out, by_steps = write_head(tmp_path / "head", encoder), tmp_path / "out", tmp_path / "steps"
    (tmp_path / "mpp.toml").write_text("[predict]\nencoder_mpp = 0.5\n")
    options = ("--weights", encoder, "--config", tmp_path / "mpp.toml", "--device", "cpu", "--quiet")
    assert typed("predict", slide, "--model", head, "-o", out, *options) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(out / "heatmaps" / "slide" / "overlay.png")
    config = EncodeConfig(
        encoder=str(encoder), input_px=PX, mean=(0.0,) * 3, std=(1.0,) * 3, mpp=0.5, device="cpu", threads=1
    )
    encoded = encode_cohort(str(slide), config, tmp_path / "work")
    predict_cohort(features_to_predict(encoded.folder, slides=slide.parent), head, by_steps, CONFIG)
    one, other = (read_table(folder / "predictions" / "slide.parquet") for folder in (out, by_steps))
    assert len(one) > 3
    np.testing.assert_allclose(one["logit"], other["logit"], atol=1e-5)
    assert one.drop(columns=["logit", "probability"]).equals(other.drop(columns=["logit", "probability"]))
    for name in ("heatmap.ome.tif", "overlay.png"):
        assert (out / "heatmaps" / "slide" / name).is_file()
    assert {stage: entry["state"] for stage, entry in read_status(out, "slide").items()} == {
        "encode": "done", "predict": "done",
    }  # fmt: skip
    assert (out / "cohort.csv").is_file()


def test_a_slide_that_the_head_was_trained_on_is_told_under_another_name(
    tmp_path: Path, slide: Path, encoder: Path
) -> None:
    head = write_head(tmp_path / "head", encoder, marks={"train_slides": content_fingerprint([slide])[:16]})
    cohort = slides_to_predict(str(slide.rename(tmp_path / "renamed.tif")))
    (outcome,) = predict_encoded(cohort, head, encoder, tmp_path / "out", mpp=0.5)
    assert "the model was trained on this slide" in outcome.warnings[0]


def test_a_slide_that_is_encoded_and_predicted_is_left_as_it_is(tmp_path: Path, slide: Path, encoder: Path) -> None:
    head, cohort = write_head(tmp_path / "head", encoder), slides_to_predict(str(slide))
    states = [predict_encoded(cohort, head, encoder, tmp_path / "out", mpp=0.5) for _ in range(2)]
    assert [outcome.state for (outcome,) in states] == ["done", "current"]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"name": "other"}, 'name is "mean", the model\'s "other"'),
        ({"dim": 4}, "dim is 3, the model's 4"),
        ({"weights_sha256": "0" * 64}, "weights_sha256 is"),
        ({"name": None}, "does not say of which encoder"),
    ],
)
def test_another_encoder_than_the_heads_is_refused(
    stated: dict[str, object], message: str, tmp_path: Path, slide: Path, encoder: Path
) -> None:
    head = write_head(tmp_path / "head", encoder, **stated)
    with pytest.raises(CheckpointIncompatibleError, match=message):
        predict_encoded(slides_to_predict(str(slide)), head, encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_an_encoder_that_only_another_tool_has_are_refused(
    tmp_path: Path, slide: Path, encoder: Path
) -> None:
    head = write_head(tmp_path / "head", encoder, name="uni_v2")
    weights = tmp_path / "model.safetensors"
    weights.touch()
    with pytest.raises(CheckpointIncompatibleError, match="'uni_v2', which pathopatch encode does not know"):
        predict_encoded(slides_to_predict(str(slide)), head, weights, tmp_path / "out")


def test_what_needs_pixels_or_a_scale_is_refused_before_a_slide_is_opened(tmp_path: Path, encoder: Path) -> None:
    head, out = write_head(tmp_path / "head", encoder), tmp_path / "out"
    cohort = [replace(row, source="nowhere.tif") for row in slides_to_predict(str(tmp_path / "a.tif"))]
    with pytest.raises(InputUnsupportedError, match="without tta"):
        predict_encoded(cohort, head, encoder, out, PredictConfig(device="cpu", tta=True), mpp=0.5)
    with pytest.raises(InputMissingError, match="made for no scale"):
        predict_encoded(cohort, head, encoder, out)
    with pytest.raises(InputMissingError, match="no file none.pt"):
        predict_encoded(cohort, head, tmp_path / "none.pt", out)
