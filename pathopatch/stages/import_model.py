"""Import a model that was made for another program: the commands `import`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.artefacts import changed_settings
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.stages.batch.run import run_limited

if TYPE_CHECKING:
    from pathopatch.models.spec import BundleSpec

_GLASS = 240 / 255  # of scans of H&E, whose white is 235 to 245


def import_wsinfer(
    folder: Path,
    bundle: Path,
    *,
    tumor_classes: Sequence[str] = (),
    made_by: str = "",
    force: bool = False,
) -> BundleSpec:
    """Write the model of a folder for wsinfer as a bundle, unless it is there, and return its spec.

    `tumor_classes` and `made_by` are those of `read_wsinfer`. `force` replaces a bundle of another model.
    """
    from pathopatch.models.bundle import read_spec, save_bundle
    from pathopatch.models.torchscript_archive import gives_probabilities, open_archive
    from pathopatch.models.wsinfer import NETWORK, read_wsinfer

    spec = read_wsinfer(folder, tumor_classes=tumor_classes, made_by=made_by)
    assert spec.torchscript is not None
    kind = {"gives_probabilities": gives_probabilities(folder / NETWORK, spec)}
    spec = spec.model_copy(update={"torchscript": spec.torchscript.model_copy(update=kind)})
    if not _is_there(bundle, spec, force=force):
        save_bundle(bundle, open_archive(folder / NETWORK, spec), spec, archive=folder / NETWORK)
    return read_spec(bundle)


def import_limited(folder: Path, bundle: Path, *, limit_s: float | None, **options: Any) -> tuple[BundleSpec, float]:
    """Import a model in a process of its own; return its spec, and its probability of blank glass.

    A program that does not end is ended after `limit_s` seconds, with SlideTimeoutError; else as `import_wsinfer`.
    """
    work = partial(_import_and_try, folder, bundle, **options)
    return run_limited(work, place=str(folder), what="to read and try the network", limit_s=limit_s)


def _import_and_try(folder: Path, bundle: Path, **options: Any) -> tuple[BundleSpec, float]:
    return import_wsinfer(folder, bundle, **options), glass_probability(bundle)


def glass_probability(bundle: Path) -> float:
    """Return the probability that a model of R, G, B gives blank glass: a patch of grey value 240 of 255."""
    import numpy as np

    from pathopatch.models.forward import Ensemble
    from pathopatch.models.loading import load_model

    model = load_model(bundle, device="cpu", precision="float32")
    glass = np.full((1, len(model.spec.channels), model.spec.patch_px, model.spec.patch_px), _GLASS, np.float32)
    return float(Ensemble([model]).forward([model.standardised(glass)]).probability[0])


def _is_there(bundle: Path, spec: BundleSpec, *, force: bool) -> bool:
    """Return whether the bundle is there; refuse one of another spec, and what is no bundle."""
    from pathopatch.models.bundle import read_spec, spec_file

    if not bundle.exists():
        return False
    if not spec_file(bundle).is_file():
        raise InputUnsupportedError(
            "the path exists and is no model bundle", place=str(bundle), remedy="choose another folder"
        )
    if force:
        return False
    present = read_spec(bundle)
    before, now = ({**one.contract(), "parameters": one.parameters} for one in (present, spec))
    if changes := changed_settings(before, now):
        raise StaleArtefactError(
            "another model, or the same one with other settings, is here: " + "; ".join(changes),
            place=str(bundle),
            remedy="use --force to replace it, or another folder",
        )
    return True
