"""The adjoint map of every affine node on linear forms, and the forms that pick single neurons.

Part of the native CROWN engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.network import CrownNetwork
from verifiers.linear_forms.convolution import Adjoint, adjoint_of
from verifiers.linear_forms.forms import (
    DenseForms,
    FormToInput,
    LinearForms,
    PatchForms,
    Summand,
    add,
    channels_last,
    dot,
)
from verifiers.linear_forms.patches import Patches

MAX_MATRIX_ENTRIES = 2**20  # of a map between patches that is kept as one matrix
MAX_PRODUCT_OVERHEAD = 16  # times as many products as needed that are as fast in one matrix product


class Frontier:
    """Forms on several nodes, whose sum a backward pass bounds: at most one summand per node."""

    def __init__(self, forms: Mapping[int, Summand]) -> None:
        self._forms = dict(forms)

    def __len__(self) -> int:
        return len(self._forms)

    @property
    def nodes(self) -> set[int]:
        return set(self._forms)

    @property
    def last(self) -> int:
        """The last node with forms: nothing above it is to come."""
        return max(self._forms)

    def add(self, nodes: tuple[int, ...], forms: tuple[Summand, ...]) -> None:
        """Add forms on each of `nodes`, which may repeat."""
        for k, summand in zip(nodes, forms, strict=True):
            self._forms[k] = add(self._forms[k], summand) if k in self._forms else summand

    def pop(self, k: int) -> LinearForms:
        """The forms on node k, which leave the frontier."""
        return self._forms.pop(k).complete()

    def items(self) -> Iterator[tuple[int, LinearForms]]:
        """(node, forms), which stay."""
        for k, summand in self._forms.items():
            forms = self._forms[k] = summand.complete()
            yield k, forms


# ---------------------------------------------------------------- adjoint maps


def adjoint(net: CrownNetwork, k: int, forms: LinearForms) -> tuple[Summand, ...]:
    """Forms on an affine node k as forms on its inputs, one entry per input; without the `offset`."""
    node = net.nodes[k]
    shapes = [net.network.shapes[i] for i in net.parents(k)]
    match node:
        case c.Linear():
            return (DenseForms(forms.coefficients @ net.weight(k, "weight")),)
        case c.Conv2d():
            return (_conv_adjoint(net, k, node, forms.masked(), shapes[0]),)
        case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
            factor = _gathered(forms, net.element_scale(k)[0])
            return (forms.with_grouped(forms.grouped(factor) * factor),)
        case c.Add():
            return forms.shared(), forms.shared()
        case c.Flatten():
            image = forms.coefficients.reshape(-1, *shapes[0])
            return (DenseForms(image.contiguous(memory_format=torch.channels_last) if image.dim() == 4 else image),)
        case c.Concat():
            return _concat_adjoint(forms, shapes)
        case c.AveragePool2d():
            return (_average_adjoint(node, forms.to_dense(), shapes[0]),)
        case c.Pad():
            return (DenseForms(forms.to_dense().coefficients[(slice(None), *_inner(node, shapes[0]))]),)
        case c.Slice():
            return (_slice_adjoint(node, forms.to_dense(), shapes[0]),)
        case _:
            raise TypeError(f"{type(node).__name__} is not affine")


def offset(net: CrownNetwork, k: int, forms: LinearForms) -> Tensor | None:
    """Values (R,) of forms on an affine node k where its inputs are zero; None: zero."""
    node = net.nodes[k]
    match node:
        case c.Linear():
            return forms.coefficients @ net.weight(k, "bias")
        case c.Conv2d():
            flat = channels_last(forms.masked().coefficients).flatten(1)
            return flat @ net.biases(k, flat.shape[1] // net.network.shapes[k][0])
        case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
            shift = _gathered(forms, net.element_scale(k)[1])
            return dot(forms.grouped(shift), shift)
        case c.Pad():
            coefficients = forms.to_dense().coefficients
            inside = coefficients[(slice(None), *_inner(node, net.network.shapes[node.inputs[0]]))]
            return node.value * (coefficients.flatten(1).sum(1) - inside.flatten(1).sum(1))
        case _:
            return None


def _gathered(forms: LinearForms, parameter: Tensor) -> Tensor:
    """A parameter of every element, broadcastable against the value, laid out as the forms are."""
    everyone = FormToInput(torch.zeros(len(forms.coefficients), dtype=torch.long, device=parameter.device), None)
    return forms.gather(parameter.expand(forms.shape)[None], everyone)


def _inner(node: c.Pad, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the input of this shape lies in the padded value."""
    return tuple(slice(b, b + n) for b, n in zip(node.before, shape, strict=True))


def _concat_adjoint(forms: LinearForms, shapes: list[tuple[int, ...]]) -> tuple[Summand, ...]:
    channels = [s[0] for s in shapes]
    if isinstance(forms, PatchForms):
        parts = torch.split(forms.coefficients, channels, dim=1)
        return tuple(PatchForms(p, forms.patches, s) for p, s in zip(parts, shapes, strict=True))
    return tuple(map(DenseForms, torch.split(forms.to_dense().coefficients, channels, dim=1)))


def conv_adjoint(net: CrownNetwork, k: int) -> Adjoint:
    """The adjoint of the convolution k; computed once."""
    node = net.nodes[k]
    if not isinstance(node, c.Conv2d):
        raise TypeError(f"{type(node).__name__} is not a convolution")
    if k not in net.adjoints:
        weight = net.weight(k, "weight")
        net.adjoints[k] = adjoint_of(weight, node.stride, node.padding[:2], node.dilation, node.groups)
    return net.adjoints[k]


