"""nano's architecture: what its normalisation takes out, both grids, and what its weights find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lungfast.data.phantoms import MONTGOMERY, render_phantom
from lungfast.frozen.checkpoints import read_head
from lungfast.frozen.encoders import load_encoder
from lungfast.frozen.hybrid import HybridEncoder, grey_channels
from lungfast.frozen.nano import HybridConfig
from lungfast.trained.promptable import decode, prompt_tokens

CPU = torch.device("cpu")
GOLDEN_TOKENS, GOLDEN_CHANNELS = [0, 330, 527, 1000], [0, 100, 255]
GOLDEN = [
    [1.1595, 1.4883, 0.7753],
    [-0.5627, 0.3215, 2.2526],
    [-1.0289, 2.1338, 1.8463],
    [1.1656, 1.1958, 1.0504],
]
GOLDEN_ROWS, GOLDEN_COLUMNS = [20, 50, 64, 90], [10, 40, 64]
GOLDEN_LOGITS = [
    [-13.770, -11.342, -7.859],
    [-11.952, 7.462, -4.667],
    [-14.649, 7.662, -8.000],
    [-13.695, -11.594, -11.294],
]


def padded(brightness: float, contrast: float) -> torch.Tensor:
    """A grey image of 60 x 40 in a frame of 64, its padding zero."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, 64, 64)
    image[..., :60, :40] = contrast * torch.rand(1, 1, 60, 40, generator=generator) + brightness
    return image


def test_brightness_and_contrast_change_little() -> None:
    plain, other = grey_channels(padded(0.3, 1.0)), grey_channels(padded(-0.7, 2.0))
    assert (plain - other).abs().max() < 0.1
    assert plain.shape == (1, 3, 64, 64)


def test_padding_is_no_part_of_the_statistics() -> None:
    channels = grey_channels(padded(0.3, 1.0))
    inside = channels[:, :, :60, :40]
    assert torch.all(channels[..., 60:, :] == 0)
    assert torch.all(channels[..., 40:] == 0)
    assert torch.all(inside[:, 2] == 1)
    assert inside[:, 0].mean().abs() < 1e-4
    assert inside[:, 0].std() == pytest.approx(1.0, abs=0.1)


def test_a_grey_image_has_finite_channels() -> None:
    assert torch.isfinite(grey_channels(padded(0.5, 0.0))).all()


@pytest.mark.parametrize("fold", [1, 2])
def test_grids(fold: int) -> None:
    config = HybridConfig(input_size=64, widths=(24, 24, 24, 48), layers=1, heads=2, fold=fold)
    with torch.inference_mode():
        found = HybridEncoder(config)(padded(0.3, 1.0))
    assert config.grid == (16 // fold, 16 // fold)
    assert found.shape == (1, 256, *config.grid)
    assert config.low == 64 // fold


@pytest.mark.parametrize("fold", [1, 2])
def test_the_finest_maps_follow_the_embedding_cell_by_cell_of_a_token(fold: int) -> None:
    config = HybridConfig(input_size=64, widths=(24, 24, 24, 48), layers=1, heads=2, fold=fold)
    encoder, seen = HybridEncoder(config, high_res=True), []
    encoder.fuse2.register_forward_hook(lambda module, arguments, out: seen.append(out))
    with torch.inference_mode():
        found = encoder(padded(0.3, 1.0))
        encoder.high_res = False
        assert torch.equal(found[:, :256], encoder(padded(0.3, 1.0)))
    assert found.shape == (1, 256 + config.fine_channels, *config.grid)
    cells = found[0, 256:, 3, 5].view(fold, fold, 24)
    for dy, dx in np.ndindex(fold, fold):
        assert torch.equal(cells[dy, dx], seen[0][0, :, fold * 3 + dy, fold * 5 + dx])


def test_nano_finds_the_lungs_of_a_phantom_from_two_points() -> None:
    """A phantom is drawn by another program than its training images: Dice above 0.9, before fine-tuning."""
    phantom = render_phantom(MONTGOMERY, 2, (256, 256))
    encoder = load_encoder(device=CPU)
    side, grid = encoder.spec.input_size, encoder.spec.grid
    embeddings_BNC = torch.from_numpy(encoder.encode([phantom.image_HW]))
    masks = [phantom.right_HW, phantom.left_HW]
    logits = _logits(encoder.head, embeddings_BNC, masks, (grid, side))
    large = torch.nn.functional.interpolate(logits[:, :1], size=(256, 256), mode="bilinear")
    found, true = large[0, 0].numpy() > 0, masks[0] | masks[1]
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.9


def test_golden_output() -> None:
    """Four tokens of a phantom, three channels each; 2e-3 covers other machines' float32."""
    phantom = render_phantom(MONTGOMERY, 2, (256, 256))
    features_NC = load_encoder(device=CPU).encode([phantom.image_HW])[0]
    assert features_NC[GOLDEN_TOKENS][:, GOLDEN_CHANNELS] == pytest.approx(np.array(GOLDEN), abs=2e-3)


def test_golden_logits() -> None:
    """What the decoder that comes with nano says of both lungs of a phantom, in four rows of three pixels."""
    phantom = render_phantom(MONTGOMERY, 2, (256, 256))
    encoder = load_encoder(device=CPU)
    features_BNC = torch.from_numpy(encoder.encode([phantom.image_HW]))
    logits = _logits(
        encoder.head, features_BNC, [phantom.right_HW, phantom.left_HW], (encoder.spec.grid, 256)
    )
    found = logits[0, 0][GOLDEN_ROWS][:, GOLDEN_COLUMNS].numpy()
    assert found == pytest.approx(np.array(GOLDEN_LOGITS), abs=2e-2)


def _logits(
    head: bytes,
    embeddings_BNC: torch.Tensor,
    masks: list[np.ndarray],
    frame: tuple[tuple[int, int], int],
) -> torch.Tensor:
    """(1, masks, h, w) asked for by a point in the middle of each lung; ``frame``: grid and side."""
    grid, side = frame
    points = [np.argwhere(mask).mean(axis=0)[::-1] * side / 256 for mask in masks]
    prompt, decoder = _head(head, grid, side)
    with torch.inference_mode():
        tokens = prompt_tokens(
            prompt,
            torch.tensor(np.array([[*points, np.zeros(2)]]), dtype=torch.float32),
            torch.tensor([[1, 1, -1]]),
        )
        logits, _ = decode(decoder, prompt, embeddings_BNC.transpose(1, 2).unflatten(2, grid), tokens)
    return logits


def _head(content: bytes, grid: tuple[int, int], side: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    from lungfast.frozen.nano import sam_head_modules

    head = read_head(content)
    prompt, decoder = sam_head_modules(grid, side)
    prompt.load_state_dict(head.prompt_encoder)
    decoder.load_state_dict(head.mask_decoder)
    return prompt, decoder
