"""The model card: numbers made by hand stand in it, and what a bundle does not know is said to be unknown."""

import json

import pytest
from made_model import made_spec

from pathopatch.models.bundle import read_spec, save_bundle
from pathopatch.models.card import beware, model_card
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec

GROUPS = {"by": "at tissue threshold 0.25", "attributes": ["little tissue", "much tissue"]}
TRAINED = {"splits": ["train"], "slides": 3, "patients": 2, "patches": 120, **GROUPS, "counts": [[60, 20], [5, 35]]}
VALIDATED = {"splits": ["val"], "slides": 2, "patients": 2, "patches": 40, **GROUPS, "counts": [[10, 10], [8, 12]]}
METRICS = {
    "wga": 0.75,
    "gba": 0.875,
    "average": 0.9,
    "cba": 0.88,
    "wga_at_zero": 0.5,
    "gba_at_zero": 0.8,
    "average_at_zero": 0.85,
    "cba_at_zero": 0.7,
    "nll": 0.25,
    "nll_at_one": 0.5,
    "is_threshold_tuned": True,
    "patients": 2,
    "wga_low": 0.6,
    "wga_high": 0.85,
    "gba_low": 0.7,
    "gba_high": 0.95,
    "accuracy of label 0, attribute 0": 0.75,
    "n of label 0, attribute 0": 10,
    "accuracy of label 0, attribute 1": 1.0,
    "n of label 0, attribute 1": 10,
    "accuracy of label 1, attribute 0": 1.0,
    "n of label 1, attribute 0": 8,
    "accuracy of label 1, attribute 1": 0.75,
    "n of label 1, attribute 1": 12,
}


def _spec(**changes) -> BundleSpec:
    values = {
        "channels": ("CARS", "SHG"), "dtype": "uint16", "mean": (0.1, 0.2), "std": (0.5, 0.25), "method": "gerne",
        "decision_threshold": 2.0, "decision_chosen_for": "wga", "temperature": 4.0, "group_metrics": METRICS,
        "data": {"trained": TRAINED, "validated": VALIDATED},
        "training": {"groups": "0123456789abcdef0123", "patches": "f" * 64, "train_slides": "aa,bb"},
    }  # fmt: skip
    return made_spec(**(values | changes))


def _rows(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("|")]


def test_the_card_says_what_it_was_trained_and_validated_on():
    card = model_card(_spec())
    assert "| trained on train | 3 | 2 | 120 |" in card
    assert "| validated on val | 2 | 2 | 40 |" in card
    assert "Groups at tissue threshold 0.25." in card
    assert "Fingerprints: groups 0123456789abcdef, patches ffffffffffffffff; the bundle marks each slide" in card
    assert "marks each slide" not in model_card(_spec(training={"groups": "0123"}))


def test_the_card_says_from_which_slides_and_which_level_patches_are_read():
    assert "| background | dark |" in model_card(_spec(background="dark"))
    assert "| background | dark or bright |" in model_card(_spec())
    assert "| read from | the slide's finest level of 0.5 to 2 um/px;" in model_card(_spec(mpp=2.0))
    unknown = model_card(_spec(mpp=None))
    assert "| read from | the finest level |" in unknown
    assert "um/px of its training patches are unknown" in unknown


def test_a_bar_in_a_name_ends_no_cell_of_the_card():
    rows = _rows(model_card(_spec(channels=("a|b", "c"), class_names=("x|y", "z"))))
    assert {r"| channels, in order | a\|b, c (uint16) |", r"| x\|y, much tissue | 20 | 10 |"} <= set(rows)


def test_the_card_lists_training_and_validation_patches_of_each_group():
    rows = _rows(model_card(_spec()))
    start = rows.index("| group | trained on | validated on |")
    assert rows[start + 2 : start + 6] == [
        "| non-tumour, little tissue | 60 | 10 |",
        "| non-tumour, much tissue | 20 | 10 |",
        "| tumour, little tissue | 5 | 8 |",
        "| tumour, much tissue | 35 | 12 |",
    ]


def test_the_card_gives_wga_with_its_interval_and_at_threshold_0():
    card = model_card(_spec())
    assert "| worst-group accuracy | 0.75 | 0.6 to 0.85 | 0.5 |" in card
    assert "| group-balanced accuracy | 0.875 | 0.7 to 0.95 | 0.8 |" in card
    assert "| accuracy | 0.9 | not known | 0.85 |" in card
    assert "resample the 2 validation patients" in card
    assert "| tumour, much tissue | 12 | 0.75 |" in card
    assert "| negative log-likelihood | 0.25 |" in card
    assert "optimistic" in card
    assert "label 1, attribute 1" not in card  # it has a name


