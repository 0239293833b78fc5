"""Load encoders from files that hold their whole network: TorchScript, and folders of transformers."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathopatch.core.config import EncodeConfig, Pooling
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    CheckpointUnsafeError,
    InputMissingError,
    InputUnsupportedError,
)
from pathopatch.core.files import read_json
from pathopatch.core.input_files import require_regular
from pathopatch.features.encoder_network import CHANNELS, LoadedEncoder, PooledEncoder
from pathopatch.features.encoders import ENCODERS, crop_text
from pathopatch.features.slide_features import Encoder
from pathopatch.models.torchscript_archive import load_program, program_outputs
from pathopatch.models.weights import file_sha256

_TORCHSCRIPT = (".pt", ".pth", ".ts", ".torchscript")
_WEIGHTS = (".safetensors", ".bin")
_STATED = ("input_px", "mean", "std")
_TOKEN_POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "cls+mean", "tissue-mean")


def is_own_file(encoder: str) -> bool:
    """Return whether an encoder is given by the path of its own file or folder, not by a name of the table."""
    return encoder not in ENCODERS and (holds_network(Path(encoder)) or Path(encoder).exists())


def holds_network(path: Path) -> bool:
    """Return whether a file or folder is of a kind that holds a whole network, not weights alone."""
    return path.is_dir() or path.suffix in _TORCHSCRIPT


def load_file(config: EncodeConfig) -> LoadedEncoder:
    """Return the encoder in a file or folder, whose outputs must be a function of the patch alone.

    TorchScript is a program of its own operations: no Python code of the file is run, and programs that read or write
    files are refused.
    """
    path = Path(config.encoder)
    require_regular(path)
    if not path.exists():
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path in encode --encoder")
    if config.weights is not None:
        raise InputUnsupportedError(
            f"{path.name} holds its weights", place="--weights", remedy="leave --weights out, or name an encoder"
        )
    if path.is_dir():
        return _load_transformers(path, config)
    if path.suffix not in _TORCHSCRIPT:
        raise InputUnsupportedError(
            f"{path.name} is no encoder",
            place="--encoder",
            remedy=f"give TorchScript ({', '.join(_TORCHSCRIPT)}), as torch.jit.trace(network, x).save('encoder.pt') "
            "writes it, or a name and --weights",
        )
    return _load_torchscript(path, config)


def _load_torchscript(path: Path, config: EncodeConfig) -> LoadedEncoder:
    """Return the encoder in a TorchScript archive."""
    if config.pooling is not None:
        raise InputUnsupportedError(
            f"{path.name} pools by itself", place="--pooling", remedy="leave encode --pooling out"
        )
    _require_stated({name: getattr(config, name) for name in _STATED}, path)
    assert config.input_px is not None
    is_script = zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist())
    if not is_script:
        raise CheckpointIncompatibleError(
            f"{path.name} is not TorchScript",
            place=str(path),
            remedy="a file of weights alone goes with the name of its encoder: encode --encoder NAME --weights FILE",
        )
    network = load_program(path, torch.device("cpu")).eval()
    outputs = program_outputs(
        network,
        (CHANNELS, config.input_px, config.input_px),
        place=path,
        remedy="look at encode --input-px, and export the network in evaluation mode (network.eval())",
    )
    if outputs.ndim != 2:
        raise CheckpointIncompatibleError(
            f"{path.name} gives an output of shape {outputs.shape[1:]} per patch, one vector is needed: (D,)",
            place=str(path),
            remedy="export the network with its pooling",
        )
    encoder = Encoder(
        name=path.stem,
        dim=outputs.shape[1],
        input_px=config.input_px,
        mean=config.mean,
        std=config.std,
        crop=crop_text(None, config.input_px),
        weights_sha256=file_sha256(path),
    )
    return LoadedEncoder(
        network=network, encoder=encoder, resize_px=config.input_px, mpp=None, patch_px=config.input_px
    )


class _Tokens(nn.Module):
    """A vision transformer of transformers that gives its tokens as timm's do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return tokens (N, T, D) of standardised patches (N, 3, H, W)."""
        tokens: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return tokens


