"""Networks that see tissue alone: what lies outside the mask changes nothing, and tissue counts by its share."""

import numpy as np
import pytest
import torch
from made_model import made_spec
from torch.nn.functional import pad

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.bundle import save_bundle
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.loading import load_model
from pathopatch.models.networks import (
    MaskedGroupNorm,
    MaskNormalised,
    build_network,
    classifier_of,
    has_batchnorm,
    mean_over,
)

SIZES = {
    "small-groupnorm": 48,
    "resnet18": 64,
    "convnext_atto": 64,
    "swin_tiny_patch4_window7_224": 224,
    "vit_tiny_patch16_224": 224,
}


def _network(name, seed=0):
    torch.manual_seed(seed)
    return build_network(name, 3, input_px=SIZES[name], is_masked=True).eval()


def _patches(side, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2, 1, side, side)
    mask[0, :, side // 4 : side // 2, : side // 2] = 1
    mask[1, :, side // 3 :, side // 3 :] = 1
    return torch.randn(2, 3, side, side, generator=generator), mask


@pytest.mark.parametrize("name", SIZES)
def test_pixels_outside_the_tissue_change_nothing(name):
    network = _network(name)
    x, mask = _patches(SIZES[name])
    with torch.inference_mode():
        logits = network(torch.cat([x, mask], 1))
        other_glass = network(torch.cat([x + 5 * (1 - mask) * torch.randn_like(x), mask], 1))
        other_tissue = network(torch.cat([x + 5 * mask * torch.randn_like(x), mask], 1))
        blank = network(torch.cat([x, 0 * mask], 1))
    assert torch.equal(logits, other_glass)
    assert (logits - other_tissue).abs().max() > 1e-4 * logits.abs().max()
    assert blank.isfinite().all()


def test_the_small_network_gives_a_patch_with_more_glass_the_same_features():
    network = _network("small-groupnorm")
    x, mask = torch.randn(1, 3, 48, 48), torch.ones(1, 1, 48, 48)
    inner = torch.cat([x, mask], 1)
    # The same tissue on twice the glass; a multiple of the network's stride keeps the positions of its grid.
    outer = torch.cat([pad(x, (16, 32, 16, 32), value=3.0), pad(mask, (16, 32, 16, 32))], 1)
    with torch.inference_mode():
        a, b = network(inner), network(outer)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    plain = build_network("small-groupnorm", 3).eval()
    with torch.inference_mode():
        difference = (plain(x) - plain(pad(x, (16, 32, 16, 32), value=3.0))).abs().max()
    assert difference > 10 * (a - b).abs().max()


def test_group_norm_of_full_weight_is_torchs():
    own, theirs = MaskedGroupNorm(4, 32), torch.nn.GroupNorm(4, 32)
    x = torch.randn(3, 32, 5, 7)
    torch.testing.assert_close(own(x, torch.ones(3, 1, 5, 7)), theirs(x))


def test_group_norm_and_mean_weight_positions_by_their_share():
    x, weight = torch.randn(1, 8, 1, 3), torch.tensor([1.0, 1.0, 2.0]).view(1, 1, 1, 3)
    repeated = torch.cat([x, x[..., 2:]], 3)  # the last position twice
    torch.testing.assert_close(mean_over(x, weight), repeated.mean((2, 3), keepdim=True))
    norm, expected = MaskedGroupNorm(1, 8)(x, weight), torch.nn.GroupNorm(1, 8)(repeated)
    torch.testing.assert_close(norm, expected[..., :3])


def test_a_full_mask_gives_a_pretrained_network_its_own_logits():
    torch.manual_seed(0)
    plain = build_network("resnet18", 3).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(MaskNormalised(plain)(torch.cat([x, torch.ones(2, 1, 64, 64)], 1)), plain(x))


def test_a_transformer_takes_the_mean_of_its_tissue_tokens():
    network = _network("vit_tiny_patch16_224")
    x, mask = torch.randn(1, 3, 224, 224), torch.zeros(1, 1, 224, 224)
    mask[..., 32:48, 64:96] = 1  # the tokens of row 2, columns 4 and 5
    inner = network.network
    with torch.inference_mode():
        tokens = inner.forward_features(x * mask)[:, inner.num_prefix_tokens :]
        mean = tokens[:, [2 * 14 + 4, 2 * 14 + 5]].mean(1)
        expected = classifier_of(network)(mean)
        torch.testing.assert_close(network(torch.cat([x, mask], 1)), expected)


def test_an_mlp_has_no_positions_to_mask_and_batch_norms_are_found():
    with pytest.raises(InputUnsupportedError, match="no features by position"):
        build_network("mlp-100", 3, input_px=16, is_masked=True)
    assert [has_batchnorm(_network(name)) for name in ("resnet18", "small-groupnorm")] == [True, False]


def _bundle(folder, name="small-groupnorm"):
    side = SIZES[name]
    spec = made_spec(2 * side, architecture=name, input_px=side, method="auto", mask="normalise")
    save_bundle(folder, _network(name), spec)
    return load_model(folder, device="cpu")


def test_a_bundle_says_that_its_model_needs_the_mask_and_predicts_by_it(tmp_path):
    model = _bundle(tmp_path / "model")
    assert isinstance(model, PatchClassifier)
    assert model.spec.input_channels == 4
    rng = np.random.default_rng(0)
    x, tissue = rng.random((3, 3, 96, 96), dtype=np.float32), rng.random((3, 96, 96)) < 0.5
    tissue[:, :40] = False
    with pytest.raises(InputUnsupportedError, match="needs the tissue mask"):
        model.predict_logits(x)
    logits = model.predict_logits(x, tissue)
    other = x.copy()
    other[:, :, :32] = 0.9
    np.testing.assert_array_equal(model.predict_logits(other, tissue), logits)
    other[:, :, 60:] = 0.9
    assert (model.predict_logits(other, tissue) != logits).any()
    assert "needs the tissue mask of each patch" in (tmp_path / "model" / "README.md").read_text()
