"""Encoding slides and tiled work folders: features by hand, what is stored beside them, what is made again."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e, write_mask
from made_encoders import Endless, write_torchscript
from made_slides import write_channel, write_rgb_pyramid
from PIL import Image

from pathopatch.core.artefacts import content_fingerprint, fingerprint_file, read_table
from pathopatch.core.config import BatchOptions, EncodeConfig, TileConfig
from pathopatch.core.errors import (
    InputMissingError,
    InputUnsupportedError,
    NonFiniteError,
    SlideTimeoutError,
)
from pathopatch.core.status import read_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.encode import _require_finite
from pathopatch.features.encoder_network import LoadedEncoder
from pathopatch.features.patch_encoder import FeatureRuntime, PatchEncoder
from pathopatch.features.readers import open_features
from pathopatch.features.slide_features import Encoder
from pathopatch.stages.encode import Encoded, encode_cohort
from pathopatch.stages.import_features import import_features
from pathopatch.stages.tile import import_patches, tile_cohort
from pathopatch.training.data_summary import bundle_marks

PX = 32


@pytest.fixture
def config(tmp_path: Path) -> EncodeConfig:
    """An encoder whose features are the mean red, green and blue of a patch, in [0, 1]."""
    path = write_torchscript(tmp_path / "mean.pt")
    return EncodeConfig(
        encoder=str(path), input_px=PX, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), mpp=0.5, device="cpu", threads=1
    )


@pytest.fixture
def slide(tmp_path: Path, two_discs: np.ndarray) -> Path:
    """Two discs of tissue on glass at 0.5 um/px."""
    write_rgb_pyramid(tmp_path / "slide.tif", h_and_e(two_discs), mpp=0.5, levels=1)
    return tmp_path / "slide.tif"


def write_manifest(slide: Path, **more: str) -> Path:
    path = slide.with_name("manifest.csv")
    row = {"slide_id": "slide", "patient_id": "p", "path": slide.name, **more}
    path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    return path


def states(encoded: Encoded) -> list[str]:
    return [outcome.state for outcome in encoded.outcomes]


@pytest.mark.fault("outside")
def test_an_earlier_file_whose_features_lie_elsewhere_is_made_again(config, slide, tmp_path):
    encoded = encode_cohort(str(slide), config, tmp_path / "work")
    (path,) = encoded.folder.glob("*.h5")
    due = open_features(encoded.folder).read("slide").features
    with h5py.File(tmp_path / "outside.h5", "w") as other:
        other["features"] = due + 1
    with h5py.File(path, "r+") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink(str(tmp_path / "outside.h5"), "/features")
    assert states(encode_cohort(str(slide), config, tmp_path / "work", BatchOptions(force=True))) == ["done"]
    np.testing.assert_array_equal(open_features(encoded.folder).read("slide").features, due)
    with h5py.File(tmp_path / "outside.h5") as other:
        np.testing.assert_array_equal(other["features"], due + 1)


def test_features_of_a_slide_are_those_of_its_patches(config, slide, tmp_path, two_discs):
    encoded = encode_cohort(str(slide), config, tmp_path / "work")
    assert states(encoded) == ["done"]
    folder = open_features(encoded.folder)
    assert (folder.layout, folder.slide_ids) == ("pathopatch", ("slide",))
    features = folder.read("slide")
    pixels = h_and_e(two_discs)
    assert len(features) > 3
    for row, (x, y) in enumerate(zip(features.x.astype(int), features.y.astype(int), strict=True)):
        assert (x % PX, y % PX) == (0, 0)
        expected = pixels[:, y : y + PX, x : x + PX].mean(axis=(1, 2)) / 255
        if x + PX <= pixels.shape[2] and y + PX <= pixels.shape[1]:
            np.testing.assert_allclose(features.features[row], expected, atol=1e-5)
    assert (features.side, features.mpp, features.encoder.precision) == (PX, 0.5, "float32")
    assert features.encoder.input_px == PX
    assert features.notes == ("patches with less than 1 % tissue were left out",)


def test_each_patch_has_the_tissue_that_tiling_measures(config, slide, tmp_path):
    encoded = encode_cohort(str(slide), config, tmp_path / "encoded")
    tile_cohort(write_manifest(slide), tmp_path / "tiled", TileConfig(patch_px=PX, mpp=0.5))
    table = read_table(WorkFolder(tmp_path / "tiled").patches("slide"))
    table = table[table["tissue_fraction"] >= 0.01]
    features = open_features(encoded.folder).read("slide")
    np.testing.assert_array_equal(np.stack([features.x, features.y], 1), table[["x", "y"]])
    np.testing.assert_array_equal(features.tissue_fraction, table["tissue_fraction"].astype(np.float32))


def test_a_tiled_folder_of_fitting_scale_is_encoded_from_its_store(config, slide, tmp_path):
    work = tmp_path / "tiled"
    tile_cohort(write_manifest(slide), work, TileConfig(patch_px=PX, mpp=0.5))
    from_slide = encode_cohort(str(slide), config, tmp_path / "work")
    slide.unlink()
    from_store = encode_cohort(str(work), config)
    assert from_store.folder.is_relative_to(work)
    assert from_store.labels is None
    assert not (work / "labels.csv").exists()
    one, other = (open_features(encoded.folder).read("slide") for encoded in (from_slide, from_store))
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.x, other.x)


def test_a_tiled_folder_of_another_scale_is_refused_with_both_ways_on(config, slide, tmp_path):
    work = tmp_path / "tiled"
    tile_cohort(write_manifest(slide), work, TileConfig(patch_px=PX, mpp=0.5))
    with pytest.raises(InputUnsupportedError, match=r"give the manifest .* or --mpp 0\.5"):
        encode_cohort(str(work), config.model_copy(update={"mpp": 1.0}))


def test_stored_patches_of_another_side_are_encoded_with_a_note(config, slide, tmp_path):
    for side in (PX, 2 * PX):
        work = tmp_path / f"tiled{side}"
        tile_cohort(write_manifest(slide), work, TileConfig(patch_px=side, mpp=0.5))
        notes = " ".join(encode_cohort(str(work), config).notes)
        assert (f"patches of {2 * PX} px are resized: the encoder was made for {PX} px" in notes) == (side == 2 * PX)


def test_a_tiled_folder_gives_the_labels_of_what_is_encoded(config, slide, tmp_path, two_discs):
    tumor = two_discs & (np.arange(200) < 100)  # the disc at the left
    write_mask(tmp_path / "tumor.png", tumor)
    manifest = write_manifest(slide, tumor_mask="tumor.png", split="train")
    tile_cohort(manifest, tmp_path / "tiled", TileConfig(patch_px=PX, mpp=0.5))
    encoded = encode_cohort(str(tmp_path / "tiled"), config)
    labels = pd.read_csv(encoded.labels)
    features = open_features(encoded.folder).read("slide")
    np.testing.assert_array_equal(labels[["x", "y"]], np.stack([features.x, features.y], 1))
    assert labels["label"].tolist() == [tumor[y : y + PX, x : x + PX].any() for x, y in labels[["x", "y"]].to_numpy()]
    assert set(labels["label"]) == {0, 1}
    for column, value in (("slide_id", "slide"), ("patient_id", "p"), ("split", "train")):
        assert set(labels[column]) == {value}


def test_a_head_knows_the_slides_behind_its_features_by_their_content(config, slide, tmp_path, two_discs):
    write_mask(tmp_path / "tumor.png", two_discs & (np.arange(200) < 100))
    manifest = write_manifest(slide, tumor_mask="tumor.png", split="train")
    tile_cohort(manifest, tmp_path / "tiled", TileConfig(patch_px=PX, mpp=0.5))
    of_store = encode_cohort(str(tmp_path / "tiled"), config)
    of_slide = encode_cohort(str(slide), config, tmp_path / "encoded")
    content = content_fingerprint([slide])
    for encoded in (of_store, of_slide):
        assert open_features(encoded.folder).read("slide").slide_content == content
        work = encoded.folder.parent / "work"
        import_features(work, encoded.folder, of_store.labels)
        groups = pd.DataFrame({"slide_id": ["slide"], "patient_id": ["p"], "label": [1], "split": ["train"]})
        marks = bundle_marks(work, groups)["train_slides"].split(",")
        assert sorted(marks) == sorted(text[:16] for text in (content, fingerprint_file(encoded.folder / "slide.h5")))


def test_ready_patches_of_unknown_scale_are_encoded_with_a_note(config, tmp_path):
    (tmp_path / "set" / "1").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(90, 160, (4, PX, PX, 3)).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "set" / "1" / f"{number}.png")
    rows = "".join(f"1/{number}.png,p{number},1,0.5\n" for number in range(4))
    (tmp_path / "set" / "patches.csv").write_text("path,patient_id,label,tissue_fraction\n" + rows)
    import_patches(tmp_path / "set", tmp_path / "work", TileConfig())
    encoded = encode_cohort(str(tmp_path / "work"), config)
    assert "um/px of the patches are unknown" in encoded.notes[-1]
    features = open_features(encoded.folder).read("set")
    np.testing.assert_allclose(features.features, images.mean(axis=(1, 2)) / 255, atol=1e-5)
    assert pd.read_csv(encoded.labels)["patient_id"].tolist() == ["p0", "p1", "p2", "p3"]


@pytest.mark.slow
def test_a_finished_slide_is_left_as_it_is_and_other_settings_are_stale(config, slide, tmp_path):
    encoded = encode_cohort(str(slide), config, tmp_path / "work")
    path = encoded.folder / "slide.h5"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert states(encode_cohort(str(slide), config, tmp_path / "work")) == ["current"]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    changed = config.model_copy(update={"min_tissue": 0.5})
    (refused,) = encode_cohort(str(slide), changed, tmp_path / "work").outcomes
    assert (refused.state, refused.code) == ("failed", "STALE_ARTEFACT")
    assert "min_tissue was 0.01, is 0.5" in refused.message
    assert states(encode_cohort(str(slide), changed, tmp_path / "work", BatchOptions(force=True))) == ["done"]
    assert open_features(encoded.folder).read("slide").tissue_fraction.min() >= 0.5


def test_a_channel_rule_that_does_not_fit_leaves_what_is_finished(config, slide, tmp_path):
    encode_cohort(str(slide), config, tmp_path / "work")
    before = read_status(tmp_path / "work", "slide")
    wrong = config.model_copy(update={"channels": ("CARS", "SHG", "CARS")})
    (refused,) = encode_cohort(str(slide), wrong, tmp_path / "work").outcomes
    assert (refused.state, refused.code) == ("failed", "CHANNEL_MISMATCH")
    assert read_status(tmp_path / "work", "slide") == before


def test_equal_input_gives_equal_bytes(config, slide, tmp_path):
    files = [encode_cohort(str(slide), config, tmp_path / name).folder / "slide.h5" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_slide_without_tissue_has_a_file_without_rows(config, tmp_path):
    write_rgb_pyramid(tmp_path / "glass.tif", np.full((3, 64, 64), 240, np.uint8), mpp=0.5, levels=1)
    strict = config.model_copy(update={"min_tissue": 1.0})
    tiling = TileConfig.model_validate({"tissue": {"when_unsure": "none"}})
    encoded = encode_cohort(str(tmp_path / "glass.tif"), strict, tmp_path / "work", tiling=tiling)
    assert states(encoded) == ["done_empty"]
    assert open_features(encoded.folder).read("glass").features.shape == (0, 3)


@pytest.mark.slow
@pytest.mark.fault("no-function")
def test_an_endless_encoder_ends_at_the_time_limit(config, slide, tmp_path):
    path = write_torchscript(tmp_path / "endless.pt", Endless())
    with pytest.raises(SlideTimeoutError, match="the encoder") as caught:
        encode_cohort(
            str(slide), config.model_copy(update={"encoder": str(path)}), tmp_path / "work", BatchOptions(timeout_s=20)
        )
    assert caught.value.place == str(path)
    assert states(encode_cohort(str(slide), config, tmp_path / "work", BatchOptions(timeout_s=100))) == ["done"]


def test_channels_are_given_by_an_explicit_rule_alone(config, tmp_path, two_discs):
    for name, level in (("cars", 1000), ("shg", 3000)):
        pixels = np.where(two_discs, level, 100).astype(np.uint16)
        write_channel(tmp_path / f"{name}.tif", pixels, mpp=0.5)
    source = f"CARS={tmp_path / 'cars.tif'},SHG={tmp_path / 'shg.tif'}"
    (refused,) = encode_cohort(source, config, tmp_path / "work").outcomes
    assert refused.code == "CHANNEL_MISMATCH"
    assert "--channels A,B,C" in refused.message
    folders = []
    for rule in (("CARS", "SHG", "CARS"), ("SHG", "CARS", "CARS")):
        encoded = encode_cohort(source, config.model_copy(update={"channels": rule}), tmp_path / "work")
        folders.append(open_features(encoded.folder))
        assert folders[-1].read(tmp_path.name).encoder.channels == rule
    first, second = (folder.read(tmp_path.name).features for folder in folders)  # two keys: two representations
    np.testing.assert_array_equal(first[:, [1, 0]], second[:, :2])
    assert folders[0].path != folders[1].path


def test_an_encoder_of_no_scale_needs_one_for_slides(config, slide, tmp_path):
    with pytest.raises(InputMissingError, match="--mpp 0.5"):
        encode_cohort(str(slide), config.model_copy(update={"mpp": None}), tmp_path / "work")


def test_features_that_are_not_finite_name_their_patches():
    values = np.zeros((2, 3), np.float16)
    values[1, 0] = np.inf
    with pytest.raises(NonFiniteError, match="1 patches are NaN or infinite: s@5,7"):
        _require_finite(values, np.array([[1, 2], [5, 7]]), "s")


class _Flat:
    """Features are the input's pixels, flat."""

    name, version = "test", "0"

    def features(self, x):
        return x.reshape(len(x), -1)


