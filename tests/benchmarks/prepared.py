"""A network prepared for torch on a processor by hand, as pathopatch once predicted: what its runtime is compared with.

Batch norms are folded into the convolutions before them, and in bfloat16 the early and last layers stay float32.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pathopatch.models.runtime import Precision, probe_patches

# Largest difference of a folded network's logits, relative to the largest logit. Rounding stays below it.
_FOLD_TOLERANCE = 1e-4


def prepare_network(
    network: nn.Module,
    precision: Precision,
    channels: int,
    input_px: int,
    *,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
) -> nn.Module:
    """Return a copy of a network for prediction, with the same logits but for rounding.

    It is channels last, without dropout or gradients, and with folded batch norms. It takes standardised float32 of
    shape (N, channels, input_px, input_px); in bfloat16 a processor keeps some layers in float32, see
    `cast_to_bfloat16`.
    """
    x = torch.from_numpy(probe_patches(channels, input_px)[:1])
    ready = fold_batch_norms(copy.deepcopy(network).to("cpu", torch.float32), x)
    if precision == "bfloat16" and device.type == "cpu":
        ready = cast_to_bfloat16(ready, x)
    elif precision == "bfloat16":
        ready = ready.to(torch.bfloat16)
    ready = ready.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready.requires_grad_(False)
    return ready  # type: ignore[no-any-return]


def fold_batch_norms(network: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy in evaluation mode with every foldable batch norm folded into the convolution before it.

    `network` is in float32 on the processor, `x` (N, C, input_px, input_px) are patches to run it on. Modules keep
    their names; a folded batch norm becomes its activation, or an identity.
    """
    ready = copy.deepcopy(network).eval()
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in ready.modules()):
        return ready
    flow = _DataFlow()
    with torch.inference_mode():
        logits = flow.record(ready, x)
    pairs = _foldable_pairs(ready, flow)
    if not pairs:
        return ready
    folded = copy.deepcopy(ready)
    with torch.no_grad():
        for convolution, norm in pairs.items():
            fused = fuse_conv_bn_eval(ready.get_submodule(convolution), ready.get_submodule(norm))  # type: ignore[arg-type, type-var]
            folded.set_submodule(convolution, fused)
            # timm's batch norms contain their activation, which must stay.
            folded.set_submodule(norm, getattr(folded.get_submodule(norm), "act", nn.Identity()))
    with torch.inference_mode():
        difference = (folded(x) - logits).abs().max()
    # The safety net for networks that the trace misjudges. NaN is not <=, so such a network stays unfolded too.
    return folded if bool(difference <= _FOLD_TOLERANCE * logits.abs().max()) else ready