def _conv_adjoint(net: CrownNetwork, k: int, node: c.Conv2d, forms: LinearForms, shape: tuple[int, ...]) -> Summand:
    if isinstance(forms, PatchForms):
        patches = forms.patches.below_convolution(node.stride, node.padding[:2])
        return PatchForms(_patch_adjoint(net, k, node, forms.coefficients), patches, shape).dense_if_large()
    return conv_adjoint(net, k).on_input(forms, shape)


def _patch_adjoint(net: CrownNetwork, k: int, node: c.Conv2d, forms: Tensor) -> Tensor:
    """Forms (R, C, h, w) on patches of the output as forms on the patches of the input below: one matrix product, where
    small."""
    size, weight = forms.shape[2:], net.weight(k, "weight")
    taps = [node.dilation[a] * (weight.shape[2 + a] - 1) + 1 for a in (0, 1)]
    full = [(size[a] - 1) * node.stride[a] + taps[a] for a in (0, 1)]
    entries = forms.shape[1:].numel() * weight.shape[1] * node.groups * full[0] * full[1]
    if (
        entries > MAX_MATRIX_ENTRIES
        or full[0] * full[1] * node.groups > MAX_PRODUCT_OVERHEAD * weight.shape[2] * weight.shape[3]
    ):
        return F.conv_transpose2d(forms, weight, None, node.stride, 0, 0, node.groups, node.dilation)
    if (k, *size) not in net.patch_matrices:
        units = torch.eye(forms.shape[1:].numel(), dtype=net.dtype, device=net.device).view(-1, *forms.shape[1:])
        units = (
            units.unflatten(0, forms.shape[1:]).permute(1, 2, 0, 3, 4, 5).flatten(0, 2)
        )  # one per pixel, channels last
        pulled = F.conv_transpose2d(units, weight, None, node.stride, 0, 0, node.groups, node.dilation)
        net.patch_matrices[k, size[0], size[1]] = channels_last(pulled).flatten(1)
    images = channels_last(forms).flatten(1) @ net.patch_matrices[k, size[0], size[1]]
    return images.view(len(forms), *full, -1).permute(0, 3, 1, 2)


def _average_adjoint(node: c.AveragePool2d, forms: DenseForms, shape: tuple[int, ...]) -> DenseForms:
    share = 1.0 / (node.kernel[0] * node.kernel[1])
    coefficients = forms.coefficients
    ones = coefficients.new_ones(1, 1, *node.kernel)
    if not node.count_padding and any(node.padding):
        top, left, bottom, right = node.padding
        counted = F.pad(coefficients.new_ones(1, 1, *shape[1:]), (left, right, top, bottom))
        coefficients, share = coefficients / F.conv2d(counted, ones, None, node.stride), 1.0
    kernel = (ones * share).expand(shape[0], 1, *node.kernel)
    spread = adjoint_of(kernel, node.stride, node.padding[:2], (1, 1), shape[0])
    return DenseForms(spread.to_image(coefficients, (shape[1], shape[2])))


def _slice_adjoint(node: c.Slice, forms: DenseForms, shape: tuple[int, ...]) -> DenseForms:
    spread = forms.coefficients.new_zeros(len(forms.coefficients), *shape)
    ranges = zip(node.start, node.stop, node.step, strict=True)
    spread[(slice(None), *(slice(a, b, s) for a, b, s in ranges))] = forms.coefficients
    return DenseForms(spread)


# ---------------------------------------------------------------- unit forms


def unit_forms(net: CrownNetwork, k: int, index: Tensor) -> dict[int, tuple[LinearForms, Tensor]]:
    """The neurons `index` (R,) of node k as forms (and constants) on earlier nodes: {node: (forms, constant)}.

    Each entry is one summand. Convolutions and linear maps hand out their own weights, with no multiplication.
    """
    node, shape = net.nodes[k], net.network.shapes[k]
    match node:
        case c.Add():
            total, second = (unit_forms(net, i, index) for i in node.inputs)
            for i, (forms, constant) in second.items():
                merged = (
                    (add(total[i][0], forms).complete(), total[i][1] + constant) if i in total else (forms, constant)
                )
                total[i] = merged
            return total
        case c.Linear():
            return {node.inputs[0]: (DenseForms(net.weight(k, "weight")[index]), net.weight(k, "bias")[index])}
        case c.Conv2d() if node.groups == 1 and node.dilation == (1, 1):
            channel = index // (shape[1] * shape[2])
            pixel = index % (shape[1] * shape[2])
            offset = (-node.padding[0], -node.padding[1])
            patches = Patches(pixel, (shape[1], shape[2]), node.stride, offset)
            taps = net.weight(k, "weight")[channel].contiguous(memory_format=torch.channels_last)
            forms = PatchForms(taps, patches, net.network.shapes[node.inputs[0]]).dense_if_large()
            return {node.inputs[0]: (forms, net.weight(k, "bias")[channel])}
        case _:
            return {k: (_one_hot(shape, index, net), torch.zeros(len(index), dtype=net.dtype, device=net.device))}


def _one_hot(shape: tuple[int, ...], index: Tensor, net: CrownNetwork) -> LinearForms:
    """Form r picks neuron index[r] of a value of this shape."""
    if len(shape) != 3:
        return DenseForms(F.one_hot(index, shape[0]).to(net.dtype))
    area = shape[1] * shape[2]
    channels = F.one_hot(index // area, shape[0]).to(net.dtype)[:, :, None, None]
    return PatchForms(channels, Patches(index % area, (shape[1], shape[2]), (1, 1), (0, 0)), shape)
