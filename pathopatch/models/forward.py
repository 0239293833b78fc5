"""Predict patches by one or more trained models: what their networks take, and what is made of their logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.config import AreaCorrection
from pathopatch.core.errors import ChannelMismatchError, CheckpointIncompatibleError, InputUnsupportedError
from pathopatch.core.mask_bits import resize_masks
from pathopatch.core.text import pluralize
from pathopatch.models.card import classifier_text
from pathopatch.models.interior import cut_crops, has_crop
from pathopatch.models.runtime import Runtime
from pathopatch.models.spec import BundleSpec, joint_spec

SAMPLES = 16
"""Patches of `sample_patches`."""
_SEED = 20250
_COARSE = 7  # places on a side that are drawn; what is between them is interpolated
_GROUND = {"bright": 0.94, "dark": 0.04}
_LEAST_AREA = 0.1


class PatchClassifier:
    """A trained model, ready to predict.

    Parameters
    ----------
    spec : BundleSpec
        The model's inputs, outputs and decision rule.
    runtime : Runtime
        What runs its network.
    """

    def __init__(self, spec: BundleSpec, runtime: Runtime) -> None:
        self.spec = spec
        self.runtime = runtime
        self._is_head = spec.encoder is not None
        self._mean = np.array(spec.mean, dtype=np.float32)[:, None, None]  # (C, 1, 1)
        self._std = np.array(spec.std, dtype=np.float32)[:, None, None]

    def __repr__(self) -> str:
        runtime = f"{self.runtime.name}, {self.runtime.precision}"
        return f"<PatchClassifier {self.spec.method}: {classifier_text(self.spec)}, {runtime}>"

    def predict_logits(
        self, batch: NDArray[np.float32], tissue: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits, float32 (N, K), of patches, which are resized and standardised here.

        Parameters
        ----------
        batch : ndarray of float32, shape (N, C, p, p)
            Patches scaled to [0, 1] by their slide's windows, channels in the order of ``spec.channels``. For a head,
            features of its encoder as that gives them: ndarray of float16 or float32, shape (N, D).
        tissue : ndarray of bool, shape (N, p, p), optional
            Their tissue masks, for a model that needs them; others do not read it.

        Raises
        ------
        ChannelMismatchError
            Another number of channels or dimensions.
        InputUnsupportedError
            The model needs tissue masks, and there are none.
        """
        if self._is_head:
            batch = self._as_patches(batch)
        elif batch.ndim != 4 or batch.shape[1] != len(self.spec.channels):
            raise ChannelMismatchError(
                f"patches of shape {batch.shape}, the model takes (N, {len(self.spec.channels)}, p, p)",
                remedy=f"give the channels {', '.join(self.spec.channels)} in this order",
            )
        if len(batch) == 0:
            return np.empty((0, len(self.spec.class_names)), dtype=np.float32)
        return self.logits(self.standardised(batch, tissue))

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits (N, K) of patches as `standardised` returns them; of crops their mean over each patch."""
        if self.spec.crop_px is None:
            return self.runtime.logits(x)
        crops, patch_number = cut_crops(x, self.spec.crop_px)
        first = np.searchsorted(patch_number, np.arange(len(x)))
        total = np.add.reduceat(self.runtime.logits(crops), first, axis=0)
        return np.asarray(total / np.bincount(patch_number)[:, None], np.float32)

    def takes(self, tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which patches (N,) hold enough tissue for this model, by their masks (N, p, p)."""
        if self.spec.crop_px is None:
            return np.ones(len(tissue), np.bool_)
        return has_crop(resize_masks(tissue, self.spec.input_px), self.spec.crop_px)

    def _as_patches(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return features (N, D) or (N, D, 1, 1) as patches of one pixel."""
        dim = len(self.spec.mean)
        if features.shape not in ((len(features), dim), (len(features), dim, 1, 1)):
            raise ChannelMismatchError(
                f"features of shape {features.shape}, the model takes (N, {dim})",
                remedy="give features of the encoder that the model's README.md names",
            )
        return features.reshape(len(features), dim, 1, 1).astype(np.float32)

    def standardised(self, batch: NDArray[np.float32], tissue: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return patches in [0, 1] as the network's input; arguments and errors as `predict_logits`.

        It is float32 of shape (N, C, input_px, input_px), or C + 1 for a model that takes the tissue mask.
        """
        resized = resize_area(np.asarray(batch, dtype=np.float32), self.spec.input_px)
        x: NDArray[np.float32] = resized - self._mean
        np.divide(x, self._std, out=x)
        if self.spec.mask == "none":
            return x
        if tissue is None:
            raise InputUnsupportedError(
                "the model needs the tissue mask of each patch", remedy="give `tissue`, bool of shape (N, p, p)"
            )
        return append_mask(x, resize_masks(tissue, self.spec.input_px))


@dataclass(frozen=True, eq=False)
class EnsembleOutput:
    """Prediction of all members for N patches."""

    # (N,): z1 - z0 of a single model; of several the mean of that over the temperature.
    logit: NDArray[np.float64]
    probability: NDArray[np.float64]  # (N,), sigmoid of the logit; of a single model, of the logit over its temperature
    spread: NDArray[np.float64]  # (N,), standard deviation of the members' probabilities; NaN for a single model


CORRECTED = "corrected for the tissue area"


class Ensemble:
    """One or more models of two classes that see the same patches.

    Parameters
    ----------
    members : sequence of PatchClassifier
        At least one. `precision` and `computed_by` are those of each; one word if all have the same.
    area_correct : {"none", "subtract", "average"}
        How `corrected` corrects; `require_reliance` tells whether it may. The classes' names say so then.
    fingerprint : str
        What predictions call the models by, see `joint_fingerprint`; "" where they came from no bundles.

    Raises
    ------
    CheckpointIncompatibleError
        Other than two classes, or members that cut or scale a slide differently; the difference is named. Or the model
        has no record by which to correct it.
    """

    def __init__(
        self, members: Sequence[PatchClassifier], *, area_correct: AreaCorrection = "none", fingerprint: str = ""
    ) -> None:
        self.members, self.area_correct, self.fingerprint = tuple(members), area_correct, fingerprint
        self.spec = joint_spec([member.spec for member in self.members])
        if area_correct != "none":
            if self.spec.area_reliance is None:
                raise CheckpointIncompatibleError(
                    "nothing is known by which to correct the model for the tissue area",
                    place="[predict] area_correct",
                    remedy="open one bundle that relies on the area, by load_ensemble",
                )
            names = tuple(f"{name} (corrected)" for name in self.spec.class_names)
            method = f"{self.spec.method}, {CORRECTED} ({area_correct})"
            self.spec = self.spec.model_copy(update={"class_names": names, "method": method})
        self.takes_masks = any(member.spec.mask != "none" for member in self.members)
        self.computed_by = ", ".join(
            dict.fromkeys(f"{member.runtime.name} {member.runtime.version}" for member in self.members)
        )
        self.precision = "+".join(dict.fromkeys(member.runtime.precision for member in self.members))

    def __repr__(self) -> str:
        return f"<Ensemble of {pluralize(len(self.members), 'model')}: {', '.join(map(repr, self.members))}>"

    def forward(self, inputs: Sequence[NDArray[np.float32]]) -> EnsembleOutput:
        """Return the prediction of all members.

        `inputs` are what `PatchClassifier.standardised` returns, one per member.
        """
        margins = np.empty((len(self.members), len(inputs[0])))  # (M, N): z1 - z0 of each patch
        for row, member, x in zip(margins, self.members, inputs, strict=True):
            logits = member.logits(x).astype(np.float64)
            row[:] = logits[:, 1] - logits[:, 0]
        # Calibrate before averaging: otherwise an overconfident member, with large logits, would dominate the mean.
        calibrated = margins / np.array([[member.spec.temperature] for member in self.members])
        logit = calibrated.mean(axis=0)
        # The logistic function as a tanh, which cannot overflow.
        probability, *of_members = 0.5 * (1.0 + np.tanh(0.5 * np.vstack([logit, calibrated])))
        if len(self.members) == 1:
            return EnsembleOutput(margins[0], probability, np.full_like(probability, np.nan))
        return EnsembleOutput(logit, probability, np.std(of_members, axis=0, ddof=1))

    def margins(self, logit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits (N,) of `forward` less that of the decision, over the temperature."""
        return (logit - self.spec.decision_threshold) / self.spec.temperature

    def corrected(
        self, output: EnsembleOutput, area: NDArray[np.float64], set_logit: NDArray[np.float64] | None
    ) -> EnsembleOutput:
        """Return predictions corrected by ``spec.area_reliance``, which must be there; see `correct_for_area`.

        `area` (N,) is the tissue fraction of the patches, `set_logit` (N, T) are their logits with the area set to each
        of the record, for "average" alone.
        """
        rule = self.spec.area_reliance
        assert rule is not None
        margin = correct_for_area(
            self.margins(output.logit),
            area,
            None if set_logit is None else self.margins(set_logit),
            areas=rule.areas,
            response=rule.response,
        )
        logit = (margin + rule.shift[self.area_correct]) * self.spec.temperature + self.spec.decision_threshold
        return EnsembleOutput(logit, 0.5 * (1.0 + np.tanh(0.5 * logit / self.spec.temperature)), output.spread)


def correct_for_area(
    margin: NDArray[np.float64],
    area: NDArray[np.float64],
    set_margin: NDArray[np.float64] | None,
    *,
    areas: Sequence[float],
    response: Sequence[float],
) -> NDArray[np.float64]:
    """Return margins (N,) without the mean response of a model to the tissue area, but for a shift of all alike.

    Parameters
    ----------
    margin, area : ndarray of float, shape (N,)
        Margins of the patches as they are, and their tissue fraction.
    set_margin : ndarray of float, shape (N, T), or None
        Margins with the area set to each of `areas`; NaN without an answer. Their mean is taken, as if every area had
        an answer. None: the response at the patch's own area is subtracted, as it is for patches without any answer.
    areas, response : sequence of T float
        Rising areas, and the mean margin at each.
    """
    mean = float(np.mean(response))
    made: NDArray[np.float64] = margin - np.interp(area, areas, response) + mean
    if set_margin is None:
        return made
    beside = set_margin - np.asarray(response)
    n = np.isfinite(beside).sum(axis=1)
    np.divide(np.nansum(beside, axis=1) + mean * n, n, out=made, where=n > 0)
    return made


def append_mask(pixels: NDArray[np.float32], tissue: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return patches (N, C, H, W) with their tissue masks (N, H, W) as last channel, 0 or 1."""
    return np.concatenate([pixels, tissue[:, None].astype(np.float32)], axis=1)


def resize_area(patches: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    """Return patches (N, C, p, p) resampled by area to a side of `side_px`; unchanged if they have it already.

    Training and prediction both use it, so that both see the same pixels.
    """
    n, channels, height, width = patches.shape
    if (height, width) == (side_px, side_px):
        return patches
    planes = patches.reshape(n * channels, height, width)  # plane by plane: OpenCV takes at most four channels
    resized = np.empty((n * channels, side_px, side_px), dtype=np.float32)
    for plane, target in zip(planes, resized, strict=True):
        cv2.resize(plane, (side_px, side_px), dst=target, interpolation=cv2.INTER_AREA)
    return resized.reshape(n, channels, side_px, side_px)


def sample_patches(spec: BundleSpec) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return patches (16, C, p, p) in [0, 1], in steps of 1/255, and their tissue masks (16, p, p), p = `patch_px`.

    They are always the same, and nobody's tissue: made by single operations of IEEE arithmetic on numbers of a seed.
    The tissue area rises from 0.1 to 1. Of a head on features the first are features (16, D), the masks are empty.
    """
    rng = np.random.default_rng(_SEED)
    if spec.encoder is not None:
        mean, std = (np.array(values, np.float64) for values in (spec.mean, spec.std))
        features = mean + std * (4 * rng.random((SAMPLES, len(mean))) - 2)
        return features.astype(np.float32), np.zeros((SAMPLES, 0, 0), np.bool_)
    channels, side = len(spec.channels), spec.patch_px
    fields = _smooth(rng.random((SAMPLES, channels + 1, _COARSE, _COARSE)), side)
    shade, shape = fields[:, :channels], fields[:, channels].reshape(SAMPLES, -1)
    grain = rng.random((SAMPLES, channels, side, side))
    rank = np.argsort(np.argsort(-shape, axis=1, kind="stable"), axis=1, kind="stable")
    areas = np.linspace(_LEAST_AREA, 1, SAMPLES)
    tissue = (rank < np.rint(areas * side**2)[:, None]).reshape(SAMPLES, side, side)
    ground = _GROUND["dark" if spec.background == "dark" else "bright"]
    pixels = np.where(tissue[:, None], 0.1 + 0.6 * shade + 0.2 * grain, ground)
    return (np.rint(pixels * 255) / 255).astype(np.float32), tissue


def _smooth(coarse: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return fields (N, C, side, side), linear between the places (N, C, k, k) of a coarse grid."""
    at = np.linspace(0, coarse.shape[-1] - 1, side)
    first = np.minimum(at.astype(np.int64), coarse.shape[-1] - 2)
    part = at - first
    rows = coarse[..., first, :] * (1 - part)[:, None] + coarse[..., first + 1, :] * part[:, None]
    return np.asarray(rows[..., first] * (1 - part) + rows[..., first + 1] * part)
