"""Compare the answers of an imported model with those that are known for test patches."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import CheckpointIncompatibleError, InputCorruptError, InputUnsupportedError
from pathopatch.core.input_files import require_regular
from pathopatch.models.card import NOTE
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.spec import BundleSpec

PATCHES = "patches.npz"
"""File of an export: patches with the answers that are due."""
_LEAST = 3  # patches
# Of a probability. A network's own outputs are repeated nearly exactly; what another program prints was made of pixels
# that it resized and rounded, and has two digits.
_OF_OUTPUTS, _OF_PROBABILITIES = 1e-3, 1e-2
_LOGIT_WEIGHT, _MOST_LOGIT = 0.01, 16.0  # so that a probability near 0 or 1 counts by its logit, within float32
_SPREAD = 10  # times the tolerance by which answers must differ, to show that a scaling is right
_UNNAMED = "Class order untested: the known answers have no class names, so that swapped classes would not be found."
NOT_READ = (
    EOFError, KeyError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What is raised for arrays that cannot be read."""


@dataclass(frozen=True, eq=False)
class KnownAnswers:
    """Patches and what a model must answer: its network's outputs, or probabilities of tumour."""

    patches: NDArray[np.float32]  # (N, C, p, p) in [0, 1]
    due: NDArray[np.float64]  # (N, K) outputs of the network, or (N,) probabilities
    place: str
    has_class_names: bool = True  # probabilities are of tumour; outputs may come without names

    def facts(self) -> dict[str, Any]:
        """Return what a bundle keeps of the comparison: the number of patches, a digest, and what was not tested."""
        digest = hashlib.sha256(self.patches.tobytes() + self.due.tobytes())
        facts = {"test_patches": len(self.due), "test_sha256": digest.hexdigest()}
        return facts | ({} if self.has_class_names else {NOTE: _UNNAMED})

    def compare(self, model: PatchClassifier, *, chosen: Sequence[int], gives_probabilities: bool) -> None:
        """Refuse a model of two classes that answers otherwise, and answers that would be right whatever the scaling.

        `chosen` are the numbers of the outputs that are its second class.
        """
        if self.due.ndim == 1:
            tolerance, weight = _OF_PROBABILITIES, 0.0
            due = _log_odds(self.due[:, None], (0,), gives_probabilities=True)
        else:
            tolerance, weight = _OF_OUTPUTS, _LOGIT_WEIGHT
            due = _log_odds(self.due, chosen, gives_probabilities=gives_probabilities)
        if not _difference(due.min(), due.max(), weight) >= _SPREAD * tolerance:
            raise InputUnsupportedError(
                f"the {len(due)} test patches have nearly one answer: a wrong scaling would not be found",
                place=self.place,
                remedy="give patches of both classes, whose answers differ by more than 0.1",
            )
        logits = model.predict_logits(self.patches).astype(np.float64) / model.spec.temperature
        given = logits[:, 1] - logits[:, 0]
        difference = _difference(given, due, weight)
        if not difference <= tolerance:  # NaN is not <=
            pairs = ", ".join(f"{a:.3g} ({b:.3g})" for a, b in zip(_sigmoid(given), _sigmoid(due), strict=True))
            raise CheckpointIncompatibleError(
                f"its probabilities of {model.spec.class_names[1]} for the test patches differ from those due (in "
                f"brackets) by {difference:.3g}, {tolerance:g} at most: {pairs[:300]}",
                place=self.place,
                remedy="compare mean, std, channels, size and classes of the description with the model's own program",
            )


def read_answers(path: Path, spec: BundleSpec, classes: Sequence[str]) -> KnownAnswers:
    """Return the known answers for a model of a ``.npz`` file.

    It holds ``patches``, uint8 or floats from 0 to 1 of shape (N, C, patch_px, patch_px), and ``expected``: the
    network's outputs (N, K), or probabilities of tumour (N,). That of our own exports is one. Outputs have the order of
    ``class_names`` (K,) if the file holds them, else of the model's `classes`. N is at least 3. InputCorruptError,
    InputUnsupportedError.
    """
    place = str(path)
    require_regular(path)
    try:
        arrays = read_arrays(path)
        patches, due = arrays["patches"], arrays["expected"].astype(np.float64)
        names = [str(name) for name in arrays.get("class_names", ())] if due.ndim == 2 else []
    except NOT_READ as error:
        raise InputCorruptError(
            f"no readable arrays patches and expected: {error}", place=place, remedy="write it by numpy.savez"
        ) from error
    if patches.dtype == np.uint8:
        patches = patches.astype(np.float32) / 255
    wanted = len(spec.channels), spec.patch_px, spec.patch_px
    problem = ""
    if patches.shape[1:] != wanted or patches.dtype.kind != "f":
        problem = (
            f"patches of shape {patches.shape} and type {patches.dtype}, (N, {', '.join(map(str, wanted))}) is due"
        )
    elif len(patches) < _LEAST:
        problem = f"{len(patches)} test patches, {_LEAST} at least"
    elif due.shape not in ((len(patches),), (len(patches), len(classes))):
        problem = f"answers of shape {due.shape} to {len(patches)} patches by {len(classes)} outputs"
    elif names and sorted(names) != sorted(classes):
        problem = f"answers of {', '.join(names)}, and the model's classes are {', '.join(classes)}: use the same names"
    elif not (patches.min() >= 0 and patches.max() <= 1):  # NaN is not >=
        problem = f"patches from {patches.min():g} to {patches.max():g}, as floats from 0 to 1"
    elif not np.isfinite(due).all() or (due.ndim == 1 and not (due.min() >= 0 and due.max() <= 1)):
        problem = "answers that are no finite numbers, or no probabilities from 0 to 1"
    if problem:
        raise InputUnsupportedError(problem, place=place, remedy="give --test patches.npz with patches and expected")
    due = due[:, [names.index(name) for name in classes]] if names else due
    return KnownAnswers(patches.astype(np.float32), due, place, has_class_names=bool(names) or due.ndim == 1)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``.npz`` file by name; raises as `numpy.load`."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: np.asarray(stored[name]) for name in stored.files}


def _log_odds(outputs: NDArray[np.float64], chosen: Sequence[int], *, gives_probabilities: bool) -> NDArray[np.float64]:
    """Return the log-odds (N,) of the chosen outputs together against the others; a single one is against all else."""
    if outputs.shape[1] == 1:
        outputs = np.hstack([1 - outputs if gives_probabilities else np.zeros_like(outputs), outputs])
        chosen = (1,)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log(outputs) if gives_probabilities else outputs
        rest = [number for number in range(z.shape[1]) if number not in chosen]
        odds = np.logaddexp.reduce(z[:, list(chosen)], axis=1) - np.logaddexp.reduce(z[:, rest], axis=1)
    return np.asarray(np.clip(odds, -_MOST_LOGIT, _MOST_LOGIT))


def _sigmoid(z: Any) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(np.asarray(z) / 2)))


def _difference(one: Any, other: Any, weight: float) -> float:
    """Return the largest difference of the probabilities of two log-odds, or of `weight` times the log-odds."""
    one = np.clip(one, -_MOST_LOGIT, _MOST_LOGIT)
    return float(np.maximum(np.abs(_sigmoid(one) - _sigmoid(other)), weight * np.abs(one - other)).max())
