import json
from pathlib import Path

import made_features
import numpy as np
import pytest

from pathopatch.core.errors import CheckpointUnsafeError, InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.features.readers import open_features


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_tissue_fractions_and_mpp_are_taken_from_hs2p(tmp_path: Path, kind: str) -> None:
    slide = open_features(made_features.slide2vec(tmp_path, kind=kind)).read("A")
    np.testing.assert_array_equal(slide.tissue_fraction, made_features.TISSUE["A"])
    assert (slide.mpp, slide.size_px) == (made_features.MPP, made_features.SIZE_PX)
    assert (slide.encoder.name, slide.encoder.input_px) == ("uni2", 224)


def test_what_hs2p_left_out_is_said(tmp_path: Path) -> None:
    slide = open_features(made_features.slide2vec(tmp_path)).read("A")
    assert slide.notes == ("hs2p left out tiles with less than 1 % tissue",)


def test_a_threshold_of_0_is_known_and_not_taken_for_unknown(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    for path in (folder / "tiles").glob("*.meta.json"):
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "tiling": {**about["tiling"], "min_tissue_fraction": 0}}))
    assert open_features(folder).read("A").notes == ("hs2p left out no tiles for having little tissue",)


def test_coordinates_are_found_where_the_folders_were_moved(tmp_path: Path) -> None:
    slide = open_features(made_features.slide2vec(tmp_path, moved=True)).read("A")
    np.testing.assert_array_equal(slide.x, made_features.XY["A"][:, 0])


def test_missing_coordinates_are_named(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    (folder / "tiles" / "A.coordinates.npz").unlink()
    with pytest.raises(InputMissingError, match=r"no coordinates of the slide A.*copy the folder tiles"):
        open_features(folder).read("A")


def test_rows_are_joined_by_their_tile_index(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, kind="npz")
    features = made_features.vectors("A", dtype=np.float16)[[2, 0]]
    np.savez(folder / "tile_embeddings" / "A.npz", features=features, tile_index=np.array([2, 0], np.int32))
    slide = open_features(folder).read("A")
    np.testing.assert_array_equal(slide.y, made_features.XY["A"][[2, 0], 1])
    np.testing.assert_array_equal(slide.tissue_fraction, made_features.TISSUE["A"][[2, 0]])


def test_tile_numbers_are_those_of_hs2p_not_its_rows(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, kind="npz")
    npz = folder / "tiles" / "A.coordinates.npz"
    with np.load(npz) as arrays:
        tiles = {name: values[[3, 1, 0]] for name, values in arrays.items()}
    np.savez(npz, **tiles)
    features = made_features.vectors("A", dtype=np.float16)[[0, 3]]
    np.savez(folder / "tile_embeddings" / "A.npz", features=features, tile_index=np.array([0, 3], np.int32))
    np.testing.assert_array_equal(open_features(folder).read("A").x, made_features.XY["A"][[0, 3], 0])
    np.savez(folder / "tile_embeddings" / "A.npz", features=features, tile_index=np.array([0, 2], np.int32))
    with pytest.raises(InputCorruptError, match="1 of 2 tiles are not among hs2p's coordinates"):
        open_features(folder).read("A")


def test_two_annotations_of_a_slide_are_two_sets(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, slides=("A",))
    place = folder / "tile_embeddings"
    for name in ("tumour", "stroma"):
        (place / name).mkdir()
        for path in place.glob("A.*"):
            (place / name / path.name).write_bytes(path.read_bytes())
    for path in place.glob("A.*"):
        path.unlink()
    with pytest.raises(InputUnsupportedError, match=r"2 sets of features: .*stroma, .*tumour"):
        open_features(folder)
    assert open_features(place / "tumour").slide_ids == ("A",)


def test_embeddings_of_whole_slides_are_left_alone(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    (folder / "slide_embeddings").mkdir()
    (folder / "slide_embeddings" / "A.pt").write_bytes(b"")
    (folder / "slide_embeddings" / "A.meta.json").write_text(json.dumps({"artifact_type": "slide_embeddings"}))
    assert open_features(folder).slide_ids == ("A", "B")


def test_pickled_arrays_are_not_run(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    np.savez(folder / "tiles" / "A.coordinates.npz", x=np.array([{}], object), y=np.zeros(1))
    with pytest.raises(CheckpointUnsafeError, match="pickled"):
        open_features(folder).read("A")


def test_the_fraction_of_an_annotated_class_is_no_tissue(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path)
    about = folder / "tiles" / "A.coordinates.meta.json"
    sections = json.loads(about.read_text())
    sections["artifact"]["annotation"] = "tumour"
    about.write_text(json.dumps(sections))
    slide = open_features(folder).read("A")
    assert slide.tissue_fraction is None
    assert slide.notes[1] == "hs2p's fractions are those of the class tumour, not of tissue"
    sections["artifact"]["annotation"] = "tissue"
    about.write_text(json.dumps(sections))
    assert open_features(folder).read("A").tissue_fraction is not None


def test_a_slide_without_tiles_is_of_the_encoder_of_the_others(tmp_path: Path) -> None:
    folder = made_features.slide2vec(tmp_path, kind="npz")
    np.savez(folder / "tile_embeddings" / "A.npz", features=np.empty((0, made_features.DIM), np.float16))
    none = np.empty(0)
    np.savez(folder / "tiles" / "A.coordinates.npz", x=none, y=none, tissue_fractions=none)
    path = folder / "tile_embeddings" / "A.meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder_input_size_px": None, "num_tiles": 0}))
    opened = open_features(folder)
    assert (len(opened.read("A")), opened.read("A").encoder) == (0, opened.read("B").encoder)
