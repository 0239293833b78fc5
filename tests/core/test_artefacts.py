import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pathopatch.core import artefacts, files
from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputCorruptError, InputMissingError, StaleArtefactError


def stamp(**changes: object) -> Stamp:
    return Stamp(
        **{
            "stage": "tile",
            "settings": {"patch_px": 256, "tissue": {"method": "auto"}},
            "inputs": {"slide": "s"},
            **changes,
        }
    )


def test_equal_configurations_have_equal_fingerprints_and_others_not() -> None:
    assert artefacts.fingerprint(TileConfig()) == artefacts.fingerprint(TileConfig(patch_px=256))
    assert artefacts.fingerprint(TileConfig()) != artefacts.fingerprint(TileConfig(patch_px=128))
    assert artefacts.fingerprint({"a": 1, "b": 2}) == artefacts.fingerprint({"b": 2, "a": 1})


def test_a_file_fingerprint_follows_the_content_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"slide")
    (tmp_path / "b").write_bytes(b"slide")
    (tmp_path / "c").write_bytes(b"slidE")
    one, two, three = (artefacts.fingerprint_file(tmp_path / name) for name in "abc")
    assert one == two != three


def test_large_files_are_sampled_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "_WHOLE_FILE_BYTES", 100)
    monkeypatch.setattr(artefacts, "_SAMPLE_BYTES", 10)
    content = bytearray(range(256)) * 8
    fingerprints = set()
    for name, place in (("same", None), ("first", 0), ("last", -1)):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 255
        (tmp_path / name).write_bytes(changed)
        fingerprints.add(artefacts.fingerprint_file(tmp_path / name))
    assert len(fingerprints) == 3


def is_up_to_date(*existing: Stamp | None, force: bool = False) -> bool:
    return artefacts.is_up_to_date(stamp(), existing, Path("part0"), force=force)


def test_an_equal_stamp_is_current_whatever_the_package_version() -> None:
    assert is_up_to_date(stamp(package_version="0"))
    assert is_up_to_date(stamp(), stamp())
    assert not is_up_to_date(None)


def test_a_stale_artefact_is_refused_with_the_settings_that_differ() -> None:
    settings = {"patch_px": 256, "tissue": {"method": "fixed"}, "store": "none"}
    other = stamp(settings=settings, inputs={"slide": "t", "mask": "m"})
    words = (
        "store was 'none', is not set; tissue.method was 'fixed', is 'auto'; input 'mask' differs; "
        "input 'slide' differs"
    )
    with pytest.raises(StaleArtefactError, match=words):
        is_up_to_date(other)
    assert not is_up_to_date(other, force=True)


def test_many_different_settings_are_counted_and_long_values_cut() -> None:
    settings = {f"key{number}": "x" * 500 for number in range(20)}
    (*shown, last) = stamp().differences(stamp(settings=settings))
    assert last == "14 further settings differ"
    assert all(len(text) < 200 for text in shown)


def test_parts_that_do_not_belong_together_are_no_artefact() -> None:
    other = stamp(settings={})
    assert not is_up_to_date(stamp(), other)
    assert not is_up_to_date(other, None)
    with pytest.raises(StaleArtefactError):
        is_up_to_date(other, other)


def test_a_stamp_is_the_same_after_it_was_stored() -> None:
    tile_stamp = Stamp(stage="tile", settings={"config": TileConfig(), "channels": ("A", "B"), "mpp": 0.25})
    assert Stamp.from_dict(json.loads(json.dumps(tile_stamp.to_dict()))) == tile_stamp


def test_tables_round_trip_with_their_stamp_and_give_equal_bytes(tmp_path: Path) -> None:
    table = pd.DataFrame({"patch_id": ["s@0,0"], "label": [1], "tissue_fraction": [0.25]})
    one, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for path in (one, other):
        artefacts.write_table(path, table, stamp())
    pd.testing.assert_frame_equal(artefacts.read_table(one), table)
    assert artefacts.read_stamp(one) == stamp()
    assert one.read_bytes() == other.read_bytes()


def test_a_cut_table_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    artefacts.write_table(path, pd.DataFrame({"x": range(100)}), stamp())
    path.write_bytes(path.read_bytes()[:-5])
    assert artefacts.read_stamp(path) is None
    with pytest.raises(InputCorruptError, match="t.parquet"):
        artefacts.read_table(path)


@pytest.mark.parametrize("limit", [2**30, 100])  # hashed whole; by names, sizes, samples and metadata
def test_a_folder_is_known_by_its_files_and_not_by_its_place_or_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(artefacts, "_WHOLE_FILE_BYTES", limit)
    for number in range(200):
        files.write_bytes(tmp_path / "a" / "c" / f"{number:03}", bytes([number]) * 10)
    files.write_bytes(tmp_path / "a" / "c" / "101x" / "zarr.json", b"{}")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    fingerprint = artefacts.fingerprint_file(tmp_path / "a")
    assert artefacts.fingerprint_file(tmp_path / "b") == fingerprint
    (tmp_path / "b" / "c" / "101").write_bytes(b"longer than it was")
    assert artefacts.fingerprint_file(tmp_path / "b") != fingerprint
    (tmp_path / "a" / "c" / "101x" / "zarr.json").write_bytes(b"[]")
    assert artefacts.fingerprint_file(tmp_path / "a") != fingerprint


@pytest.mark.parametrize(
    ("version", "words"), [(0, "under schema 0.*with --force"), (99, "under schema 99.*use pathopatch 7.0 or newer")]
)
def test_what_another_schema_made_is_refused_with_the_way_out(version: int, words: str) -> None:
    other = Stamp.from_dict({**stamp().to_dict(), "schema_version": version, "package_version": "7.0", "unheard": 1})
    with pytest.raises(StaleArtefactError, match=words):
        is_up_to_date(other)
    assert not is_up_to_date(other, force=True)


def test_a_file_that_was_not_among_those_written_counts_as_missing(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(b"1")
    marks = artefacts.file_marks({"old": tmp_path / "old"})
    assert artefacts.damages({name: tmp_path / name for name in ("old", "new")}, marks) == ["new is missing"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("groups.parquet", "groups WORK"),
        ("slides.parquet", "tile MANIFEST -o WORK"),
        ("patches/s1.parquet", "tile MANIFEST -o WORK"),
        ("runs/erm/evaluation/metrics.json", "evaluate WORK"),
        ("runs/erm/run.json", "train WORK"),
    ],
)
def test_a_missing_file_of_a_work_folder_names_the_command_that_writes_it(
    tmp_path: Path, name: str, command: str
) -> None:
    read = files.read_json if name.endswith("json") else artefacts.read_table
    with pytest.raises(InputMissingError) as caught:
        read(tmp_path / name)
    assert caught.value.remedy == f"run pathopatch {command}"
