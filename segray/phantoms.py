"""CT phantoms as NIfTI files in the TotalSegmentator layout: a trunk with HU as in life, another body each case.

Every structure is an ellipsoid, a tube or a ring in body coordinates (x to the patient's left, y to the back, z to
the head, each about -1 to 1), seen through a smooth random deformation and sampled on a grid of the case's own
spacing, direction and tilt. The Hounsfield values are the usual ones of a scan without contrast agent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray import storage
from segray.case import Geometry, Volume
from segray.formats import write_mask
from segray.formats.gzip_bytes import compress
from segray.formats.nifti import encode_volume

Floats = NDArray[np.float32]
Points = tuple[Floats, Floats, Floats]

AIR = -1000.0
FAT = -90.0
MUSCLE = 45.0
BLOOD = 42.0
SPONGE = 250.0
HALF_MM = (175.0, 120.0, 130.0)
"""Half the width, depth and height in mm of an average trunk."""

ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI")

LESION_CASE = 1
"""The case that has a lesion in its liver."""


@dataclass(frozen=True)
class Organ:
    """An ellipsoid organ.

    Attributes:
        centre: (x, y, z) in body coordinates.
        radii: half axes in body coordinates.
        hu: mean HU.
        texture: sd in HU of its coarse texture.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    texture: float = 4.0


ORGANS = {
    "lung_right": Organ((-0.42, -0.02, 0.62), (0.34, 0.60, 0.62), -820.0, 25.0),
    "lung_left": Organ((0.44, 0.02, 0.64), (0.31, 0.57, 0.58), -820.0, 25.0),
    "liver": Organ((-0.36, -0.10, -0.08), (0.48, 0.60, 0.36), 60.0, 5.0),
    "spleen": Organ((0.58, 0.32, -0.02), (0.19, 0.30, 0.24), 50.0, 4.0),
    "kidney_right": Organ((-0.38, 0.42, -0.50), (0.15, 0.22, 0.27), 35.0, 4.0),
    "kidney_left": Organ((0.38, 0.43, -0.44), (0.15, 0.22, 0.27), 35.0, 4.0),
}
"""Painted in this order, so that the liver keeps the dome below the right lung."""


def make_phantoms(
    folder: str, cases: int = 12, seed: int = 0, *, broken: bool = True, lesion: bool = True
) -> list[str]:
    """Write CT phantoms, a folder a case: ``ct.nii.gz`` and a binary mask a structure in ``segmentations/``.

    Args:
        folder: where to; files of the same name are replaced.
        cases: how many usable cases; they are named s0001, s0002, ...
        seed: the same seed makes the same phantoms.
        broken: one case more, last, whose scan is cut off in the middle.
        lesion: the second case has a lesion inside its liver, with a mask of its own.

    Returns:
        The case ids, the broken one included.
    """
    made = []
    for index in range(cases + int(broken)):
        case_id = f"s{index + 1:04d}"
        rng = np.random.default_rng((seed, index))
        with_lesion = lesion and index == min(LESION_CASE, cases - 1)
        geometry = _geometry(rng, index)
        voxels, masks = draw(geometry, rng, lesion=with_lesion)
        _write(storage.join(folder, case_id), geometry, voxels, masks, cut=index == cases)
        made.append(case_id)
    return made


def draw(geometry: Geometry, rng: np.random.Generator, *, lesion: bool = False) -> tuple[Volume, dict[str, Volume]]:
    """One phantom on a grid: voxels (z, y, x) int16 HU, and the binary masks (z, y, x) uint8 by structure.

    The masks overlap as in life: the body holds all organs, the liver its lesion.
    """
    size = geometry.size
    points = _body_points(geometry, rng)
    body = _inside(points, Organ((0.0, 0.0, 0.0), (1.0, 1.0, 9.0), MUSCLE)) & (np.abs(points[2]) < 1.02)
    hu = _trunk(points, body)
    masks = {"body": body}
    taken = _paint_bones(points, hu, masks, body)
    for name, organ in ORGANS.items():
        organ = _varied(organ, rng)
        masks[name] = _inside(points, organ) & ~taken
        if organ.hu > 0:
            hu[_inside(points, _capsule(organ)) & ~taken & body] = FAT
        hu[masks[name]] = organ.hu
        hu += masks[name] * _noise(size, rng, 3.0, organ.texture)
        taken |= masks[name]
    if lesion:
        masks["lesion"] = _inside(points, _lesion(rng)) & masks["liver"]
        hu[masks["lesion"]] = 10.0
    return _scan(hu, rng), {name: mask.astype(np.uint8) for name, mask in masks.items()}


