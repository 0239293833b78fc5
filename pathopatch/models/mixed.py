"""Which layers does a network in bfloat16 keep in float32? Its first ones, at high resolution, and its last.

The first layers see few channels at many places: bfloat16 gains little there, and what it rounds off is carried through
all that follow. The last one costs nothing, and its logits would otherwise be rounded to 8 bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def in_bfloat16(network: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy in bfloat16 but for its first layers and its last, which takes float32 input and gives such logits.

    The network's parts are its children, those of an ``nn.Sequential`` in its place. In the order in which they run,
    those at the beginning that give at least half the input's side stay as they are.

    Parameters
    ----------
    network : nn.Module
        In float32, in evaluation mode, on the processor.
    x : Tensor of float32, shape (N, C, input_px, input_px)
        Patches to run it on.
    """
    parts = dict(_parts(network))
    order, last = _order(network, list(parts.values()), x)
    names = {module: name for name, module in network.named_modules()}
    kept: list[str] = []
    for module, side_px in order:
        is_again = sum(module is other for other, _ in order) > 1
        if is_again or 2 * side_px < x.shape[-1]:
            break
        kept.append(names[module])
    short = copy.deepcopy(network).to(torch.bfloat16)
    exact = [*kept, *([names[last]] if last is not None else [])]
    for name in exact:
        if name:  # the network itself may be its only layer
            short.set_submodule(name, copy.deepcopy(network.get_submodule(name)))
    for name in parts:
        _takes(short.get_submodule(name), torch.float32 if name in kept else torch.bfloat16)
    if last is not None and names[last]:
        _takes(short.get_submodule(names[last]), torch.float32)
    return short


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a network with their names."""
    for name, child in module.named_children():
        if type(child).forward is nn.Sequential.forward:
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _order(
    network: nn.Module, parts: list[nn.Module], x: Tensor
) -> tuple[list[tuple[nn.Module, int]], nn.Module | None]:
    """Return the parts as they run, each with the side of its output, 0 if that is no image; and the last layer."""
    order: list[tuple[nn.Module, int]] = []
    layers: list[nn.Module] = []

    def ran(module: nn.Module, _: Any, output: Any) -> None:
        if any(module is part for part in parts):
            is_image = isinstance(output, Tensor) and output.ndim == 4
            order.append((module, min(output.shape[-2:]) if is_image else 0))
        is_layer = next(module.children(), None) is None and next(module.parameters(), None) is not None
        if is_layer:
            layers.append(module)

    hooks = [module.register_forward_hook(ran) for module in network.modules()]
    try:
        with torch.inference_mode():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    last = layers[-1] if layers and isinstance(layers[-1], nn.Linear) else None
    return order, last


def _takes(module: nn.Module, dtype: torch.dtype) -> None:
    """Let a module bring the floating tensors that it is called with to a type."""

    def bring(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        return tree_map(bring, args), tree_map(bring, kwargs)

    hook: Callable[..., Any] = before
    module.register_forward_pre_hook(hook, with_kwargs=True)
