"""Which batch norms can be folded into the convolution before them? Those that alone read what it gives.

A trained batch norm is a scale and a shift of each channel, and so is part of a convolution that nobody else listens
to. What feeds what is seen by running the network once, not by the names of its layers, so that this holds for any.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FOLD_TOLERANCE = 1e-4
"""Largest difference of a folded network's logits, by the largest logit, at which folding is taken: it only rounds."""


def folded(network: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy in evaluation mode, with every batch norm folded that can be.

    A convolution whose weights are made anew in each pass (standardised, parametrised) is left as it is, and so is one
    that something else reads or that is called twice. Should the logits of `x` differ from the network's own by more
    than `FOLD_TOLERANCE`, nothing is folded.

    Parameters
    ----------
    network : nn.Module
        In float32, on the processor.
    x : Tensor of float32, shape (N, C, input_px, input_px)
        Patches to run it on.

    Returns
    -------
    nn.Module
        Names of modules are the network's; a folded batch norm is its activation, or an identity.
    """
    ready = copy.deepcopy(network).eval()
    if not any(type(module) in _norms() for module in ready.modules()):
        return ready
    flow = _Flow()
    with torch.inference_mode():
        due = flow.of(ready, x)
    pairs = _pairs(ready, flow)
    if not pairs:
        return ready
    changed = copy.deepcopy(ready)
    with torch.no_grad():
        for convolution, norm in pairs.items():
            fused = fuse_conv_bn_eval(ready.get_submodule(convolution), ready.get_submodule(norm))  # type: ignore[arg-type, type-var]
            changed.set_submodule(convolution, fused)
            changed.set_submodule(norm, _rest(changed.get_submodule(norm)))
    with torch.inference_mode():
        found = changed(x)
    is_same = bool((found - due).abs().max() <= FOLD_TOLERANCE * due.abs().max())  # NaN is not <=
    return changed if is_same else ready


def _rest(norm: nn.Module) -> nn.Module:
    """Return what a batch norm does after scale and shift."""
    rest: nn.Module = getattr(norm, "act", nn.Identity())  # timm's has one
    return rest


def _convolutions() -> tuple[type[nn.Module], ...]:
    """Return the kinds of convolutions whose output is linear in the weights that they store."""
    if "timm" not in sys.modules:  # then no layer is of timm, whose import takes longer than anything else here
        return nn.Conv1d, nn.Conv2d, nn.Conv3d
    from timm.layers import Conv2dSame

    return nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame


def _norms() -> tuple[type[nn.Module], ...]:
    """Return the kinds of batch norms."""
    if "timm" not in sys.modules:
        return nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
    from timm.layers import BatchNormAct2d

    return nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d


def _pairs(network: nn.Module, flow: _Flow) -> dict[str, str]:
    """Return the names of the convolutions to fold, each with that of its batch norm."""
    names = {module: name for name, module in network.named_modules()}
    many = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    found: dict[str, str] = {}
    for norm, given in flow.given.items():
        convolution = flow.made_by(given)
        if convolution is None or flow.calls[convolution] != 1 or flow.calls[norm] != 1:
            continue
        is_alone = flow.readers_of(given) == 1 and many[convolution] == 1 and many[norm] == 1
        if is_alone and norm.running_mean is not None and norm.running_var is not None:
            found[names[convolution]] = names[norm]
    return found


@dataclass(eq=False)
class _Flow:
    """What goes from convolutions to batch norms in one pass, and how many operations read it."""

    made: dict[nn.Module, Tensor] = field(default_factory=dict)
    given: dict[nn.Module, Tensor] = field(default_factory=dict)
    calls: Counter[nn.Module] = field(default_factory=Counter)
    readers: Counter[int] = field(default_factory=Counter)

    def of(self, network: nn.Module, x: Tensor) -> Tensor:
        """Run the network on x, record, and return its logits."""
        hooks = []
        for module in network.modules():
            is_plain = not (module._forward_hooks or module._forward_pre_hooks)
            hooks.append(module.register_forward_hook(self._count))
            if is_plain and type(module) in _convolutions():
                hooks.append(module.register_forward_hook(self._made))
            elif is_plain and type(module) in _norms():
                hooks.append(module.register_forward_pre_hook(self._given))
        try:
            with _Readers(self):
                logits: Tensor = network(x)
        finally:
            for hook in hooks:
                hook.remove()
        self.read(logits)
        return logits

    def read(self, *values: Any) -> None:
        """Count an operation on these tensors. Those that convolutions made are kept: no address comes twice."""
        for place in {_place(value) for value in values if isinstance(value, Tensor)}:
            self.readers[place] += 1

    def made_by(self, given: Tensor) -> nn.Module | None:
        """Return the convolution that made this very tensor, if one did."""
        return next((module for module, value in self.made.items() if value is given), None)

    def readers_of(self, value: Tensor) -> int:
        """Return how many operations read the memory of a convolution's output, or a view of it."""
        return self.readers[_place(value)]

    def _count(self, module: nn.Module, _: Any, __: Any) -> None:
        self.calls[module] += 1

    def _made(self, module: nn.Module, _: Any, output: Tensor) -> None:
        self.made[module] = output
        self.readers[_place(output)] = 0  # what had this address before is gone

    def _given(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self.given[module] = args[0]


class _Readers(TorchDispatchMode):
    """Tells a flow of every operation's tensors."""

    def __init__(self, flow: _Flow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation after its tensors are noted."""
        self._flow.read(*tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))


def _place(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
