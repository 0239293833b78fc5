"""Slide classifiers are stored whole and read only as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathopatch.core.errors import CheckpointIncompatibleError, InputCorruptError, InputMissingError, NonFiniteError
from pathopatch.core.files import read_json, write_json
from pathopatch.models.attention_pooling import SlideClassifier
from pathopatch.models.slide_bundle import SlideModelSpec, load_slide_model, save_slide_model
from pathopatch.models.weights import file_sha256


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, SlideClassifier]:
    torch.manual_seed(0)
    network = SlideClassifier(6, 4, is_gated=True).eval()
    spec = SlideModelSpec(
        pooling="attention", encoder={"dim": 6}, dim=6, hidden=4, decision_threshold=0.25, epoch=1, validation_auroc=1.0
    )
    save_slide_model(tmp_path / "model", network, spec)
    return tmp_path / "model", network


def test_a_stored_classifier_gives_the_same_logit_and_weights(saved: tuple[Path, SlideClassifier]) -> None:
    folder, network = saved
    loaded, spec = load_slide_model(folder)
    x = torch.randn(9, 6)
    torch.testing.assert_close(loaded(x), network(x))
    assert (spec.decision_threshold, spec.weights_sha256) == (0.25, file_sha256(folder / "model.safetensors"))


def rewrite(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write other weights, with their own hash."""
    save_file(weights, folder / "model.safetensors")
    facts = read_json(folder / "model.json")
    write_json(folder / "model.json", {**facts, "weights_sha256": file_sha256(folder / "model.safetensors")})


def test_weights_that_are_not_those_written_are_refused(saved: tuple[Path, SlideClassifier]) -> None:
    folder, _ = saved
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(InputCorruptError, match="is not the file"):
        load_slide_model(folder)
    rewrite(folder, {name: value for name, value in weights.items() if name != "gate.bias"})
    with pytest.raises(CheckpointIncompatibleError, match="not those of attention of 6 values"):
        load_slide_model(folder)
    rewrite(folder, {name: value * torch.nan for name, value in weights.items()})
    with pytest.raises(NonFiniteError):
        load_slide_model(folder)


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"no model\.json"):
        load_slide_model(tmp_path)
