"""Heads that are solved exactly on the features of a frozen backbone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from made_patches import toy, write_work
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from pathopatch.core.artefacts import Stamp, read_table
from pathopatch.core.config import GroupsConfig, TrainConfig
from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputCorruptError, InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.core.mask_bits import pack_masks
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.evaluation.predicting import WITHOUT, without_channel
from pathopatch.models.frozen import open_features
from pathopatch.models.loading import load_model
from pathopatch.models.runtime import patches_per_pass
from pathopatch.stages.groups import fold_tables, write_folds
from pathopatch.training import choice, feature_cache, frozen
from pathopatch.training.choice import Tried
from pathopatch.training.dataset import PatchMasks, PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.frozen import Backbone, fit_frozen
from pathopatch.training.run import fit

SMALL = "test_efficientnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights for a small network of timm's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model(SMALL, num_classes=2).state_dict(), path)
    return path


def config_of(weights: Path, **changes: Any) -> TrainConfig:
    small = {
        "frozen": True,
        "architecture": SMALL,
        "pretrained": weights,
        "method": "erm",
        "threads": 1,
        "input_px": 64,
    }
    return TrainConfig(**{**small, "threshold": 0.5, **changes})


def made_features(n: int, dim: int = 6) -> tuple[PatchSet, NDArray[np.float32]]:
    """Patches of eight patients, and features of which the first tells the class, the second the attribute."""
    rng = np.random.default_rng(0)
    label, attribute = np.arange(n) % 2, np.arange(n) // 2 % 2
    x = rng.normal(size=(n, dim)).astype(np.float32)
    x[:, 0] += 1.5 * label
    x[:, 1] += 2.0 * attribute
    names = np.arange(n).astype(str)
    patient = np.array([f"P{y}{i % 8 // 2}" for i, y in enumerate(label)])
    pixels = np.full((n, 3, 32, 32), 0.5, np.float16)
    fraction = np.where(attribute == 1, 0.8, 0.2)
    return PatchSet(pixels, label, attribute, fraction, patient, names), x


def reader(x: NDArray[np.float32]) -> Any:
    return lambda patches, backbone: x[patches.patch_id.astype(int)]


def as_features(backbone_dim: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features padded by constants to the number that a backbone gives."""
    return np.concatenate([x, np.zeros((len(x), backbone_dim - x.shape[1]), np.float32)], axis=1)


DIM = 32 + 48 + 64  # of the small network's maps of strides 8, 16 and 32


def test_the_head_is_the_logistic_regression_of_its_penalty(weights: Path) -> None:
    patches, x = made_features(160)
    x = as_features(1280, x)[:, : timm.create_model(SMALL, num_classes=0).num_features]
    config = config_of(weights, select="last", weight_decay=0.1)
    found = fit_frozen(patches, None, config, read_features=reader(x))
    mean, std = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1)
    known = LogisticRegression(C=1 / (0.1 * len(x)), tol=1e-10, max_iter=1000).fit((x - mean) / std, patches.label)
    head = found.network.classifier
    margin = x @ (head.weight[1] - head.weight[0]).numpy() + float(head.bias[1] - head.bias[0])
    np.testing.assert_allclose(margin, known.decision_function((x - mean) / std), atol=2e-3)


def test_validation_chooses_the_penalty_that_it_scores_best(weights: Path) -> None:
    patches, x = made_features(240)
    x = as_features(timm.create_model(SMALL, num_classes=0).num_features, x)
    train, val = patches.rows(np.arange(160)), patches.rows(np.arange(160, 240))
    found = fit_frozen(train, val, config_of(weights), read_features=reader(x))
    assert [row["weight_decay"] for row in found.history] == list(frozen.PENALTIES)
    best = max(found.history, key=lambda row: (row["val_wga"], row["val_gba"], -row["val_nll"]))
    assert found.settings.weight_decay == best["weight_decay"]


