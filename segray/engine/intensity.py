"""Random changes of values, batched on the device: window, blur, resolution, brightness and the like, cutout."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

from segray.config import AugmentConfig
from segray.engine.draws import stream
from segray.nets.normalise import Normalisation


def normalise(
    images: Tensor, case_mean: Tensor, case_sd: Tensor, normalisation: Normalisation, config: AugmentConfig, draw: int
) -> Tensor:
    """Normalise slices; in mode window the chosen ones through a window of their own, shifted and scaled.

    What a wider window shows comes from the voxels themselves, and what a narrower one hides is clipped, as a reader
    would see it: so this belongs here, before anything is clipped.

    Args:
        images: as :meth:`segray.nets.normalise.Normalisation.apply` takes them, like ``case_mean`` and ``case_sd``.
        case_mean: mean of each slice's case.
        case_sd: standard deviation of each slice's case.
        normalisation: the recipe.
        config: probability and strength; nothing happens in other modes than window.
        draw: of :func:`segray.engine.draws.step_seed`.

    Returns:
        (n, c, H, W) float32, a new tensor.
    """
    values = normalisation.apply(images, case_mean, case_sd)
    if not (config.enabled and config.window) or normalisation.mode != "window":
        return values
    draws = torch.rand(len(images), 3, generator=stream(draw, "window"))
    picked = draws[:, 0] < config.window
    if not picked.any():
        return values
    chosen = picked.nonzero()[:, 0].to(images.device)
    move, zoom = draws[picked, 1:].to(images.device)[:, :, None, None, None].unbind(1)
    (low, high), (narrow, wide) = (float(normalisation.lo), float(normalisation.hi)), config.window_scale  # type: ignore[arg-type]
    centre = (low + high) / 2.0 + (high - low) * config.window_shift * (2.0 * move - 1.0)
    half = (high - low) / 2.0 * torch.exp(math.log(narrow) + math.log(wide / narrow) * zoom)
    raw = images[chosen].float().reshape(-1, *values.shape[1:])
    return values.index_copy(0, chosen, ((raw - centre) / half).clamp_(-1.0, 1.0))


def blur(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Gaussian blur of the chosen slices, each with an sd of its own, in pixels; the edge is continued.

    Args:
        images: (n, c, H, W); not changed.
        config: ``blur`` and ``blur_sd``.
        generator: on the CPU.
    """
    draws = torch.rand(len(images), 2, generator=generator)
    picked = draws[:, 0] < config.blur
    if not picked.any():
        return images
    low, high = config.blur_sd
    sd = (low + (high - low) * draws[picked, 1]).to(images.device)
    reach = math.ceil(3.0 * high)
    distance = torch.arange(-reach, reach + 1, device=images.device, dtype=sd.dtype)
    kernel = torch.exp(-0.5 * (distance / sd[:, None]) ** 2)
    chosen = picked.nonzero()[:, 0].to(images.device)
    source = images[chosen]
    # A channel of a slice is a group of its own, so that one convolution serves kernels that differ.
    planes = source.reshape(1, -1, *source.shape[-2:])
    weights = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(source.shape[1], 0)
    for padding, shape in (
        ((0, 0, reach, reach), (-1, 1, 2 * reach + 1, 1)),
        ((reach, reach, 0, 0), (-1, 1, 1, 2 * reach + 1)),
    ):
        planes = functional.pad(planes, padding, mode="replicate")
        planes = functional.conv2d(planes, weights.view(shape), groups=len(weights))
    return images.index_copy(0, chosen, planes.view_as(source))


