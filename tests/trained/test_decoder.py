"""The stack's logits against segment-anything's MaskDecoder, and its state dicts."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from lungfast.errors import CheckpointError
from lungfast.trained.decoder import decode
from lungfast.trained.inputs import Inputs
from lungfast.trained.parameters import (
    Layout,
    from_token_major,
    is_trained,
    to_token_major,
    with_high_res,
)
from tests.naive.trained import NaiveStack, sam_decoder
from tests.trained.problems import GRID, make_batch, make_constants, make_pair, make_stack, trained_state


def logits(stack, batch, **options):
    return stack.logits(batch.features_GBNC, batch.tokens_KBIPC, batch.token_mask_KBIP, **options)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("instances", "prompts", "fine"), [(1, 3, 0), (2, 4, 0), (1, 14, 0), (1, 20, 0), (2, 3, 6)]
)
def test_logits_equal_segment_anything_in_float64(groups, instances, prompts, fine):
    """20 prompt tokens make 25 in all: the stock order of the attention."""
    stack, naive = make_pair(torch.float64, fine=fine)
    batch = make_batch(groups=groups, instances=instances, prompts=prompts, fine=fine)
    ours = logits(stack, batch)
    for k in range(3):
        with torch.no_grad():
            expected = naive.logits(k, batch)
        assert float((ours[k] - expected).abs().max()) < 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_logits_are_to_be_had_in_every_mode(mode):
    stack, _ = make_pair(torch.float32)
    batch = make_batch(groups=3)
    with mode():
        found = logits(stack, batch)
    torch.testing.assert_close(found, logits(stack, batch), rtol=0, atol=0)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("fine", [0, 6])
def test_decoders_computed_together_equal_decoders_computed_alone(groups, fine):
    """The plain path of GPUs and compilers: K decoders in one pass, block 0 as one product."""
    stack, _ = make_pair(torch.float64, fine=fine)
    batch = make_batch(groups=groups, instances=2, fine=fine)
    inputs = Inputs(
        image_GBNC=stack.constants.image(batch.features_GBNC, torch.float64),
        encoding_NC=stack.constants.encoding_NC,
        tokens_KBIPC=batch.tokens_KBIPC.double(),
        mask_KBIP=batch.token_mask_KBIP,
        fused=False,
        fine_GBNF=stack.fine(batch.features_GBNC, torch.float64),
    )
    together = from_token_major(decode(stack.parameters, inputs), GRID)
    torch.testing.assert_close(together, logits(stack, batch), rtol=1e-9, atol=1e-11)


def test_high_resolution_features_change_nothing_until_their_weights_are_trained():
    state = sam_decoder(seed=1).state_dict()
    batch = make_batch(decoders=1, fine=6)
    plain = logits(make_stack([state]), batch)
    assert torch.equal(logits(make_stack([with_high_res(state, 24)]), batch), plain)
    embedding = replace(batch, features_GBNC=batch.features_GBNC[..., :256])
    assert torch.equal(logits(make_stack([state]), embedding), plain)
    with pytest.raises(CheckpointError, match="reads high-resolution features, and there are none"):
        logits(make_stack([with_high_res(state, 24)]), embedding)


@pytest.mark.parametrize("weights", ["random", "trained"])
def test_float32_logits_are_as_close_as_float32_allows(weights):
    state = sam_decoder(seed=1).state_dict() if weights == "random" else trained_state()
    batch = make_batch(decoders=1, instances=2)
    naive = NaiveStack([sam_decoder(state)], ["dicefocal"], make_constants(torch.float32))
    with torch.no_grad():
        expected = naive.logits(0, batch)
    ours = logits(make_stack([state]), batch)[0]
    assert float((ours - expected).abs().max()) < 5e-6 * float(expected.abs().max())


def test_padded_prompt_tokens_influence_nothing():
    stack, _ = make_pair(torch.float32)
    batch = make_batch(instances=2)
    with_nan = logits(stack, batch)
    filled = torch.where(batch.token_mask_KBIP[..., None], batch.tokens_KBIPC, 1e3)
    assert torch.isfinite(with_nan).all()
    assert torch.equal(stack.logits(batch.features_GBNC, filled, batch.token_mask_KBIP), with_nan)


@pytest.mark.parametrize("groups", [1, 3])
def test_active_computes_only_those_asked_for_in_their_order(groups):
    stack, _ = make_pair(torch.float32)
    batch = make_batch(groups=groups)
    assert torch.equal(logits(stack, batch, active=[2, 0]), logits(stack, batch)[[2, 0]])


def test_images_beyond_one_pass_come_out_in_order(monkeypatch):
    stack, _ = make_pair(torch.float32)
    batch = make_batch(images=3)
    whole = logits(stack, batch)
    monkeypatch.setattr("lungfast.trained.decoder.INFERENCE_TOKENS", 2 * GRID[0] * GRID[1])
    torch.testing.assert_close(logits(stack, batch), whole, rtol=1e-5, atol=1e-6)


def test_state_dict_loads_strictly_and_keeps_what_is_not_trained():
    state = sam_decoder(seed=3).state_dict()
    stack = make_stack([state, state])
    with torch.no_grad():
        stack.flat_KL += 1
    after = stack.state_dict(1)
    sam_decoder().load_state_dict(after, strict=True)
    for name, tensor in after.items():
        expected = state[name] + 1 if is_trained(name) else state[name]
        assert torch.equal(tensor, expected), name
    stack.load(0, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in stack.state_dict(0).items())
    assert torch.equal(stack.state_dict(1)["iou_token.weight"], state["iou_token.weight"] + 1)


def test_trained_parameters_are_those_segment_anything_reaches():
    """By its own autograd: nothing for the heads left out, rounding noise for key biases."""
    decoder = sam_decoder(seed=2, scale=1.5).double()
    naive = NaiveStack([decoder], ["dicefocal"], make_constants(torch.float64))
    naive.optimisers[0] = torch.optim.Adam(decoder.parameters())
    naive.backward(0, make_batch(decoders=1))
    for name, parameter in decoder.named_parameters():
        largest = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        assert (largest > 1e-9) is is_trained(name), (name, largest)
        assert largest > 1e-9 or largest < 1e-14, (name, largest)


def test_gaps_between_parameters_are_no_parameters():
    layout = Layout.of(sam_decoder().state_dict())
    views = layout.views(torch.zeros(1, layout.length))
    taken = sorted(
        (layout.offsets[name], layout.offsets[name] + view.numel()) for name, view in views.items()
    )
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(taken))
    assert taken[-1][1] <= layout.length


def test_token_major_is_a_permutation_of_pixels():
    pixels = torch.arange(2 * 16 * 20).view(2, 16, 20)
    cells = to_token_major(pixels, GRID)
    assert torch.equal(from_token_major(cells, GRID), pixels)
    assert torch.equal(to_token_major(pixels % 3 == 0, GRID), cells % 3 == 0)  # bytes move in pairs
    # image token (1, 2) covers rows 4..7 and columns 8..11; its second pixel group is one to the right
    token = cells[0].view(4, 5, 16)[1, 2]
    assert set(token.tolist()) == set(pixels[0, 4:8, 8:12].flatten().tolist())
    assert token[:4].tolist() == pixels[0, 4:6, 8:10].flatten().tolist()


def test_other_weights_are_refused():
    state = sam_decoder().state_dict()
    with pytest.raises(CheckpointError, match="not the weights of a SAM mask decoder"):
        make_stack([{"encoder.weight": torch.zeros(1)}])
    with pytest.raises(CheckpointError, match=r"iou_token\.weight does not fit"):
        make_stack([state, state | {"iou_token.weight": torch.zeros(1, 128)}])
    with pytest.raises(CheckpointError, match=r"conv_s1\.weight has no place in the stack"):
        make_stack([state, with_high_res(state, 24)])
    stack = make_stack([state])
    with pytest.raises(CheckpointError, match="found none"):
        stack.load(0, {name: x for name, x in state.items() if "norm4" not in name})