def _load_transformers(folder: Path, config: EncodeConfig) -> LoadedEncoder:
    """Return a vision transformer from a folder as Hugging Face's transformers saves it; its own code is not run."""
    try:
        from transformers import AutoModel
    except ModuleNotFoundError as error:
        raise InputUnsupportedError(
            "a folder of transformers, which is not installed", place=str(folder), remedy="pip install transformers"
        ) from error
    pooling = config.pooling or "cls"
    if pooling not in _TOKEN_POOLINGS:
        raise InputUnsupportedError(
            f"no pooling {pooling!r} of tokens", place="--pooling", remedy=f"use {', '.join(_TOKEN_POOLINGS)}"
        )
    if not (folder / "config.json").is_file():
        raise InputMissingError(
            f"no config.json in {folder.name}", place=str(folder), remedy="name the folder that the model was saved to"
        )
    _refuse_other_files(folder)
    try:
        model, report = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except pickle.UnpicklingError as error:
        raise CheckpointUnsafeError(
            "the folder holds a pickle of more than tensors", place=str(folder), remedy="use model.safetensors"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointIncompatibleError(
            f"transformers cannot build it without code of its own: {error}",
            place=str(folder),
            remedy="give the encoder as TorchScript",
        ) from error
    if missing := [name for name in report["missing_keys"] if not name.startswith("pooler.")]:
        raise CheckpointIncompatibleError(
            f"the weights are incomplete: first missing tensor {missing[0]!r}",
            place=str(folder),
            remedy="get the folder again",
        )
    form = _input_form(folder, config)
    network = PooledEncoder(
        _Tokens(model),
        pooling,
        stride_px=int(model.config.patch_size),
        prefix_tokens=1 + int(getattr(model.config, "num_register_tokens", 0)),
    )
    network = network.eval().requires_grad_(False)
    shape = CHANNELS + (pooling == "tissue-mean"), form["input_px"], form["input_px"]
    program_outputs(
        network, shape, place=folder, remedy="look at encode --input-px, or give the encoder as TorchScript"
    )
    hashes = [file_sha256(path) for path in sorted(folder.iterdir()) if path.suffix in _WEIGHTS]
    encoder = Encoder(
        name=folder.resolve().name,
        dim=int(model.config.hidden_size) * (2 if pooling == "cls+mean" else 1),
        pooling=pooling,
        input_px=form["input_px"],
        mean=form["mean"],
        std=form["std"],
        crop=crop_text(form["resize_px"], form["input_px"]),
        weights_sha256=hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
    )
    return LoadedEncoder(
        network=network, encoder=encoder, resize_px=form["resize_px"], mpp=None, patch_px=form["resize_px"]
    )


def _refuse_other_files(folder: Path) -> None:
    """Refuse a folder of transformers that takes weights from elsewhere: it could name any file of this machine."""
    for path in folder.iterdir():
        require_regular(path)
    if (folder / "adapter_config.json").is_file():
        raise _unsafe(folder / "adapter_config.json", "it adapts a model that lies elsewhere")
    if _names_timm(read_json(folder / "config.json")):
        raise _unsafe(folder / "config.json", "timm builds the network, by arguments that may name files")
    for path in sorted(folder.rglob("*.index.json")):
        places = read_json(path).get("weight_map")
        for place in places.values() if isinstance(places, dict) else ():
            if not isinstance(place, str) or Path(place).name != place:
                raise _unsafe(path, f"it takes weights from {place!r}")


def _names_timm(config: object) -> bool:
    """Return whether a configuration, or one within it, is of a network that timm builds."""
    if isinstance(config, list):
        return any(map(_names_timm, config))
    if not isinstance(config, Mapping):
        return False
    is_timm = str(config.get("model_type")).startswith("timm") or bool(config.get("use_timm_backbone"))
    return is_timm or any(map(_names_timm, config.values()))


def _unsafe(path: Path, problem: str) -> CheckpointUnsafeError:
    return CheckpointUnsafeError(
        f"{problem}; nothing was read", place=str(path), remedy="give the encoder as TorchScript"
    )


def _input_form(folder: Path, config: EncodeConfig) -> Mapping[str, Any]:
    """Return how patches are given to a model: as stated by the options, else by its ``preprocessor_config.json``."""
    path = folder / "preprocessor_config.json"
    stated = read_json(path) if path.is_file() else {}
    size, crop = _side(stated.get("size")), _side(stated.get("crop_size"))
    input_px = config.input_px or (crop if stated.get("do_center_crop") else None) or size
    form = {
        "input_px": input_px,
        "resize_px": input_px if config.input_px is not None else max(size or 0, input_px or 0),
        "mean": config.mean or tuple(stated.get("image_mean", ())),
        "std": config.std or tuple(stated.get("image_std", ())),
    }
    _require_stated({name: form[name] for name in _STATED}, folder)
    return form


def _require_stated(form: Mapping[str, Any], encoder: Path) -> None:
    """Refuse an encoder of which neither options nor its own files state how patches are given to it."""
    if missing := [name for name, value in form.items() if not value]:
        options = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise InputMissingError(
            f"{encoder.name} does not say how patches are given to it: {options}",
            place=str(encoder),
            remedy=f"state {options} as the publisher does; no default is guessed",
        )


def _side(size: object) -> int | None:
    """Return the side that a preprocessor states: a number, or a dictionary of edges."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    return int(size) if isinstance(size, int) else None