def lower_resolution(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """The chosen slices as a coarser grid would show them: down by nearest, up again linearly.

    SimulateLowResolution of nnU-Net (Isensee et al. 2021, supplementary note 4), which goes up by cubic splines.

    Args:
        images: (n, c, H, W); not changed.
        config: ``low_resolution`` and ``low_resolution_factor``.
        generator: on the CPU.
    """
    draws = torch.rand(len(images), 2, generator=generator)
    picked = draws[:, 0] < config.low_resolution
    if not picked.any():
        return images
    low, high = config.low_resolution_factor
    factor = (low + (high - low) * draws[picked, 1]).to(images.device)
    chosen = picked.nonzero()[:, 0].to(images.device)
    values = images[chosen]
    for axis in (2, 3):
        values = _coarser(values, factor, axis)
    return images.index_copy(0, chosen, values)


def _coarser(values: Tensor, factor: Tensor, axis: int) -> Tensor:
    """(n, c, H, W) along ``axis`` with ``factor`` (n) times fewer pixels, nearest, and linearly back."""
    side = values.shape[axis]
    cells = (side / factor).round().clamp(min=1.0)[:, None]
    at = (torch.arange(side, device=values.device) + 0.5) * cells / side - 0.5
    before = at.floor()
    shape = [len(values), 1, 1, 1]
    shape[axis] = side

    def picked(cell: Tensor) -> Tensor:
        cell = torch.minimum(cell.clamp(min=0.0), cells - 1.0)
        pixel = ((cell + 0.5) * side / cells).floor().long().clamp(max=side - 1)
        return torch.take_along_dim(values, pixel.view(shape), dim=axis)

    return torch.lerp(picked(before), picked(before + 1.0), (at - before).view(shape))


def change_values(images: Tensor, config: AugmentConfig, span: float, generator: torch.Generator) -> Tensor:
    """Gamma over the channel's own range, contrast about the mean, brightness and noise, each on slices of its own.

    Args:
        images: (n, c, H, W) float32; not changed.
        config: the four probabilities and strengths.
        span: width of the input range, which brightness and noise are shares of.
        generator: on the CPU.
    """
    chances = torch.tensor((config.gamma, config.contrast, config.brightness, config.noise))
    picked = torch.rand(len(images), len(chances), generator=generator) < chances
    draws = torch.rand(len(images), len(chances), generator=generator)
    noise_seed = int(torch.randint(2**62, (1,), generator=generator))
    if not picked.any():
        return images
    dice = torch.Generator(device=images.device).manual_seed(noise_seed)
    changes: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
        lambda values, draw: _gamma(values, 1.0 + config.gamma_change * (2.0 * draw - 1.0)),
        lambda values, draw: _contrast(values, 1.0 + config.contrast_change * (2.0 * draw - 1.0)),
        lambda values, draw: values + config.brightness_share * span * (2.0 * draw - 1.0),
        lambda values, draw: values + _grain(values, dice) * (config.noise_sd * span * draw),
    )
    values = images.clone()
    for which, change in enumerate(changes):
        chosen = picked[:, which].nonzero()[:, 0].to(images.device)
        if chosen.numel():
            draw = draws[picked[:, which], which].to(images.device)[:, None, None, None]
            values[chosen] = change(values[chosen], draw)
    return values


def _gamma(values: Tensor, exponent: Tensor) -> Tensor:
    lowest, highest = values.amin(dim=(2, 3), keepdim=True), values.amax(dim=(2, 3), keepdim=True)
    width = (highest - lowest).clamp(min=1e-6)
    return values.sub(lowest).div_(width).clamp_(min=0.0).pow_(exponent).mul_(width).add_(lowest)


def _contrast(values: Tensor, factor: Tensor) -> Tensor:
    mean = values.mean(dim=(2, 3), keepdim=True)
    return values.sub(mean).mul_(factor).add_(mean)


def _grain(values: Tensor, dice: torch.Generator) -> Tensor:
    return torch.randn(values.shape, generator=dice, device=values.device, dtype=values.dtype)


def cut_out(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Rectangles of the chosen slices set to the slice's lowest value, in all channels (DeVries & Taylor 2017).

    Labels stay: the net learns to tell what is hidden from what is around it.

    Args:
        images: (n, c, H, W); not changed.
        config: ``cutout``, ``cutout_count`` and ``cutout_size``.
        generator: on the CPU.
    """
    picked = torch.rand(len(images), generator=generator) < config.cutout
    draws = torch.rand(len(images), config.cutout_count, 2, 2, generator=generator)
    if not picked.any():
        return images
    low, high = config.cutout_size
    chosen = picked.nonzero()[:, 0].to(images.device)
    place, size = draws[picked].to(images.device).unbind(-1)
    half = (low + (high - low) * size) / 2.0
    inside = [
        ((torch.arange(side, device=images.device) + 0.5) / side - place[:, :, axis, None]).abs()
        <= half[:, :, axis, None]
        for axis, side in enumerate(images.shape[-2:])
    ]
    hidden = (inside[0][:, :, :, None] & inside[1][:, :, None, :]).any(1, keepdim=True)
    source = images[chosen]
    return images.index_copy(0, chosen, torch.where(hidden, source.amin(dim=(2, 3), keepdim=True), source))