def cast_to_bfloat16(network: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy in bfloat16 except its first layers and its last; it takes and returns float32.

    The parts of a network are its children, those of an ``nn.Sequential`` in its place. Parts at the beginning stay in
    float32, in the order in which they run, as long as their output has at least half the input's side. Arguments as
    for `fold_batch_norms`.
    """
    # The first layers see few channels at many positions: bfloat16 gains little there, and all later layers carry its
    # rounding errors on. The last layer costs nothing, and would round the logits to 8 bits.
    names = {module: name for name, module in network.named_modules()}
    parts: list[str] = []
    sequences = {""}
    for name, module in network.named_modules():
        if name and name.rpartition(".")[0] in sequences:
            if type(module).forward is nn.Sequential.forward:
                sequences.add(name)
            else:
                parts.append(name)
    calls: list[tuple[nn.Module, tuple[int, ...]]] = []  # modules as they run, each with the shape of its output
    hooks = [
        module.register_forward_hook(lambda module, _, output: calls.append((module, getattr(output, "shape", ()))))
        for module in network.modules()
    ]
    try:
        with torch.inference_mode():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    n_calls = Counter(module for module, _ in calls)
    early: list[str] = []
    for module, shape in calls:
        if names[module] in parts:
            if n_calls[module] > 1 or len(shape) != 4 or 2 * min(shape[-2:]) < x.shape[-1]:
                break
            early.append(names[module])
    is_layer = {module: not [*module.children()] and bool([*module.parameters()]) for module in n_calls}
    *_, last_layer = (None, *(module for module, _ in calls if is_layer[module]))
    last = names[last_layer] if isinstance(last_layer, nn.Linear) else ""
    short = copy.deepcopy(network).to(torch.bfloat16)
    for name in (*early, last):
        if name:  # there may be no last layer, or the network itself is its only layer
            short.set_submodule(name, copy.deepcopy(network.get_submodule(name)))
    inputs = [(name, torch.float32 if name in early else torch.bfloat16) for name in parts]
    if last:
        inputs.append((last, torch.float32))
    for name, dtype in inputs:
        short.get_submodule(name).register_forward_pre_hook(partial(_cast_arguments, dtype), with_kwargs=True)
    return short


def _foldable_types() -> tuple[tuple[type[nn.Module], ...], tuple[type[nn.Module], ...]]:
    """Return the convolutions whose output is linear in the weights that they store, and the batch norms."""
    # Exact types only: a subclass may standardise its weights in each pass, which would undo the folded scale.
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if "timm" not in sys.modules:  # then no layer is timm's, and its import would take longer than anything else here
        return convolutions, norms
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.norm_act import BatchNormAct2d

    return (*convolutions, Conv2dSame), (*norms, BatchNormAct2d)


def _foldable_pairs(network: nn.Module, flow: _DataFlow) -> dict[str, str]:
    """Return the names of the convolutions to fold, each with that of its batch norm."""
    names = {module: name for name, module in network.named_modules()}
    # A module under two names is shared: its other use would see the folded weights.
    n_names = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    pairs: dict[str, str] = {}
    for norm, norm_input in flow.norm_input.items():
        # The convolution whose output is this very tensor.
        convolution = next((module for module, output in flow.conv_output.items() if output is norm_input), None)
        if convolution is None or flow.calls[convolution] != 1 or flow.calls[norm] != 1:
            continue
        is_only_reader = flow.reads[_address(norm_input)] == 1 and n_names[convolution] == 1 and n_names[norm] == 1
        if is_only_reader and norm.running_mean is not None and norm.running_var is not None:
            pairs[names[convolution]] = names[norm]
    return pairs


@dataclass(eq=False)
class _DataFlow:
    """The tensors that pass from convolutions to batch norms in one run, and how many operations read them."""

    # Outputs are kept, so that no address is used twice while the network runs.
    conv_output: dict[nn.Module, Tensor] = field(default_factory=dict)
    norm_input: dict[nn.Module, Tensor] = field(default_factory=dict)
    calls: Counter[nn.Module] = field(default_factory=Counter)
    reads: Counter[int] = field(default_factory=Counter)  # by memory address, which a tensor shares with its views

    def record(self, network: nn.Module, x: Tensor) -> Tensor:
        """Run the network on x, record, and return its logits."""
        hooks = []
        convolutions, norms = _foldable_types()
        for module in network.modules():
            # Hooks of others, such as those of a parametrisation, could change what the module does.
            is_plain = not (module._forward_hooks or module._forward_pre_hooks)
            hooks.append(module.register_forward_hook(self._count_call))
            if is_plain and type(module) in convolutions:
                hooks.append(module.register_forward_hook(self._record_output))
            elif is_plain and type(module) in norms:
                hooks.append(module.register_forward_pre_hook(self._record_input))
        try:
            with _ReadCounter(self):
                logits: Tensor = network(x)
        finally:
            for hook in hooks:
                hook.remove()
        self.count_reads(logits)
        return logits

    def count_reads(self, *values: Any) -> None:
        """Count one operation as a reader of each of these tensors' memory."""
        self.reads.update({_address(value) for value in values if isinstance(value, Tensor)})

    def _count_call(self, module: nn.Module, _: Any, __: Any) -> None:
        self.calls[module] += 1

    def _record_output(self, module: nn.Module, _: Any, output: Tensor) -> None:
        self.conv_output[module] = output
        self.reads[_address(output)] = 0  # an earlier tensor at this address is gone

    def _record_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self.norm_input[module] = args[0]


class _ReadCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Reports the tensors of every operation to a data flow."""

    def __init__(self, flow: _DataFlow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flow = flow

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count the reads of an operation, then run it."""
        self._flow.count_reads(*tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _cast_arguments(dtype: torch.dtype, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Cast the floating-point tensors that a module is called with: a hook, once its type is given."""
    return tree_map(
        lambda value: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value,
        (args, kwargs),
    )
