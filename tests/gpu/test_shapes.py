"""Networks on torch's meta device, which computes shapes and stores nothing: what a GPU has to hold in training."""

import pytest
import torch

from pathopatch.models.networks import build_network

PX = 224


def _kept_for_backward(architecture, patches):
    """Logits of a batch, and the GiB of float32 that the forward pass keeps for the backward pass, without weights."""
    with torch.device("meta"):
        network = build_network(architecture, 3, input_px=PX)
        x = torch.empty(patches, 3, PX, PX)
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # a view shares the storage of its base
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(x)
    return logits, sum(storage.nbytes() for storage in kept.values()) / 2**30


@pytest.mark.parametrize(
    ("architecture", "gib"),
    [("small-groupnorm", 0.5), ("resnet18", 1.3), ("resnet50", 5.1), ("vit_small_patch16_224", 4.2)],
)
def test_a_batch_of_64_is_kept_in_the_memory_that_the_documentation_states(architecture, gib):
    logits, kept = _kept_for_backward(architecture, 64)
    assert logits.shape == (64, 2)
    assert kept == pytest.approx(gib, rel=0.1)
    assert kept == pytest.approx(2 * _kept_for_backward(architecture, 32)[1], rel=0.01)
