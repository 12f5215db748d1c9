"""Linear forms mean the same however their coefficients lie in memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verifiers.linear_forms.blocks import space_to_depth
from verifiers.linear_forms.forms import (
    BlockForms,
    DenseForms,
    LeadingBlockForms,
    LinearForms,
    PatchForms,
    Summand,
    add,
    consecutive_forms,
    dot,
    on_image,
)
from verifiers.linear_forms.patches import Patches

IMAGE = (3, 7, 6)  # no multiple of every block
FORMS, INPUTS = 4, 2
LAYOUTS = ("dense", "blocks", "leading blocks", "patches", "patches of another grid", "large patches")
MANY = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31 - 1)
layouts = st.sampled_from(LAYOUTS)
sizes = st.sampled_from([(2, 2), (1, 2), (3, 2)])


def make(layout: str, size: tuple[int, int], g: torch.Generator, owned: bool) -> tuple[Summand, Tensor]:
    """Random forms in a layout, and what they are, (R, *IMAGE): whatever lies outside the image must not count."""

    def random(*shape: int) -> Tensor:
        return torch.randn(FORMS, *shape, generator=g, dtype=torch.float64)

    if layout == "dense":
        coefficients = random(*IMAGE)
        return DenseForms(coefficients.clone(), owned=owned), coefficients
    if "blocks" in layout:
        coefficients = random(*IMAGE)
        if layout == "leading blocks":  # the last pixel of every block, in the last channels, is zero
            coefficients[:, :, size[0] - 1 :: size[0], size[1] - 1 :: size[1]] = 0.0
        blocks = space_to_depth(coefficients, size)
        outside = space_to_depth(torch.ones_like(coefficients), size) == 0
        blocks = blocks + torch.randn(blocks.shape, generator=g, dtype=torch.float64) * outside
        if layout == "leading blocks":
            return LeadingBlockForms(blocks[:, : -IMAGE[0]].clone(), size, IMAGE, owned=owned), coefficients
        return BlockForms(blocks, size, IMAGE, owned=owned), coefficients
    patch = (5, 5) if layout == "large patches" else (2, 3)
    step, offset = ((2, 1), (0, -1)) if layout == "patches of another grid" else ((1, 1), (-1, -2))
    patches = Patches(torch.arange(FORMS), (2, 3), step, offset)
    forms = PatchForms(random(IMAGE[0], *patch), patches, IMAGE, owned=owned)
    coefficients = torch.zeros(FORMS, *IMAGE, dtype=torch.float64)
    for r in range(FORMS):
        top, left = r // 3 * step[0] + offset[0], r % 3 * step[1] + offset[1]
        for y in range(max(0, top), min(IMAGE[1], top + patch[0])):
            for x in range(max(0, left), min(IMAGE[2], left + patch[1])):
                coefficients[r, :, y, x] = forms.coefficients[r, :, y - top, x - left]
    return forms, coefficients


@given(layouts, sizes, seeds)
@MANY
def test_forms_are_read_alike_in_every_layout(layout: str, size: tuple[int, int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    made, coefficients = make(layout, size, g, True)
    forms = made.complete()
    assert forms.shape == IMAGE
    assert torch.equal(forms.to_dense().coefficients, coefficients)
    assert torch.equal(forms.masked().coefficients.abs().flatten(1).sum(1) > 0, coefficients.flatten(1).any(1))
    value = torch.randn(INPUTS, *IMAGE, generator=g, dtype=torch.float64)
    form_to_input = consecutive_forms(INPUTS, FORMS // INPUTS, value.device)
    expected = (coefficients.view(INPUTS, -1, *IMAGE) * value[:, None]).flatten(2).sum(2).flatten()
    for mapped in (form_to_input, dataclasses.replace(form_to_input, forms_per_input=None)):
        gathered = forms.gather(value, mapped)
        assert torch.allclose(dot(forms.grouped(gathered), gathered), expected)
        assert torch.allclose(
            forms.with_grouped(forms.grouped(gathered) * 2.0).to_dense().coefficients, 2 * coefficients
        )


@given(layouts, sizes, seeds)
@MANY
def test_masked_forms_are_zero_outside_the_image(layout: str, size: tuple[int, int], seed: int) -> None:
    forms, coefficients = make(layout, size, torch.Generator().manual_seed(seed), False)
    masked = forms.complete().masked().coefficients
    assert torch.allclose(masked.abs().sum(), coefficients.abs().sum())


@given(layouts, layouts, sizes, sizes, seeds, st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_sum_is_the_sum_of_the_dense_forms_and_writes_over_owned_ones_only(
    first: str, second: str, size: tuple[int, int], other: tuple[int, int], seed: int, a_owned: bool, b_owned: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    (a, a_dense), (b, b_dense) = make(first, size, g, a_owned), make(second, other, g, b_owned)
    before = [forms.coefficients.clone() for forms in (a, b)]
    with torch.no_grad():
        total = add(a, b).complete().to_dense().coefficients
    assert torch.allclose(total, a_dense + b_dense)
    for forms, coefficients in zip((a, b), before, strict=True):
        assert forms.owned or torch.equal(forms.coefficients, coefficients)


def test_missing_channels_show_in_the_type() -> None:
    blocks = torch.zeros(FORMS, 9, 4, 3)
    assert isinstance(on_image(blocks, (2, 2), IMAGE), LeadingBlockForms)
    assert isinstance(on_image(torch.zeros(FORMS, 12, 4, 3), (2, 2), IMAGE), BlockForms)
    assert isinstance(on_image(torch.zeros(FORMS, *IMAGE), (1, 1), IMAGE), DenseForms)
    assert not issubclass(LeadingBlockForms, LinearForms)
    with pytest.raises(AttributeError):
        on_image(blocks, (2, 2), IMAGE).to_dense()  # type: ignore[union-attr]  # the point: it cannot be read


@given(seeds)
@MANY
def test_forms_held_by_several_are_not_written_over(seed: int) -> None:
    forms, dense = make("dense", (2, 2), torch.Generator().manual_seed(seed), True)
    shared = forms.complete().shared()
    with torch.no_grad():
        add(shared, shared)
    assert torch.equal(shared.coefficients, dense)
    assert forms.owned != shared.owned