def _geometry(rng: np.random.Generator, index: int) -> Geometry:
    """A grid that holds the trunk: varied spacing and direction, every third case tilted by some degrees."""
    in_plane, thickness = rng.uniform(2.8, 3.4), rng.uniform(4.6, 6.2)
    side = int(rng.integers(100, 129))
    slices = int(np.clip(round(2.0 * HALF_MM[2] / thickness) + rng.integers(-2, 2), 36, 52))
    spacing = np.array([in_plane, in_plane, thickness])
    shape = (side, side, slices)
    codes = ORIENTATIONS[index % len(ORIENTATIONS)]
    signs = np.array([1.0 if code in "RAS" else -1.0 for code in codes])
    tilt = _rotation(rng.uniform(-9.0, 9.0), rng.uniform(-4.0, 4.0)) if index % 3 == 2 else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.diag(signs * spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2.0)
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    return Geometry(header.get_sform(), shape, shape, bytes(header.binaryblock))


def _rotation(about_z: float, about_x: float) -> NDArray[np.float64]:
    a, b = np.radians([about_z, about_x])
    turn = np.array([[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0]])
    nod = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(b), -np.sin(b)], [0.0, np.sin(b), np.cos(b)]])
    return np.asarray(turn @ nod)


def _body_points(geometry: Geometry, rng: np.random.Generator) -> Points:
    """Body coordinates (x left, y back, z head) of every voxel, through the case's own deformation."""
    affine = geometry.lps_affine.astype(np.float32)
    z, y, x = np.ogrid[tuple(slice(0, side) for side in geometry.size)]
    scale = np.array(HALF_MM) * rng.uniform(0.88, 1.04) * rng.uniform(0.94, 1.06, size=3)
    shift = rng.normal(0.0, 0.03, size=3)
    points = []
    for axis, sign in enumerate((-1.0, -1.0, 1.0)):
        ras = affine[axis, 0] * z + affine[axis, 1] * y + affine[axis, 2] * x + affine[axis, 3]
        bend = _smooth(geometry.size, rng, (3, 4, 4), 0.05)
        points.append((np.float32(sign / scale[axis]) * ras + np.float32(shift[axis]) + bend).astype(np.float32))
    return points[0], points[1], points[2]


def _smooth(size: tuple[int, int, int], rng: np.random.Generator, knots: tuple[int, int, int], sd: float) -> Floats:
    """A smooth random field: coarse normal knots, interpolated axis by axis."""
    field = rng.normal(0.0, sd, size=knots).astype(np.float32)
    for axis, side in enumerate(size):
        at = np.linspace(0, knots[axis] - 1, side, dtype=np.float32)
        low = np.minimum(at.astype(np.intp), knots[axis] - 2)
        part = at - low
        part = part * part * (3 - 2 * part)
        shape = [1, 1, 1]
        shape[axis] = side
        weight = part.reshape(shape)
        field = np.take(field, low, axis) * (1 - weight) + np.take(field, low + 1, axis) * weight
    return field


def _inside(points: Points, organ: Organ) -> NDArray[np.bool_]:
    x, y, z = (
        (np.float32(1.0 / radius) * (point - np.float32(centre)))
        for point, centre, radius in zip(points, organ.centre, organ.radii, strict=True)
    )
    return np.asarray(x * x + y * y + z * z < 1.0)


def _varied(organ: Organ, rng: np.random.Generator) -> Organ:
    centre = np.array(organ.centre) + rng.normal(0.0, 0.02, size=3)
    radii = np.array(organ.radii) * rng.uniform(0.9, 1.1, size=3)
    return Organ((centre[0], centre[1], centre[2]), (radii[0], radii[1], radii[2]), organ.hu, organ.texture)


def _capsule(organ: Organ) -> Organ:
    """The organ with the thin layer of fat around it that sets it off from its neighbours."""
    x, y, z = (radius + 0.045 for radius in organ.radii)
    return Organ(organ.centre, (x, y, z), FAT)


def _lesion(rng: np.random.Generator) -> Organ:
    x, y, z = np.array([-0.42, -0.05, -0.08]) + rng.uniform(-0.06, 0.06, size=3)
    return Organ((x, y, z), (0.12, 0.16, 0.13), 10.0)