def test_a_weak_group_is_said_beside_the_answers_and_a_good_one_is_not():
    assert beware(_spec()) == []
    weak = _spec(group_metrics={**METRICS, "accuracy of label 1, attribute 0": 0.455, "patients": 1})
    assert beware(weak) == [
        "The model's worst group is below a coin: 46% right of tumour, little tissue (8 patches, 1 validation patient)."
    ]


def test_the_card_gives_the_threshold_as_a_logit_and_as_a_probability():
    card = model_card(_spec())
    # 1 / (1 + exp(-2 / 4))
    assert "tumour if the logit exceeds 2 (chosen for: wga), that is a probability above 0.6225" in card
    assert "| temperature | 4 |" in card
    assert _spec(decision_threshold=-2000.0).decision_probability == 0.0  # and no overflow
    assert _spec(class_names=("a", "b", "c")).decision_probability is None


def test_the_card_names_the_smallest_group_and_the_thresholds_origin():
    limits = model_card(_spec()).partition("## Limits")[2]
    assert "The smallest training group has 5 patches: tumour, little tissue." in limits
    assert "chosen on the validation patches" in limits
    untuned = _spec(group_metrics=METRICS | {"is_threshold_tuned": False})
    assert "chosen on the validation patches" not in model_card(untuned).partition("## Limits")[2]


def test_training_bins_and_the_selecting_threshold_have_a_table_each():
    bins = {"by": "by tissue bins cut at 0.3", "attributes": ["tissue below 0.3", "tissue from 0.3"]}
    data = {"trained": TRAINED | bins, "validated": VALIDATED, "drawn_by": "selected at tissue threshold 0.25"}
    card = model_card(_spec(data=data))
    assert "Groups by tissue bins cut at 0.3; selected at tissue threshold 0.25." in card
    assert "| tumour, tissue below 0.3 | 5 |" in card
    assert "| group at tissue threshold 0.25 | patches | accuracy |" in card


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"patients": 1, "wga_low": float("nan"), "wga_high": float("nan")}, "There is one validation patient"),
        ({"wga_low": float("nan"), "wga_high": float("nan")}, "| worst-group accuracy | 0.75 | not known | 0.5 |"),
    ],
)
def test_an_unknown_interval_is_written_as_not_known(metrics, text):
    assert text in model_card(_spec(group_metrics=METRICS | metrics))


def test_the_card_of_a_bundle_read_again_is_the_same_nan_and_all(tmp_path):
    spec = _spec(group_metrics=METRICS | {"wga_low": float("nan"), "wga_high": float("nan")})
    save_bundle(tmp_path / "model", build_network("small-groupnorm", 2), spec)
    card = (tmp_path / "model" / "README.md").read_text()
    assert card == model_card(read_spec(tmp_path / "model"))
    assert "nan" not in card


def test_an_older_bundle_without_a_data_summary_has_a_card(tmp_path):
    old = {"wga": 0.75, "accuracy of label 0, attribute 1": 0.5, "n of label 0, attribute 1": 10}
    save_bundle(tmp_path / "model", build_network("small-groupnorm", 2), _spec(group_metrics=old, data={}))
    path = tmp_path / "model" / "config.json"
    raw = json.loads(path.read_text())
    del raw["pathopatch"]["data"]
    path.write_text(json.dumps(raw))
    spec = load_model(tmp_path / "model", device="cpu", precision="float32").spec
    card = model_card(spec)
    assert "The bundle does not say how many slides" in card
    assert "| worst-group accuracy | 0.75 | not known | not known |" in card
    assert "| accuracy of label 0, attribute 1 | 0.5 |" in card
    assert "The smallest training group" not in card


def test_a_model_that_was_not_validated_says_so():
    card = model_card(_spec(group_metrics={}, data={"trained": TRAINED}))
    assert "None were computed." in card
    assert "optimistic" not in card
    assert "| group | trained on |" in card


def test_what_the_card_tells_is_no_part_of_what_the_weights_depend_on():
    assert _spec(data={}).contract() == _spec().contract()
    assert "data" not in _spec().contract()
