"""Features as arrays: read, and audited."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import made_features
import numpy as np
import pytest
from numpy.typing import NDArray

from pathopatch import features
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.features.arrays import read


def test_slides_follow_each_other_row_by_row(tmp_path: Path) -> None:
    patches = read(made_features.arrays(tmp_path))
    expected = np.concatenate([made_features.vectors("A"), made_features.vectors("B")])
    np.testing.assert_array_equal(patches.features, expected)
    assert patches.slide_id.tolist() == ["A"] * 4 + ["B"] * 2
    np.testing.assert_array_equal(patches.x, [0, 512, 0, 1024, 512, 1024])
    np.testing.assert_array_equal(patches.y, [0, 0, 512, 1536, 512, 512])
    np.testing.assert_array_equal(patches.side, [512] * 6)
    assert patches.tissue_fraction.tolist() == pytest.approx([0.1, 0.5, 0.9, 1.0, 0.25, 0.75])
    assert patches.encoder.dim == made_features.DIM


def test_one_file_gives_its_slide_alone(tmp_path: Path) -> None:
    assert set(read(made_features.trident(tmp_path) / "B.h5").slide_id) == {"B"}


def test_what_some_slides_lack_is_not_there(tmp_path: Path) -> None:
    folder = made_features.arrays(tmp_path)
    np.savez(folder / "B.npz", features=made_features.vectors("B"), coords=made_features.XY["B"])
    assert read(folder).tissue_fraction is None


def test_micrometres_stay_until_um_per_px_is_stated(tmp_path: Path) -> None:
    folder = made_features.stamp(tmp_path)
    assert (read(folder).unit, read(folder).side[0]) == ("um", 256.0)
    assert (read(folder, mpp=0.25).unit, read(folder, mpp=0.25).side[0]) == ("px", 1024.0)


def test_importing_features_loads_neither_torch_nor_h5py() -> None:
    code = (
        "import sys, pathopatch; pathopatch.features.read; pathopatch.features.readers.LAYOUTS; "
        "print(sorted({'torch', 'h5py', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


N, PER_PATIENT = 800, 40


def cohort(seed: int, *, shift: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and tissue fractions of 20 patients; `shift` is the tumour's extra tissue, in deviations."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, N)
    of_patient = np.repeat(rng.normal(0, 0.3, N // PER_PATIENT), PER_PATIENT)  # some patients hold more tissue
    tissue = np.clip(0.5 + 0.12 * (rng.normal(size=N) + of_patient + shift * label), 0, 1)
    return label, tissue


PATIENT = np.arange(N) // PER_PATIENT
SHIFT_OF_AUROC_75 = 0.954 * 1.044  # the normal distance 2^0.5 * 0.674 of an AUROC of 0.75, times the spread of tissue


def test_a_planted_shortcut_of_auroc_75_is_always_found() -> None:
    results = [features.audit(*cohort(seed, shift=SHIFT_OF_AUROC_75), patient=PATIENT) for seed in range(20)]
    assert [result["is_flagged"] for result in results] == [True] * 20
    assert np.mean([result["audit"]["whole"]["auroc"] for result in results]) == pytest.approx(0.75, abs=0.01)


def test_a_clean_cohort_is_flagged_at_most_once_in_20() -> None:
    results = [features.audit(*cohort(seed, shift=0.0), patient=PATIENT) for seed in range(20)]
    assert sum(result["is_flagged"] for result in results) <= 1


def test_audit_of_arrays_says_its_verdict() -> None:
    result = features.audit(*cohort(0, shift=3.0), patient=PATIENT)
    assert result["verdict"].startswith("SHORTCUT. In all labelled patches the tissue fraction alone")


def test_slides_stand_in_for_patients() -> None:
    data = cohort(0, shift=1.0)
    assert features.audit(*data, slide=PATIENT) == features.audit(*data, patient=PATIENT, slide=PATIENT)


def test_audit_needs_patients_or_slides() -> None:
    with pytest.raises(InputUnsupportedError, match="neither patients nor slides"):
        features.audit(*cohort(0, shift=0.0))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda y, t: (y[:-1], t), "shapes label"),
        (lambda y, t: (y + 1, t), "labels other than"),
        (lambda y, t: (y, 100 * t), "outside 0 to 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: object, expected: str) -> None:
    with pytest.raises(InputUnsupportedError, match=expected):
        features.audit(*change(*cohort(0, shift=0.0)), patient=PATIENT)  # type: ignore[operator]