def prepared_by(runtime: FeatureRuntime, *, precision: str, **known: object) -> PatchEncoder:
    encoder = Encoder(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 0.5), input_px=2, **known)
    loaded = LoadedEncoder(network=None, encoder=encoder, resize_px=4, mpp=None, patch_px=4)
    return PatchEncoder(loaded, runtime, precision=precision)


def test_a_patch_is_resized_then_its_centre_is_cut_out():
    encoder = prepared_by(_Flat(), precision="float32", dim=12)
    patch = np.zeros((1, 3, 8, 8), np.float32)
    patch[:, :, 2:4, 2:4] = 1.0  # the first of the four pixels in the centre, at a side of 4
    expected = np.zeros((3, 2, 2))
    expected[:, 0, 0] = 1.0, 1.0, 2.0
    np.testing.assert_allclose(encoder.prepare(patch)[0], expected)


def test_the_mask_comes_last_as_share_of_tissue():
    encoder = prepared_by(_Flat(), precision="float32", dim=16, pooling="tissue-mean")
    tissue = np.zeros((1, 8, 8), np.bool_)
    tissue[0, 2, 2:4] = True  # half of the first of the four pixels in the centre
    x = encoder.prepare(np.zeros((1, 3, 8, 8), np.float32), tissue)
    np.testing.assert_allclose(x[0, 3], [[0.5, 0.0], [0.0, 0.0]])


def test_features_are_stored_as_they_are_computed():
    x = np.full((1, 3, 2, 2), 1e5, np.float32)
    assert prepared_by(_Flat(), precision="bfloat16", dim=12).encode(x).dtype == np.float32
    half = prepared_by(_Flat(), precision="float16", dim=12).encode(x)
    assert half.dtype == np.float16
    assert np.isinf(half).all()


@pytest.mark.slow
def test_two_processes_write_what_one_does(config, slide, tmp_path, two_discs):
    manifest = slide.with_name("manifest.csv")
    write_rgb_pyramid(tmp_path / "other.tif", h_and_e(two_discs)[:, ::-1], mpp=0.5, levels=1)
    manifest.write_text("slide_id,patient_id,path\nslide,p,slide.tif\nother,q,other.tif\n")
    one = encode_cohort(str(manifest), config, tmp_path / "one")
    two = encode_cohort(str(manifest), config, tmp_path / "two", BatchOptions(workers=2))
    assert states(two) == ["done", "done"]
    for name in ("slide.h5", "other.h5"):
        features = [open_features(encoded.folder).read(name[:-3]).features for encoded in (one, two)]
        np.testing.assert_array_equal(*features)
