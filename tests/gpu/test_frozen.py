"""A frozen network on a device gives what one processor thread gives; fine-tuning it there moves it as little."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_patches import toy

from pathopatch.core.config import TrainConfig
from pathopatch.core.mask_bits import pack_masks
from pathopatch.models.frozen import torch_features
from pathopatch.models.networks import build_network
from pathopatch.training.dataset import PatchMasks, PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.frozen import _Features, fit_frozen, open_backbone

LITE0 = {"architecture": "tf_efficientnet_lite0", "pretrained": "efficientnet-lite0"}
PX = 128
_IMAGES = {"cpu": 2, "cuda": 24}  # of a class
_PATCHES = 8  # of an image


def real_patches(device):
    """Patches of breast, of lung where that is absent, else of noise of two scales; pixels below .85 are tissue."""
    folder = Path(os.environ.get("PATHOPATCH_REAL_DATA", "nowhere"))
    breast = [sorted((folder / "ucsb_breast").glob(f"*{kind}*.png")) for kind in ("benign", "malignant")]
    lung = [sorted((folder / "lung" / kind).glob("*.jpeg")) for kind in ("lung_n", "lung_aca")]
    rng, x, label = np.random.default_rng(0), [], []
    for y, paths in enumerate(breast if all(breast) else lung):
        for number in range(_IMAGES[device]):
            if paths:
                image = cv2.imread(str(paths[number]), cv2.IMREAD_COLOR_RGB)
            else:
                image = cv2.resize(rng.integers(90, 255, (64 + 64 * y, 64, 3), np.uint8), (768, 512))
            for _ in range(_PATCHES):
                top, left = rng.integers(image.shape[0] - PX), rng.integers(image.shape[1] - PX)
                x.append(image[top : top + PX, left : left + PX].transpose(2, 0, 1))
                label.append(y)
    pixels, n = np.array(x, np.float32) / 255, len(x)
    tissue, names = pixels.mean(axis=1) < 0.85, np.arange(n).astype(str)
    fraction = tissue.mean(axis=(1, 2))
    much = (fraction > np.median(fraction)).astype(np.int64)
    masks = PatchMasks(pack_masks(tissue), PX)
    return PatchSet(pixels, np.array(label), much, fraction, names, names, tissue=masks)


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "method"), [("none", "erm"), ("normalise", "resample")])
def test_features_and_head_of_a_frozen_network_are_those_of_one_thread(device, mask, method):
    if device == "cpu":
        pytest.importorskip("openvino")  # `make gpu` does without
    patches = real_patches(device)
    config = TrainConfig(**LITE0, frozen=True, mask=mask, method=method, weight_decay=0.1, select="last", threads=1)
    features = {}

    def there(part, backbone):
        features["there"] = backbone.features(part, device=device)
        return features["there"]

    def one_thread(part, backbone):
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (backbone.mean, backbone.std))
        x = (part.x - mean) / std
        if mask == "normalise":
            x = np.concatenate([x, part.tissue.read(slice(None))[:, None]], axis=1, dtype=np.float32)
        features["here"] = torch_features(_Features(backbone.network), torch.device("cpu"), 1)(x)
        return features["here"]

    fitted = [fit_frozen(patches, None, config, read_features=read) for read in (there, one_thread)]
    np.testing.assert_allclose(features["there"], features["here"], rtol=0, atol=1e-3)
    heads = [result.network.classifier.weight.diff(dim=0)[0].numpy() for result in fitted]
    margins = [features["here"] @ head for head in heads]
    assert np.ptp(margins[0]) > 1
    np.testing.assert_allclose(margins[0], margins[1], rtol=0, atol=0.02)
    assert {weight.device.type for weight in fitted[0].network.parameters()} == {"cpu"}


@pytest.mark.slow
def test_fine_tuning_at_a_low_rate_moves_no_weight_further_than_the_rate(device):
    patches = toy([[12, 12], [12, 12]], seed=0, side=32)
    steps, rate = 3, 1e-4
    settings = {"method": "gerne", "steps": steps, "learning_rate": rate, "batch_per_class": 8, "input_px": 32}
    own = {"evaluations": 1, "precision": "float32", "average_weights": False, "weight_decay": 0.0, "threads": 1}
    tuned = fit_arrays(patches, patches, TrainConfig(**LITE0, **settings, **own, device=device))
    torch.manual_seed(0)
    before = build_network(LITE0["architecture"], 2, pretrained=LITE0["pretrained"])
    moved = [
        (after - weight).abs().max().item()
        for after, weight in zip(tuned.network.parameters(), before.parameters(), strict=True)
    ]
    assert max(moved) <= 1.01 * steps * rate  # a step of AdamW without decay is at most its rate
    assert min(moved) > 0


def test_a_backbone_stays_on_the_processor_when_a_device_runs_it(device):
    backbone = open_backbone(TrainConfig(**LITE0, frozen=True), 3)
    torch_features(_Features(backbone.network), torch.device(device), 1)
    assert {weight.device.type for weight in backbone.network.parameters()} == {"cpu"}