def _trunk(points: Points, body: NDArray[np.bool_]) -> Floats:
    """Air, a layer of fat below the skin, a wall of muscle, fat inside, back muscles, gut and aorta."""
    hu = np.full(body.shape, AIR, np.float32)
    hu[body] = FAT
    hu[_inside(points, Organ((0.0, 0.0, 0.0), (0.90, 0.87, 9.0), MUSCLE)) & body] = MUSCLE
    hu[_inside(points, Organ((0.0, -0.05, -0.6), (0.80, 0.72, 0.85), FAT)) & body] = FAT
    fixed: Iterable[Organ] = (
        Organ((-0.20, 0.62, 0.0), (0.16, 0.17, 9.0), MUSCLE),
        Organ((0.20, 0.62, 0.0), (0.16, 0.17, 9.0), MUSCLE),
        Organ((0.20, -0.35, -0.15), (0.30, 0.28, 0.22), 30.0),
        Organ((0.10, -0.35, -0.75), (0.45, 0.25, 0.30), 25.0),
        Organ((0.05, -0.20, 0.62), (0.30, 0.40, 0.42), BLOOD),
        Organ((0.08, 0.28, 0.0), (0.065, 0.09, 9.0), BLOOD),
    )
    for organ in fixed:
        hu[_inside(points, organ) & body] = organ.hu
    hu[_inside(points, Organ((0.25, -0.50, -0.12), (0.14, 0.10, 0.10), AIR))] = -900.0
    return hu


def _paint_bones(
    points: Points, hu: Floats, masks: dict[str, NDArray[np.bool_]], body: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Spine, ribs and hips with a hard shell and a spongy inside; returns what they take."""
    x, y, z = points
    spine = _inside(points, Organ((0.0, 0.50, 0.0), (0.13, 0.17, 9.0), 0.0))
    spine |= _inside(points, Organ((0.0, 0.74, 0.0), (0.045, 0.14, 9.0), 0.0)) & (np.cos(z * 22.0) > -0.3)
    canal = _inside(points, Organ((0.0, 0.655, 0.0), (0.05, 0.055, 9.0), 0.0))
    ring = np.sqrt(np.square(x / np.float32(0.84)) + np.square(y / np.float32(0.82)))
    slope = np.sin((z + np.float32(0.35) * y) * np.float32(24.0))
    ribs = (np.abs(ring - 1.0) < 0.055) & (slope > 0.35) & (z > -0.25)
    hips = _inside(points, Organ((-0.5, 0.25, -1.0), (0.26, 0.34, 0.22), 0.0))
    hips |= _inside(points, Organ((0.5, 0.25, -1.0), (0.26, 0.34, 0.22), 0.0))
    masks["spine"] = spine & ~canal & body
    masks["ribs"] = ribs & ~spine & body
    masks["hips"] = hips & ~spine & ~ribs & body
    disc = np.cos(z * np.float32(22.0)) < -0.75
    for name, shell in (("spine", 650.0), ("ribs", 700.0), ("hips", 750.0)):
        inner = ndimage.binary_erosion(masks[name], iterations=1)
        hu[masks[name]] = shell
        hu[inner] = SPONGE
    hu[masks["spine"] & disc & (y < 0.6)] = 90.0
    hu[canal & body] = 25.0
    return np.asarray(masks["spine"] | masks["ribs"] | masks["hips"] | canal)


def _noise(size: tuple[int, int, int], rng: np.random.Generator, sigma: float, sd: float) -> Floats:
    """Smoothed normal noise of the given sd in HU."""
    field = rng.standard_normal(size, dtype=np.float32)
    field = ndimage.gaussian_filter(field, (0.3 * sigma, sigma, sigma), mode="wrap", truncate=2.5)
    return np.asarray(field * np.float32(sd / float(field.std())), dtype=np.float32)


def _scan(hu: Floats, rng: np.random.Generator) -> Volume:
    """What the scanner makes of the HU: a little blur in the plane, noise of 12 to 20 HU, int16 above -1024."""
    blurred = ndimage.gaussian_filter(hu, (0.0, 0.55, 0.55))
    noisy = blurred + _noise(hu.shape, rng, 0.6, float(rng.uniform(12.0, 20.0)))
    return np.asarray(np.clip(np.rint(noisy), -1024, 3071).astype(np.int16))


def _write(folder: str, geometry: Geometry, voxels: Volume, masks: dict[str, Volume], *, cut: bool) -> None:
    data = compress(encode_volume(voxels, geometry))
    storage.write_bytes(storage.join(folder, "ct.nii.gz"), data[: len(data) // 2] if cut else data)
    for name, mask in masks.items():
        write_mask(storage.join(folder, "segmentations", f"{name}.nii.gz"), mask, geometry)