def test_inner_folds_divide_no_patient_and_all_patches_are_learnt(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches, x = made_features(160)
    x = as_features(timm.create_model(SMALL, num_classes=0).num_features, x)
    solved: list[NDArray[np.bool_]] = []
    solve = frozen._solve
    monkeypatch.setattr(frozen, "_solve", lambda data, rows, *rest: (solved.append(rows), solve(data, rows, *rest))[1])
    train, val = patches.rows(np.arange(120)), patches.rows(np.arange(120, 160))
    found = fit_frozen(train, val, config_of(weights), read_features=reader(x), inner_folds=4)
    *inner, final = solved
    # What validation is judged by is the answer of a head that has not learnt the patch.
    own = x @ np.diff(found.network.classifier.weight.numpy(), axis=0)[0]
    assert found.inner_fold_logit is not None
    held_out = np.array([found.inner_fold_logit[name] for name in patches.patch_id])
    assert np.median(np.abs(held_out - own - float(found.network.classifier.bias.diff()))) > 0.01
    assert final.all()
    for rows in inner:
        assert not set(patches.patient[rows]) & set(patches.patient[~rows])
    assert (np.sum([~rows for rows in inner[:4]], axis=0) == 1).all()  # each patch validates once


def of_colour(n_per_cell: list[list[int]]) -> PatchSet:
    """Patches of three equal channels, of whose tissue both amounts hold a crop."""
    patches = toy(n_per_cell, seed=0, side=32)
    fraction = np.where(patches.attribute == 1, 0.9, 0.4)
    rows = np.arange(32)[:, None] < np.rint(32 * fraction)[:, None, None] * np.ones(32)
    x = np.repeat(patches.read(slice(None))[:, :1], 3, 1).astype(np.float16)
    patient = np.array([f"p{row % 16}" for row in range(len(patches))])
    tissue = PatchMasks(pack_masks(rows), 32)
    return replace(patches, x=x, tissue_fraction=fraction, tissue=tissue, patient=patient)


def test_choose_compares_masked_heads_and_interior_crops(weights: Path) -> None:
    patches = of_colour([[12, 12], [12, 12]])
    found = fit_frozen(patches, patches, config_of(weights, choose=True))
    ways = [("normalise", "erm"), ("normalise", "resample"), ("interior", "erm")]
    assert {(row["mask"], row["method"]) for row in found.history} == set(ways)
    assert {row.get("invariance") for row in found.history if row["mask"] == "normalise"} == {choice.INVARIANCE}
    ordered = sorted(found.history, key=lambda row: (row["val_wga"], row["val_gba"], -row["val_nll"]))
    asked = [row for row in found.history if "val_eta" in row]
    assert ordered[-len(asked) :] == sorted(asked, key=ordered.index)  # the best ones
    assert (found.settings.mask, found.settings.method) == (asked[-1]["mask"], asked[-1]["method"])


@pytest.mark.parametrize(
    ("cells", "select", "masks"),
    [
        ([[24, 0], [0, 24]], "wga", {"interior", "normalise"}),  # the area alone tells
        ([[24, 0], [0, 24]], "last", {"interior"}),
        ([[24, 24], [24, 24]], "last", {"normalise"}),
        ([[24, 0], [24, 0]], "wga", {"normalise"}),  # a group is empty, and nothing tells
        ([[24, 9], [24, 24]], "wga", {"normalise"}),
    ],
)
def test_where_validation_cannot_tell_the_area_of_the_data_decides(
    weights: Path, cells: list[list[int]], select: str, masks: set[str]
) -> None:
    patches = of_colour(cells)
    with pytest.warns(UserWarning, match=r"a group has \d of at least 10|nothing validates"):
        found = fit_frozen(patches, patches, config_of(weights, choose=True, input_px=32, select=select))
    assert {row["mask"] for row in found.history} == (masks if select == "wga" else set())
    assert (found.settings.mask, found.settings.method) == ("interior" if "interior" in masks else "normalise", "erm")
    assert (found.crops is not None) == ("interior" in masks)


def head_of(mask: str, wga: float, equal_area: float) -> Tried:
    measures = {"wga": wga, "equal_area": equal_area, "gba": 0.5, "nll": 1.0}
    return Tried(TrainConfig(frozen=True, method="erm", mask=mask), np.empty((0, 2)), measures, {})


def test_crops_that_lose_at_equal_area_are_never_taken() -> None:
    by = choice.Comparison(({}, {}), "wga")
    masked, crops = head_of("normalise", 0.6, 0.9), head_of("interior", 0.7, 0.885)
    assert choice.ranked([masked, crops], by) == [crops, masked]
    assert choice.ranked([masked, head_of("interior", 0.7, 0.87)], by) == [masked]
    assert choice.ranked([masked, head_of("interior", 0.7, np.nan)], by)[0].config.mask == "interior"
    for_area = replace(by, select="equal_area", prefers_crops=True)
    assert choice.ranked([masked, crops], for_area) == [crops, masked]


def test_the_best_head_that_stays_is_taken_or_the_one_that_moves_least() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(100, 1)) + 0.01 * rng.normal(size=(100, 4))
    by_area = np.linspace(-1, 1, 4)
    heads = [head_of("normalise", wga, 0.9) for wga in (0.9, 0.8, 0.7)]
    moves = dict(zip(map(id, heads), (2.0, 1.0, 0.1), strict=True))
    found, is_steady = choice.steady(heads, lambda head: own + moves[id(head)] * by_area)
    assert (found, is_steady) == (heads[2], True)
    found, is_steady = choice.steady(heads[:2], lambda head: own + moves[id(head)] * by_area)
    assert (found, is_steady) == (heads[1], False)
    assert choice.steady(heads, lambda head: np.full((100, 4), np.nan)) == (heads[0], True)  # nothing was measured


