"""Import a model that was made for another program: the commands `import`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.artefacts import changed_settings
from pathopatch.core.errors import InputUnsupportedError, PathopatchError, StaleArtefactError
from pathopatch.stages.batch.run import run_limited

if TYPE_CHECKING:
    from pathopatch.models.foreign_model import ForeignModel
    from pathopatch.models.onnx_graph import ImportedGraph
    from pathopatch.models.spec import BundleSpec

_GLASS = 240 / 255  # of scans of H&E, whose white is 235 to 245


def import_model(source: Path, bundle: Path, *, force: bool = False, **stated: Any) -> BundleSpec:
    """Write the model of another program as a bundle, unless it is there, and return its spec.

    `stated` are the description and the options of `read_model`. `force` replaces a bundle of another model.
    """
    from pathopatch.models.bundle import read_spec, save_bundle
    from pathopatch.models.foreign_model import read_model
    from pathopatch.models.torchscript_archive import gives_probabilities, open_archive

    model = read_model(source, **stated)
    spec, archive = model.spec, None
    if spec.torchscript is not None:
        archive = model.network
        ends = gives_probabilities(archive, spec, stated=model.outputs)
        torchscript = spec.torchscript.model_copy(update={"gives_probabilities": ends})
        spec = spec.model_copy(update={"torchscript": torchscript})
    if not _is_there(bundle, spec, force=force):
        network = open_archive(archive, spec) if archive else _open_graph(model)
        save_bundle(bundle, network, spec, archive=archive)
    return read_spec(bundle)


def _open_graph(model: ForeignModel) -> ImportedGraph:
    """Return the network of a model that came as ONNX."""
    from pathopatch.models.onnx_graph import ImportedGraph, read_onnx

    return ImportedGraph(
        read_onnx(model.network),
        model.spec,
        n_classes=len(model.classes),
        chosen=model.chosen,
        stated=model.outputs,
        place=model.network,
    )


def import_limited(
    folder: Path, bundle: Path, *, limit_s: float | None, limit_bytes: float | None = None, **options: Any
) -> tuple[BundleSpec, float]:
    """Import a model in a process of its own; return its spec, and its probability of blank glass.

    The process is ended after `limit_s` seconds, with SlideTimeoutError, and where it holds more than `limit_bytes`,
    with OutOfMemoryError; else as `import_model`.
    """
    work = partial(_import_and_try, folder, bundle, **options)
    what = "to read and try the network"
    return run_limited(work, place=str(folder), what=what, limit_s=limit_s, limit_bytes=limit_bytes)


def _import_and_try(folder: Path, bundle: Path, **options: Any) -> tuple[BundleSpec, float]:
    return import_model(folder, bundle, **options), glass_probability(bundle)


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
    from pathopatch.models.bundle import bundle_config, read_spec, stated_spec
    from pathopatch.models.spec import ONNX_NETWORK

    if not bundle.exists():
        return False
    try:
        stated_spec(bundle, bundle_config(bundle))
    except PathopatchError as error:  # a config.json lies in many folders that are none
        raise InputUnsupportedError(
            f"the path exists and is no model bundle: {error.message}",
            place=str(bundle),
            remedy="choose another folder",
        ) from error
    if force:
        return False
    present = read_spec(bundle)
    # A bundle of an earlier version states less of where it is from.
    told = {name: value for name, value in spec.parameters.items() if name in present.parameters}
    before = {**present.contract(), "parameters": present.parameters}
    if changes := changed_settings(before, {**spec.contract(), "parameters": told}):
        raise StaleArtefactError(
            "another model, or the same one with other settings, is here: " + "; ".join(changes),
            place=str(bundle),
            remedy="use --force to replace it, or another folder",
        )
    return spec.architecture != ONNX_NETWORK  # whose weights may lie in files beside it: they are read anew
