"""Store slide classifiers as folders of safetensors and JSON, and read them safely."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file

from pathopatch.core.config import parse
from pathopatch.core.config.base import Config
from pathopatch.core.errors import CheckpointIncompatibleError, InputCorruptError, InputMissingError
from pathopatch.core.files import atomic_path, read_json, write_json
from pathopatch.core.version import __version__
from pathopatch.models.attention_pooling import SlideClassifier
from pathopatch.models.bundle import SPEC, WEIGHTS, write_tensors
from pathopatch.models.weights import file_sha256, require_finite

_MOST_VALUES = 2**16  # of a patch's features, and of its projection


class SlideModelSpec(Config):
    """What is known of a slide classifier but its weights."""

    kind: Literal["slide classifier"] = "slide classifier"
    schema_version: Literal[1] = 1
    package_version: str = __version__
    pooling: Literal["attention", "mean"]
    encoder: dict[str, Any]  # of the features, as `Encoder.to_dict` returns it
    dim: int = Field(ge=1, le=_MOST_VALUES)  # values of a patch
    hidden: int = Field(ge=2, le=_MOST_VALUES)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    decision_threshold: float  # on the logit of a slide
    fold: int | None = None  # None: there is one split
    epoch: int
    validation_auroc: float
    data: dict[str, int] = {}  # numbers of slides that trained, validated and tested
    training: dict[str, str] = {}  # fingerprints of what it was trained on
    weights_sha256: str = ""  # of ``model.safetensors``; `save_slide_model` states it

    @property
    def is_gated(self) -> bool:
        """Whether patches are weighted by gated attention."""
        return self.pooling == "attention"


def save_slide_model(folder: Path, network: SlideClassifier, spec: SlideModelSpec) -> None:
    """Write weights and ``model.json`` whole or not at all; equal models give equal bytes."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        write_tensors(temporary / WEIGHTS, {name: value.detach() for name, value in network.state_dict().items()}, {})
        known = spec.model_copy(update={"weights_sha256": file_sha256(temporary / WEIGHTS)})
        write_json(temporary / SPEC, known.model_dump(mode="json"))


def load_slide_model(folder: Path) -> tuple[SlideClassifier, SlideModelSpec]:
    """Return a stored slide classifier, ready to predict, and what is known of it.

    Raises
    ------
    InputMissingError
        There is no such folder, or one of its two files is missing.
    InputUnsupportedError, CheckpointIncompatibleError
        ``model.json`` is of something else, or the weights are of another network.
    InputCorruptError, NonFiniteError
        A file is not the one that was written, or a weight is NaN or infinite.
    """
    for path in (folder / SPEC, folder / WEIGHTS):
        if not path.is_file():
            raise InputMissingError(
                f"no {path.name}",
                place=str(folder),
                remedy="give the folder of a slide classifier, such as WORK/slide_level/NAME/models/attention",
            )
    spec = parse(SlideModelSpec, read_json(folder / SPEC), place=str(folder / SPEC))
    if file_sha256(folder / WEIGHTS) != spec.weights_sha256:
        raise InputCorruptError(
            f"{WEIGHTS} is not the file that {SPEC} was written with",
            place=str(folder / WEIGHTS),
            remedy="copy the folder again, or run pathopatch mil again with --force",
        )
    try:
        require_finite(folder / WEIGHTS)
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise InputCorruptError(
            f"not readable weights: {error}", place=str(folder / WEIGHTS), remedy="copy the folder again"
        ) from error
    with torch.device("meta"):  # what the file claims is compared before memory is taken for it
        network = SlideClassifier(spec.dim, spec.hidden, is_gated=spec.is_gated, dropout=spec.dropout)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if {name: tuple(value.shape) for name, value in weights.items()} != expected:
        raise CheckpointIncompatibleError(
            f"the weights are not those of {spec.pooling} of {spec.dim} values",
            place=str(folder / WEIGHTS),
            remedy="copy the folder again, or run pathopatch mil again with --force",
        )
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False), spec