def test_heads_are_asked_at_set_areas_without_the_fold_of_the_patch(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = of_colour([[16, 16], [16, 16]])
    x = np.random.default_rng(0).normal(size=(len(patches), DIM)).astype(np.float32)  # a head knows what it learnt
    place = {name: number for number, name in enumerate(patches.patch_id)}

    class Unmoved:
        def __call__(self, of: PatchSet, _: Backbone) -> NDArray[np.float32]:
            return x[[place[name] for name in of.patch_id]]

        def of_versions(self, of: PatchSet, index: NDArray[np.int64], _: Backbone, edits: Any) -> NDArray[np.float32]:
            return np.repeat(self(of.rows(index), _)[:, None], len(edits), axis=1)

    found: list[tuple[Tried, NDArray[np.float64]]] = []
    monkeypatch.setattr(
        frozen, "steady", lambda heads, at_areas: (found.append((heads[0], at_areas(heads[0]))), (heads[0], True))[1]
    )
    fit_frozen(patches, None, config_of(weights, choose=True), read_features=Unmoved(), inner_folds=4)
    ((head, z),) = found
    held_out = head.logits[:, 1] - head.logits[:, 0]  # where nothing moves, an edit has the answer of validation
    np.testing.assert_allclose(z, np.repeat(held_out[:, None], len(choice.ASKED), axis=1), rtol=1e-6)


def test_choose_does_without_crops_where_no_tissue_holds_one(weights: Path) -> None:
    patches = of_colour([[12, 12], [12, 12]])
    thin = np.zeros((48, 32, 32), np.bool_)
    thin[:, :, ::4] = True
    patches = replace(patches, tissue=PatchMasks(pack_masks(thin), 32))
    found = fit_frozen(patches, patches, config_of(weights, choose=True))
    assert {row["mask"] for row in found.history} == {"normalise"}
    with pytest.raises(InputUnsupportedError, match="crop of 8 px"):
        fit_frozen(patches, patches, config_of(weights, mask="interior"))


def test_gerne_tries_other_extrapolations_at_the_penalty_it_chose(weights: Path) -> None:
    patches, x = made_features(240)
    x = as_features(timm.create_model(SMALL, num_classes=0).num_features, x)
    found = fit_frozen(patches, patches, config_of(weights, method="gerne"), read_features=reader(x))
    first, further = found.history[:5], found.history[5:]
    assert {row["s"] for row in first} == {1.0}
    assert 1.0 not in {row["s"] for row in further}
    assert len({row["weight_decay"] for row in further}) == 1


@pytest.mark.parametrize("inner_folds", [0, 5])  # of two patients each is a part
def test_the_bound_of_all_parts_takes_the_place_of_a_larger_default_s(weights: Path, inner_folds: int) -> None:
    # In training 16 of 20 patches of a label share a value: .8 - .55 s >= 0. With validation, 21 of 40: s may be 1.91.
    counts = np.array([[16, 2, 1, 1], [1, 1, 2, 16], [5, 5, 5, 5], [5, 5, 5, 5]])
    value = np.concatenate([np.repeat(np.arange(4), row) for row in counts])
    label = np.repeat([0, 1, 0, 1], 20)
    x = np.random.default_rng(0).normal(size=(80, timm.create_model(SMALL, num_classes=0).num_features))
    patient, names = np.repeat(["P0", "P1"], 40), np.arange(80).astype(str)
    patches = PatchSet(np.full((80, 3, 32, 32), 0.5, np.float16), label, value, (value + 0.5) / 4, patient, names)
    train, val = patches.rows(np.arange(40)), patches.rows(np.arange(40, 80))
    own = {"read_features": reader(x.astype(np.float32)), "inner_folds": inner_folds}
    with pytest.warns(UserWarning, match=r"s = 1\.5 is beyond .*, 1\.45455, is tried in its place"):
        found = fit_frozen(train, val, config_of(weights, method="gerne"), **own)
    assert max(row["s"] for row in found.history) == pytest.approx(0.8 / 0.55)
    assert found.largest_s == pytest.approx(0.8 / 0.55)
    with pytest.raises(BetaOutOfBoundsError, match=r"beta = 0\.5 is outside .*0\.454545"):  # a stated one
        fit_frozen(train, val, config_of(weights, method="gerne", gerne={"c": 1.0, "beta": 0.5}), **own)


def test_a_composing_method_has_no_exact_head_and_is_refused(weights: Path) -> None:
    patches, x = made_features(80)
    with pytest.raises(InputUnsupportedError, match="exact head"):
        fit_frozen(patches, patches, config_of(weights, method="auto"), read_features=reader(x))


def test_a_method_that_needs_all_groups_is_refused_where_one_is_empty(weights: Path) -> None:
    patches, _ = made_features(80)
    part = patches.rows((patches.label == 0) | (patches.attribute == 1))
    with pytest.raises(GroupEmptyError):
        fit_frozen(part, part, config_of(weights, method="resample"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pretrained": "none"},
        {"architecture": "linear"},
        {"bins": (0.3,)},
        {"frozen": False, "choose": True},
    ],
)
def test_settings_that_contradict_a_frozen_network_are_refused(weights: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config_of(weights, **wrong)


def test_a_frozen_network_without_an_architecture_is_the_pretrained_one() -> None:
    config = TrainConfig(frozen=True)
    assert (config.architecture, config.pretrained, config.input_px) == (
        "tf_efficientnet_lite0",
        "efficientnet-lite0",
        224,
    )


@pytest.mark.slow  # with weights that have learnt: features of drawn ones hardly vary, and rounding would count
def test_features_of_a_work_folder_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_work(tmp_path)
    computed: list[int] = []
    features = Backbone.features

    def counted(self: Backbone, patches: PatchSet, **how: Any) -> NDArray[np.float32]:
        computed.append(len(patches))
        return features(self, patches, **how)

    monkeypatch.setattr(Backbone, "features", counted)
    opened = []
    monkeypatch.setattr(frozen, "open_features", lambda *args, **how: opened.append(how) or open_features(*args, **how))
    for seed, method in ((0, "erm"), (1, "erm"), (0, "resample")):
        run = fit(tmp_path, TrainConfig(frozen=True, seed=seed, method=method, mask="normalise"))
    assert len(computed) == 2  # the slides of train and val, once each
    assert len(opened) == 1  # compiling takes as long as dozens of patches, and torch keeps what was traced
    evaluate_run(tmp_path, run.name)
    assert len(computed) == 5  # and that of test, and of val and test with a blank channel
    stored = pd.read_parquet(tmp_path / "runs" / run.name / "evaluation" / "predictions.parquet").set_index("patch_id")
    assert read_json(run / "run.json")["chosen"]["method"] == "resample"
    # What was read equals what the bundle answers to the pixels.
    groups = read_table(tmp_path / "groups.parquet")
    model = load_model(run / "model", device="cpu")
    # Patches of 16 px are enlarged inside: hundreds in a pass would take gigabytes.
    assert model.runtime.patches_per_pass == patches_per_pass(224)
    patches = feature_cache.load_patches(
        tmp_path, groups, input_px=model.spec.input_px, splits=("test",), threshold=0.25, masks=("tissue",), cache_gib=0
    )
    logits = model.predict_logits(patches.read(slice(0, len(patches))), patches.tissue.read(slice(0, len(patches))))
    own = stored.loc[patches.patch_id]
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], own["logit"], atol=1e-4)
    for number, name in enumerate(model.spec.channels):  # whose features are those of a blank channel then
        blanked = without_channel(patches.read(slice(0, len(patches))), number, model.spec.mean[number])
        logits = model.predict_logits(blanked, patches.tissue.read(slice(0, len(patches))))
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], own[f"{WITHOUT}{name}"], atol=1e-4)
        assert np.abs(own[f"{WITHOUT}{name}"] - own["logit"]).max() > 1e-2


