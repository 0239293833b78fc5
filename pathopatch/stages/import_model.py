"""Import a model that was made for another program: the commands `import`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.artefacts import changed_settings
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, PathopatchError, StaleArtefactError

if TYPE_CHECKING:
    from pathopatch.models.spec import BundleSpec

_UNTESTED = (
    "Untested: nobody has compared its answers with those of the program that it was made for. Scaling, channels and "
    "classes are as its description says."
)


def import_model(
    source: Path,
    bundle: Path,
    *,
    test: Path | None = None,
    untested: bool = False,
    force: bool = False,
    **stated: Any,
) -> BundleSpec:
    """Write the model of another program as a bundle, unless it is there, and return its spec.

    `test` is a file of known answers, see `read_answers`. Without one, `untested` must be said, and the card says so.
    `stated` are the description and the options of `read_model`. `force` replaces a bundle of another model.
    """
    from pathopatch.models.bundle import read_spec, save_bundle
    from pathopatch.models.card import NOTE
    from pathopatch.models.foreign_model import read_model
    from pathopatch.models.known_answers import read_answers
    from pathopatch.models.onnx_graph import ImportedGraph
    from pathopatch.models.torchscript_archive import TorchScriptNetwork, open_archive

    model = read_model(source, **stated)
    spec, archive, answers, compare = model.spec, None, None, None
    if not untested:
        if test is None:
            raise InputMissingError(
                "no test patches: nothing shows whether scaling, channels and classes are as described",
                place=str(model.network),
                remedy="give at least three patches with the answers that are due (--test patches.npz), or say "
                "--untested",
            )
        answers = read_answers(test, spec, model.classes)
    facts = {NOTE: _UNTESTED} if answers is None else answers.facts()
    spec = spec.model_copy(update={"parameters": spec.parameters | facts})
    if not _is_there(bundle, spec, force=force):
        chosen, are_probabilities = model.chosen, False
        network: TorchScriptNetwork | ImportedGraph
        if spec.torchscript is not None:
            archive = model.network
            network = open_archive(archive, spec)
        else:
            n_classes = len(model.classes)
            network = ImportedGraph(model.network, spec, n_classes=n_classes, chosen=chosen, stated=model.outputs)
            are_probabilities = network.gives_probabilities
        if answers is not None:
            compare = partial(answers.compare, chosen=chosen, gives_probabilities=are_probabilities)
        save_bundle(bundle, network, spec, archive=archive, compare=compare)
    return read_spec(bundle)


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
    before, now = ({**of.contract(), "parameters": of.parameters} for of in (present, spec))
    if changes := changed_settings(before, now):
        raise StaleArtefactError(
            "another model, or the same one with other settings, is here: " + "; ".join(changes),
            place=str(bundle),
            remedy="use --force to replace it, or another folder",
        )
    return spec.architecture != ONNX_NETWORK  # whose weights may lie in files beside it: they are read anew
