"""Train a head on plain arrays of features, for notebooks and other code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.config import TrainConfig, TuneConfig, head_settings, parse
from pathopatch.core.errors import InputUnsupportedError, SplitLeakageError
from pathopatch.core.patients import patient_key
from pathopatch.metrics.accuracy import predicted_class
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.result import TrainingResult
from pathopatch.training.search import open_study
from pathopatch.training.selection import accuracies_with_intervals
from pathopatch.training.tune import TrialRunner


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedHead:
    """A head on features, as `fit_head` returns it."""

    threshold: float  # on z1 - z0, chosen on validation patches for the worst group; 0 with more than two classes
    # Measures on the validation patches at that threshold, such as wga, wga_low, wga_high and gba: the head was
    # selected by them, so they are optimistic.
    validation: dict[str, Any]
    settings: TrainConfig  # that it was trained with; of a search, the winner's
    result: TrainingResult

    def __repr__(self) -> str:
        wga, gba = (self.validation[name] for name in ("wga", "gba"))
        return (
            f"<FittedHead by {self.settings.method}: validation worst-group accuracy {wga:.3f}, "
            f"group-balanced {gba:.3f}, threshold {self.threshold:.3g}>"
        )

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the logits (N, K) of features (N, D), as the encoder gives them."""
        n = len(features)
        return self.result.logits(_as_patches(features, np.zeros(n), np.zeros(n), np.arange(n)))

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class (N,) of features (N, D) at the threshold."""
        return predicted_class(self.logits(features), decision_threshold=self.threshold)

    def accuracies(
        self,
        features: NDArray[np.floating],
        label: ArrayLike,
        attribute: ArrayLike,
        *,
        patient: ArrayLike | None = None,
        resamples: int = 1000,
    ) -> dict[str, float]:
        """Return worst-group and group-balanced accuracy, ``wga`` and ``gba``, each with ``_low`` and ``_high``.

        The ends are those of 95 % intervals over patients; NaN without patients. Arrays are as `fit_head` takes them.
        """
        data = _as_patches(features, label, attribute, patient)
        group = (int(data.attribute.max()) + 1) * data.label + data.attribute
        one = np.zeros(len(data), dtype=np.int64)  # of one patient there is no interval
        return accuracies_with_intervals(
            self.predict(features) == data.label, group, one if patient is None else data.patient, resamples=resamples
        )


def fit_head(
    features: NDArray[np.floating],
    label: ArrayLike,
    attribute: ArrayLike,
    *,
    val: ArrayLike,
    patient: ArrayLike | None = None,
    method: str = "gerne",
    trials: int = 8,
    seed: int = 0,
    **settings: Any,
) -> FittedHead:
    """Train a linear head on features that does not learn the attribute, and select it by validation patches.

    Parameters
    ----------
    features : ndarray of float16 or float32, shape (N, D)
        As the encoder gives them: they are standardised here.
    label : array_like of int, shape (N,)
        Class of each patch, from 0.
    attribute : array_like of int or bool, shape (N,)
        What the head must not lean on, from 0: such as ``tissue_fraction >= 0.25``, or the number of a scanner.
    val : array_like of bool, shape (N,)
        Patches that select settings, checkpoint and decision threshold; the others are trained on.
    patient : array_like, shape (N,), optional
        Patient of each patch. No patient may be on both sides, and the intervals are over patients.
    method : str
        A debiasing method of the package that needs no pixels, such as erm, resample, groupdro or gerne.
    trials : int
        Settings to try; 1 trains once.
    seed : int
        Of the search.
    **settings
        Any other of `TrainConfig`, such as ``weight_decay`` or ``threads``.

    Raises
    ------
    SplitLeakageError
        A patient is on both sides.
    GroupEmptyError
        A group that the method needs has no patch to train on or to select by.
    NonFiniteError
        Features are NaN or infinite.
    InputUnsupportedError
        Arrays of other shapes or types, or settings that features do not allow.

    Examples
    --------
    >>> from pathopatch import features
    >>> label, has_much_tissue = np.arange(400) // 2 % 2, np.arange(400) % 2 == 1
    >>> x = np.random.default_rng(0).normal(4.0 * label[:, None], 1.0, (400, 8)).astype(np.float32)
    >>> fitted = features.fit_head(x, label, has_much_tissue, val=np.arange(400) >= 200, method="gerne")
    >>> fitted.accuracies(x, label, has_much_tissue)["wga"] > 0.9
    True
    """
    config = head_settings(parse(TrainConfig, {"method": method, "seed": seed, **settings}, place="fit_head"))
    data = _as_patches(features, label, attribute, patient)
    selects = np.asarray(val)
    if selects.shape != (len(data),) or selects.dtype != np.bool_:
        raise InputUnsupportedError(
            f"val of shape {selects.shape} and type {selects.dtype}",
            place="val",
            remedy="give a boolean for each patch: True where it selects, False where it is trained on",
        )
    sides = (np.unique(data.patient[side]).tolist() for side in (selects, ~selects))
    selected, trained = ({patient_key(name): name for name in names} for names in sides)
    if patient is not None and (shared := sorted(selected.keys() & trained.keys())):
        raise SplitLeakageError(
            f"{len(shared)} patients are both trained on and selected by, the first is {selected[shared[0]]}",
            place="val",
            remedy="put all patches of a patient on one side",
        )
    train, held_out = data.rows(~selects), data.rows(selects)
    if trials > 1:
        with TemporaryDirectory(prefix="pathopatch-") as name:
            study = open_study(Path(name), name="head")
            search = TuneConfig(trials=trials)
            runner = TrialRunner(train, held_out, config, search, study=study, folder=Path(name))
            runner.run_all()
            config, result = runner.winner()
    else:
        result = fit_arrays(train, held_out, config)
    return FittedHead(threshold=result.decision_threshold, validation=result.validation, settings=config, result=result)


def _as_patches(
    features: NDArray[np.floating], label: ArrayLike, attribute: ArrayLike, patient: ArrayLike | None
) -> PatchSet:
    """Return features as patches of one pixel; refuse arrays of other shapes and types."""
    x = np.asarray(features)
    if x.ndim != 2 or x.dtype not in (np.float16, np.float32):
        raise InputUnsupportedError(
            f"features of shape {x.shape} and type {x.dtype}",
            place="features",
            remedy="give an array of float16 or float32 of shape (N, D)",
        )
    codes = {name: np.asarray(values) for name, values in (("label", label), ("attribute", attribute))}
    for name, values in codes.items():
        is_whole = values.dtype.kind in "iub" or (values.dtype.kind == "f" and bool((values == values.round()).all()))
        if values.shape != (len(x),) or not is_whole:
            raise InputUnsupportedError(
                f"{name} of shape {values.shape} and type {values.dtype} for {len(x)} patches",
                place=name,
                remedy="give one integer or boolean for each patch, such as tissue_fraction >= 0.25",
            )
    names = np.arange(len(x)).astype(str)
    return PatchSet(
        x=x[:, :, None, None],
        label=codes["label"].astype(np.int64),
        attribute=codes["attribute"].astype(np.int64),
        tissue_fraction=np.full(len(x), np.nan),  # methods that read it refuse
        patient=names if patient is None else np.asarray(patient).astype(str),
        patch_id=names,
    )