def test_arguments_that_change_no_shape_have_features_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "WHOLE_PX", 32)
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # a graph would take seconds of each bundle
    write_work(tmp_path, contrast=0.3)
    save_file(timm.create_model("test_vit", num_classes=2).state_dict(), tmp_path / "vit.safetensors")
    vit = {"threshold": 0.25, "architecture": "test_vit", "input_px": 16}

    def config(name: str, **timm_args: Any) -> TrainConfig:
        return config_of(tmp_path / "vit.safetensors", **vit, timm_args=timm_args, name=name)

    # A bundle is written only if it answers some training patches as its head does their features.
    runs = [fit(tmp_path, config("plain")), fit(tmp_path, config("heads", num_heads=4))]
    assert len(list((tmp_path / "features").iterdir())) == len(list(tmp_path.glob("runs/*/model"))) == len(runs)
    plain = frozen.open_backbone(config("plain"), 2).facts()
    monkeypatch.setattr(Backbone, "facts", lambda self: plain)
    with pytest.raises(InputCorruptError, match="solved on other features"):
        fit(tmp_path, config("other", act_layer="SiLU"))
    assert len(list(tmp_path.glob("runs/*/model"))) == len(runs)


def test_damaged_features_are_computed_anew_and_told(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = write_work(tmp_path)
    backbone = frozen.open_backbone(config_of(weights, device="cpu"), 2)
    cache = feature_cache.FeatureCache(tmp_path, groups, input_px=16, device="cpu")
    patches = feature_cache.load_patches(tmp_path, groups, input_px=16, splits=("train",))
    features = cache(patches, backbone)
    (path,) = tmp_path.glob("features/*/slide-train.npz")
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (b"", content[:middle], content[:-1], content[:-32], flipped):
        path.write_bytes(damaged)
        caplog.clear()
        np.testing.assert_array_equal(cache(patches, backbone), features)
        assert "slide-train are damaged, and are computed anew" in caplog.text
        assert path.read_bytes() == content


@pytest.mark.slow
def test_of_three_blocks_in_three_folds_the_two_left_are_inner_folds(weights: Path, tmp_path: Path) -> None:
    table = write_work(tmp_path).assign(block=lambda rows: "array of " + rows["slide_id"])
    config = GroupsConfig(thresholds=(0.25,))
    tables = fold_tables(table, config, folds=3)
    write_folds(tmp_path, tables, config, stamp=Stamp(stage="groups", settings={"is": "c"}), left_out=[])
    run = fit(tmp_path / "folds" / "1", config_of(weights, threshold=0.25, input_px=16))
    left = tables[1].query("split != 'test' and `group@0.25` >= 0")
    assert left["block"].nunique() == 2
    assert set(pd.read_csv(run / "inner_folds.csv")["patch_id"]) == set(left["patch_id"])


def test_fit_arrays_returns_a_frozen_network_like_any_other(weights: Path) -> None:
    patches = toy([[12, 12], [12, 12]], seed=0, side=32)
    result = fit_arrays(patches, patches, config_of(weights, mask="normalise"))
    assert result.backbone is not None
    assert result.backbone.by_channel  # two channels are no colour
    assert result.margins(patches).shape == (48,)


def test_a_slide_that_another_process_is_at_comes_last(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_work(tmp_path)
    groups = read_table(tmp_path / "groups.parquet").query("label >= 0")
    backbone = frozen.open_backbone(config_of(weights), 2)
    read: list[str] = []
    monkeypatch.setattr(feature_cache, "is_locked", lambda out, name: name == other and len(read) < 2)
    cache = feature_cache.FeatureCache(tmp_path, groups, input_px=16)
    monkeypatch.setattr(cache, "_of_slide", lambda slide, *_: read.append(slide) or of_slide(slide))
    key = feature_cache.fingerprint(backbone.facts() | {"input_px": 16})
    other = feature_cache._lock_name("slide-test", key)

    def of_slide(slide: str) -> Any:
        names = groups.query("slide_id == @slide")["patch_id"].to_numpy()
        return names, np.full((len(names), backbone.network.classifier.in_features), len(read), np.float32)

    patches = toy([[30, 30], [30, 30]], seed=0)
    patches = replace(patches.rows(np.arange(len(groups))), patch_id=groups["patch_id"].to_numpy(dtype=str))
    order = dict(zip(groups["slide_id"], cache(patches, backbone)[:, 0].astype(int), strict=True))
    assert order == {"slide-train": 1, "slide-val": 2, "slide-test": 3}
    assert feature_cache._lock_name("slide-test", "another") != other
