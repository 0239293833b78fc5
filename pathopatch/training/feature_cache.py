"""Keep the features of frozen backbones in the work folder: every run, seed, fold and evaluation reads them there.

``features/<key>/<slide>.npz`` holds the labelled patches of a slide as one backbone sees them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint, fingerprint_file, made
from pathopatch.core.locks import folder_lock, is_locked, slide_lock
from pathopatch.core.mask_bits import MaskKind
from pathopatch.core.work_folder import WorkFolder
from pathopatch.models.frozen import FrozenNetwork
from pathopatch.models.loading import load_network
from pathopatch.models.spec import BundleSpec
from pathopatch.training.dataset import PatchSet, load_patches
from pathopatch.training.frozen import Backbone, Features, Head
from pathopatch.training.invariance import Edits
from pathopatch.training.loop import StepCallback

STAGE = "features"
_log = logging.getLogger(__name__)


def logits_from_cache(
    work: Path, groups: pd.DataFrame, bundle: Path, spec: BundleSpec, **options: Any
) -> Callable[[PatchSet, int | None], NDArray[np.float64]]:
    """Return what computes the logits (N, 2) of patches of a work folder by the head of a frozen network's bundle.

    They are those of its runtime up to rounding; with a number of a grey channel, without what that channel shows.
    Errors are those of `load_network`.
    """
    network = load_network(bundle)
    assert isinstance(network, FrozenNetwork)
    backbone = Backbone(network, spec.architecture, spec.timm_args, spec.mask, spec.crop_px, spec.mean, spec.std)
    cache = FeatureCache(work, groups, input_px=spec.input_px, **options)
    weight, bias = (values.detach().double().numpy() for values in network.classifier.parameters())
    blank = backbone.of_blank_channel()

    def logits(patches: PatchSet, without: int | None) -> NDArray[np.float64]:
        features = cache(patches, backbone)
        if without is not None:
            mean = cache(patches, blank)
            features[:, without * mean.shape[1] : (without + 1) * mean.shape[1]] = mean
        return Head(weight, bias).logits(features)

    return logits


class FeatureCache:
    """Read features of patches of a work folder, and compute those of a slide when they are first asked for.

    `groups` is the whole table of groups; patches without a label have no features.
    """

    def __init__(
        self,
        work: Path,
        groups: pd.DataFrame,
        *,
        input_px: int,
        device: str = "auto",
        threads: int | None = None,
        progress: StepCallback | None = None,
    ) -> None:
        self._work, self._folder = work, WorkFolder(work).tiled
        self._rows = groups[groups["label"] >= 0]
        self._slide_of = self._rows.set_index("patch_id")["slide_id"]
        self._input_px, self._device, self._threads, self._progress = input_px, device, threads, progress

    def __call__(self, patches: PatchSet, backbone: Backbone) -> Features:
        """Return the features (N, D) of patches; raises as `load_patches`."""
        return self._read(patches.patch_id, backbone, ())

    def of_versions(self, patches: PatchSet, index: NDArray[np.int64], backbone: Backbone, edits: Edits) -> Features:
        """Return what `Backbone.of_versions` does; raises as `load_patches`."""
        return self._read(patches.patch_id[index], backbone, edits)

    def _read(self, patch_id: NDArray[Any], backbone: Backbone, edits: Edits) -> Features:
        """Return the features (N, D) of patches, or with edits (N, V, D) of their versions."""
        slide = self._slide_of.loc[patch_id].to_numpy(dtype=str)
        key = fingerprint(backbone.facts() | {"input_px": self._input_px} | ({"edits": edits} if edits else {}))
        versions = (len(edits),) if edits else ()
        made = np.empty((len(patch_id), *versions, backbone.network.classifier.in_features), np.float32)
        slides = np.unique(slide)
        waiting = slides.tolist()
        for number in range(len(slides)):
            # A slide that another process is at comes last, so that both share the work.
            free = (name for name in waiting if not is_locked(self._folder.root, _lock_name(name, key)))
            name = next(free, waiting[0])
            waiting.remove(name)
            index = np.flatnonzero(slide == name)
            names, features = self._of_slide(name, key, backbone, edits, patch_id[index])
            place = pd.Index(names).get_indexer(patch_id[index])
            made[index] = features[place]
            if self._progress:
                self._progress(number + 1, len(slides), {})
        return made

    def _of_slide(
        self, slide_id: str, key: str, backbone: Backbone, edits: Edits, asked: NDArray[Any]
    ) -> tuple[NDArray[Any], Features]:
        """Return the names (n,) and features (n, D) of a slide's labelled patches.

        With edits (n, V, D) of the versions of `asked` patches, and of those that were asked for before.
        """
        rows = self._rows[self._rows["slide_id"] == slide_id]
        path = self._folder.frozen_features(key, slide_id)
        # Masks and windows come with the table of the slide, pixels with its checksum.
        of = [sorted(rows["patch_id"]), fingerprint_file(self._folder.patches(slide_id))]
        inputs = {"patches": fingerprint([*of, sorted(set(rows.get("pixels_checksum", ())))])}
        lock = folder_lock(self._folder.root, _lock_name(slide_id, key), waiting_for=f"features of {slide_id}")
        # What was made of other patches is of no use to anybody.
        with lock, made(path, stamp=Stamp(stage=STAGE, inputs=inputs), force=True) as job:
            if job.unreadable:
                _log.warning("features of %s are damaged, and are computed anew: %s", slide_id, path)
            known = np.empty(0, str), np.empty((0, len(edits), backbone.network.classifier.in_features), np.float32)
            if job.is_current:
                with np.load(path) as stored:
                    known = stored["patch_id"], stored["features"]
                if np.isin(asked, known[0]).all():
                    return known
            masks: tuple[MaskKind, ...] = ("tissue",) if backbone.mask != "none" or edits else ()
            splits = sorted(set(rows["split"]))
            patches = load_patches(self._work, rows, input_px=self._input_px, splits=splits, cache_gib=0, masks=masks)
            by: dict[str, Any] = {"device": self._device, "threads": self._threads}
            names = patches.patch_id.astype(str)
            if edits:
                new = np.flatnonzero(np.isin(names, asked) & ~np.isin(names, known[0]))
                added = names[new], backbone.of_versions(patches, new, edits, **by)
                names, features = (np.concatenate(both) for both in zip(known, added, strict=True))
            else:
                features = backbone.features(patches, **by)
            job.write_arrays(path, patch_id=names, features=features)
        return names, features


def _lock_name(slide_id: str, key: str) -> str:
    """Return the name of the lock on a slide's features by one backbone; those of others are computed meanwhile."""
    return slide_lock(f"{key}/{slide_id}", STAGE)
