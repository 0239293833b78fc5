from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError

STUDY = Path(__file__).parents[2] / "pipelines" / "cmnist"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cmnist_{name}", STUDY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


data, tables = _module("data"), _module("tables")


def _digits(n: int = 6000) -> Any:
    """Flat grey squares: digit d at grey 20 d + 20, so that a pixel tells digit and colour."""
    label = np.arange(n) % 10
    images = np.repeat((20 * label + 20).astype(np.uint8), 784).reshape(n, 28, 28)
    return data.Digits(images, label.astype(np.int64), images[:2000], label[:2000].astype(np.int64))


def test_exactly_the_conflicting_share_has_another_colour() -> None:
    train = data.coloured(_digits(), percent=2, seed=0)["train"]
    assert len(train) == 5500
    assert (train.attribute != train.label).sum() == 110


def test_even_conflicts_give_every_cell_as_many_give_or_take_one() -> None:
    train = data.coloured(_digits(), percent=5, seed=0, conflicts="even")["train"]
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (train.label, train.attribute), 1)
    others = counts[~np.eye(10, dtype=bool)]
    assert set(others) == {3, 4}  # 28 conflicting images a digit over nine colours


def test_validation_and_test_have_all_ten_colours_equally_often() -> None:
    sets = data.coloured(_digits(), percent=0.5, seed=3)
    assert len(sets["val"]) == 500
    for name in ("val", "test"):
        label, attribute = sets[name].label, sets[name].attribute
        for digit in range(10):
            counts = np.bincount(attribute[label == digit], minlength=10)
            assert counts.max() - counts.min() <= 1


def test_a_biased_validation_is_drawn_as_the_training_images() -> None:
    val = data.coloured(_digits(), percent=10, seed=0, validation="biased")["val"]
    assert (val.attribute != val.label).sum() == 50


def test_a_pixel_is_its_grey_times_its_colour() -> None:
    val = data.coloured(_digits(), percent=1, seed=0, table="tab10", noise=0)["val"]
    x = val.read([0, 1])
    assert x.shape == (2, 3, 28, 28)
    grey = (20 * val.label[:2] + 20) / 255
    expected = grey[:, None] * np.array(data.TABLES["tab10"])[val.attribute[:2]]
    np.testing.assert_allclose(x[:, :, 5, 7], expected, rtol=1e-6)


def test_equal_seeds_give_equal_images_and_another_seed_gives_others() -> None:
    one, same, other = (data.coloured(_digits(), percent=1, seed=seed)["train"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.attribute, same.attribute)
    np.testing.assert_array_equal(one.read(slice(0, 20)), same.read(slice(0, 20)))
    assert (one.label != other.label).any()


def test_no_training_image_is_in_validation() -> None:
    digits = _digits(600)
    digits.train[:, 0, 0] = np.arange(600) % 256
    digits.train[:, 0, 1] = np.arange(600) // 256
    sets = data.coloured(digits, percent=5, seed=0)
    pairs = [{(int(a), int(b)) for a, b in s.x.grey[:, 0, :2]} for s in (sets["train"], sets["val"])]
    assert len(pairs[0]) == 550
    assert len(pairs[1]) == 50
    assert not pairs[0] & pairs[1]


def test_an_unknown_colour_table_is_refused_by_name() -> None:
    with pytest.raises(InputUnsupportedError, match="'grey'"):
        data.coloured(_digits(100), percent=1, seed=0, table="grey")


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4").tobytes()
    raw = header + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def test_idx_files_are_read_plain_and_gzipped(tmp_path: Path) -> None:
    images = np.arange(2 * 784, dtype=np.uint16).astype(np.uint8).reshape(2, 28, 28)
    label = np.array([7, 3], dtype=np.uint8)
    _write_idx(tmp_path / "train-images-idx3-ubyte", images)
    _write_idx(tmp_path / "train-labels-idx1-ubyte", label)
    _write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images[:1])
    _write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", label[:1])
    digits = data.read_digits(tmp_path)
    np.testing.assert_array_equal(digits.train, images)
    assert digits.train_label.tolist() == [7, 3]
    assert digits.test.shape == (1, 28, 28)


def test_a_cut_idx_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    _write_idx(path, np.zeros((2, 28, 28), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputCorruptError, match="train-images"):
        data.read_digits(tmp_path)


def test_a_folder_without_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="train"):
        data.read_digits(tmp_path)


MAIN = {"tables": ["tab10"], "percents": [0.5, 1], "seeds": [0, 1, 2], "methods": ["erm", "resample", "gerne"]}


@pytest.mark.real
def test_the_ten_thousand_real_digits_are_read_and_coloured(real_data: Path) -> None:
    digits = data.read_digits(real_data / "digits")
    assert digits.train.shape == digits.test.shape == (10000, 28, 28)
    sets = data.coloured(digits, percent=0.5, seed=0)
    assert len(sets["val"]) == 833  # as 5,000 of 60,000
    assert (sets["train"].attribute != sets["train"].label).sum() == 46


def _row(method: str, seed: int, gba: float, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(("wga", "aligned", "conflicting", "precision", "recall", "seconds"))
    told_apart = {
        "protocol": "published",
        "table": "tab10",
        "percent": 0.5,
        "method": method,
        "average": True,
        "seed": seed,
    }
    return row | told_apart | {"gba": gba} | more


def test_the_tables_give_mean_and_sd_and_judge_each_demand() -> None:
    rows = [_row("resample", seed, gba) for seed, gba in enumerate((76, 77, 78.0))]
    rows += [_row("gerne", seed, 70.0) for seed in range(3)] + [_row("erm", seed, 36.0) for seed in range(2)]
    lines = list(tables.main_tables(rows, MAIN))
    assert "| resample | 77.0 ± 1.0 |  |" in lines
    assert "| erm | 36.0 ± 0.0 (2) |  |" in lines
    assert "| resample | 0.5 % | 77 | 77 (3 seeds) | met |" in lines
    assert "| gerne | 0.5 % | 75 | 70 (3 seeds) | **missed** |" in lines
    assert "| gerne less erm | 0.5 % | 35 | 34 (2 seeds) | too few seeds |" in lines
    assert "| gerne | 5 % | 85 |  | not measured |" in lines


def test_other_protocols_colours_and_last_weights_are_not_in_main_tables() -> None:
    rows = [_row("erm", 0, 20.0), _row("erm", 1, 90.0, table="named"), _row("erm", 2, 90.0, average=False)]
    rows.append(_row("erm", 1, 90.0, protocol="shifted"))
    assert "| erm | 20.0 (1) |  |" in list(tables.main_tables(rows, MAIN))


def test_only_what_lies_between_the_marks_of_the_readme_is_rewritten(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write_tables(readme, [_row("erm", 0, 20.0)], {"main": MAIN})
    text = readme.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n")
    assert text.endswith(f"{tables.END}\nafter\n")
    assert "old" not in text
    assert "| erm | 20.0 (1) |" in text
