"""CT phantoms: made-up torsos with HU as in life, as NIfTI files in the TotalSegmentator layout.

Anatomy is a set of smooth shapes in the patient's frame (millimetres, LPS: x to the left, y to the back, z to the
head; the origin lies in the middle of the body at the height of the upper kidneys). A scan samples these shapes at
the places of its own voxels, so orientation, obliqueness and spacing come from the affine alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray import storage
from segray.case import LPS_SIGNS, Geometry
from segray.errors import UsageError
from segray.formats import write_mask
from segray.formats.gzip_bytes import compress
from segray.formats.nifti import encode_volume

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Interval = tuple[float, float]

STRUCTURES = ("body", "bones", "kidney_left", "kidney_right", "liver", "lung_left", "lung_right", "spleen")
"""The masks of a whole case; the case with a lesion has ``lesion`` too, the scan of the chest lacks the kidneys."""

ORIENTATIONS = ("RAS", "LPS", "LAS")
LESION_CASE, CHEST_CASE = 1, 2
OBLIQUE_EVERY = 4
LEFT, RIGHT = 1.0, -1.0


def make_phantoms(
    folder: str, cases: int = 12, seed: int = 0, *, broken: bool = True, lesion: bool = True
) -> list[str]:
    """Write CT phantoms as ``sXXXX/ct.nii.gz`` (int16 HU) and ``sXXXX/segmentations/<structure>.nii.gz`` (uint8 0, 1).

    Case ``n`` of a seed is the same whatever the number of cases. The masks overlap as in life: ``body`` holds all
    others, ``liver`` holds ``lesion``. The third case is a scan of the chest: what lies below it has no mask.

    Args:
        folder: a path or URI; files of the same names are replaced.
        cases: how many cases, the broken one included.
        seed: fixes anatomy, noise and grids.
        broken: the last case has a ``ct.nii.gz`` that is cut off.
        lesion: the second case (the only one, where there is one) has a lesion in the liver.

    Returns:
        The case ids.

    Raises:
        UsageError: no case, or a negative seed.
        SegrayError: the folder cannot be written.
    """
    if cases < 1 or seed < 0:
        raise UsageError(f"{cases} phantoms of seed {seed} cannot be made.", mend="Ask for 1 or more, seed 0 or more.")
    case_ids = [f"s{number:04d}" for number in range(1, cases + 1)]
    for index, case_id in enumerate(case_ids):
        rng = np.random.default_rng([seed, index])
        scan = _scan(rng, index, lesion=lesion and index == min(LESION_CASE, cases - 1))
        cut = broken and index == cases - 1
        _write(storage.join(folder, case_id), scan, cut=cut)
    return case_ids


@dataclass(frozen=True)
class _Scan:
    """A CT and its masks, all (z, y, x) LPS on one grid."""

    geometry: Geometry
    voxels: NDArray[np.int16]
    masks: Mapping[str, Mask]


def _scan(rng: np.random.Generator, index: int, *, lesion: bool) -> _Scan:
    person = _Person.draw(rng)
    geometry = _draw_geometry(rng, index, person)
    torso = _Torso(_places(geometry, rng), person)
    masks = torso.masks
    if lesion:
        masks["lesion"] = _lesion(masks["liver"], torso.place, geometry, rng)
    voxels = _render(torso, masks, rng)
    return _Scan(geometry, voxels, {name: mask for name, mask in masks.items() if mask.any()})


def _write(folder: str, scan: _Scan, *, cut: bool) -> None:
    """Masks first, the scan last: a folder with a scan is whole."""
    for name, mask in scan.masks.items():
        write_mask(storage.join(folder, "segmentations", f"{name}.nii.gz"), mask.astype(np.uint8), scan.geometry)
    data = compress(encode_volume(scan.voxels, scan.geometry))
    storage.write_bytes(storage.join(folder, "ct.nii.gz"), data[: len(data) * 2 // 5] if cut else data)


# --- the grid of a scan -----------------------------------------------------------------------------------------------


def _draw_geometry(rng: np.random.Generator, index: int, person: _Person) -> Geometry:
    """A grid of 96 to 128 pixels of 2.6 to 3.4 mm and 36 to 52 slices of 4 to 6 mm, around the person's body."""
    in_plane, between = rng.uniform(2.6, 3.4), rng.uniform(4.0, 6.0)
    columns = int(np.clip(np.ceil((2 * person.half_width + 36) / in_plane), 96, 128))
    rows = int(np.clip(columns - rng.integers(0, 3) * 8, 96, 128))
    slices = int(np.clip(round(rng.uniform(205, 230) / between), 36, 52))
    middle = np.array([rng.uniform(-5, 5), rng.uniform(-4, 8), rng.uniform(0, 10)])
    if index == CHEST_CASE:
        middle[2] = person.above_kidneys + between * slices / 2
    turn = np.eye(3)
    if index % OBLIQUE_EVERY == OBLIQUE_EVERY - 1:
        turn = _rotation(rng.uniform(2, 6, size=3) * rng.choice([-1, 1], size=3))
    signs = [1 if code in "RAS" else -1 for code in ORIENTATIONS[index % len(ORIENTATIONS)]]
    shape = (columns, rows, slices)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array(signs) * (in_plane, in_plane, between))
    affine[:3, 3] = middle * LPS_SIGNS - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    header = _ct_header(shape, affine)
    return Geometry(header.get_best_affine(), shape, shape, header.binaryblock)


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3): turns about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def _ct_header(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> nib.Nifti1Header:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    return header


@dataclass(frozen=True)
class _Place:
    """Where each voxel lies in the anatomy: three (z, y, x) arrays in mm, LPS."""

    x: Floats
    y: Floats
    z: Floats


def _places(geometry: Geometry, rng: np.random.Generator) -> _Place:
    """The patient's coordinates of all voxels, bent smoothly by some mm so that no two bodies are alike."""
    z, y, x = (np.arange(count, dtype=np.float32) for count in geometry.size)
    matrix = (geometry.lps_affine[:3] * np.array(LPS_SIGNS)[:, None]).astype(np.float32)
    world = [row[0] * z[:, None, None] + row[1] * y[None, :, None] + row[2] * x + row[3] for row in matrix]
    bent = []
    for axis in range(3):
        wave = np.zeros(geometry.size, np.float32)
        for length, height in ((260.0, 5.0), (150.0, 2.5)):
            pull = rng.normal(size=3)
            pull *= 2 * np.pi / length / np.linalg.norm(pull)
            phase = sum(np.float32(p) * w for p, w in zip(pull, world, strict=True)) + np.float32(rng.uniform(0, 6.28))
            wave += np.float32(height * rng.uniform(0.5, 1.0)) * np.sin(phase)
        bent.append(world[axis] + wave)
    return _Place(*bent)


# --- the anatomy ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Person:
    """What differs between bodies, in mm unless said otherwise."""

    half_width: float
    half_depth: float
    fat: float
    dome_right: float
    dome_left: float
    kidney_height: float
    kidney_size: float
    liver_reach: float
    spleen_size: float
    rib_shift: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Person:
        """A person from the ranges of adults."""
        half_width = rng.uniform(138, 154)
        return cls(
            half_width=half_width,
            half_depth=half_width * rng.uniform(0.68, 0.76),
            fat=rng.uniform(9, 20),
            dome_right=rng.uniform(56, 72),
            dome_left=rng.uniform(46, 62),
            kidney_height=rng.uniform(-38, -24),
            kidney_size=rng.uniform(0.9, 1.12),
            liver_reach=rng.uniform(-65, -40),
            spleen_size=rng.uniform(0.85, 1.2),
            rib_shift=rng.uniform(0, 27),
        )

    @property
    def spine(self) -> float:
        """y of the middle of the vertebral bodies."""
        return 0.25 * self.half_depth

    @property
    def above_kidneys(self) -> float:
        """A height that no kidney reaches, bending included."""
        return self.kidney_height + 52 * self.kidney_size + 30


class _Torso:
    """The shapes of one person, each a mask or a scaled radius (1 on its surface) over the voxels of a scan."""

    def __init__(self, place: _Place, person: _Person) -> None:
        self.place = place
        self.person = person

    @property
    def masks(self) -> dict[str, Mask]:
        """What is written beside the scan, by name."""
        kidneys = {"kidney_left": self.kidney(LEFT), "kidney_right": self.kidney(RIGHT)}
        lungs = {"lung_left": self.lung(LEFT), "lung_right": self.lung(RIGHT)}
        organs = {**kidneys, "liver": self.liver, **lungs, "spleen": self.spleen}
        bones = self.body & (self.spine_bone | self.rib_bone | self.pelvis_bone)
        free = self.body & ~bones
        return {"body": self.body, "bones": bones, **{name: mask & free for name, mask in organs.items()}}

    def blob(self, middle: tuple[float, float, float], axes: tuple[float, float, float], turn: float = 0.0) -> Floats:
        """The scaled radius of an ellipsoid at (x, y, z), turned by ``turn`` degrees in the coronal plane."""
        x, y, z = self.place.x - middle[0], self.place.y - middle[1], self.place.z - middle[2]
        cos, sin = np.float32(np.cos(np.radians(turn))), np.float32(np.sin(np.radians(turn)))
        a, c = cos * x + sin * z, cos * z - sin * x
        return np.asarray(np.sqrt((a / axes[0]) ** 2 + (y / axes[1]) ** 2 + (c / axes[2]) ** 2), dtype=np.float32)

    def _ring(self, half_width: float, half_depth: float) -> Floats:
        power = np.float32(2.4)
        x, y = np.abs(self.place.x / half_width), np.abs(self.place.y / half_depth)
        return np.asarray((x**power + y**power) ** (1 / power), dtype=np.float32)

    @cached_property
    def skin(self) -> Floats:
        """1 on the skin; the waist is a little narrower than chest and hips."""
        waist = 1 - 0.05 * np.exp(-(((self.place.z + 45) / 45) ** 2))
        return np.asarray(self._ring(self.person.half_width, self.person.half_depth) / waist, dtype=np.float32)

    @cached_property
    def body(self) -> Mask:
        """All inside the skin."""
        return self.skin < 1

    @cached_property
    def cage(self) -> Floats:
        """1 in the middle of the ribs and of the wall of the belly."""
        inset = self.person.fat + 12
        return self._ring(self.person.half_width - inset, self.person.half_depth - inset)

    @cached_property
    def cavity(self) -> Mask:
        """Chest and belly inside the wall, without the muscles beside the spine."""
        behind = (np.abs(self.place.x) < 48) & (self.place.y > self.person.spine + 22)
        return (self.cage < 0.93) & ~behind

    def kidney_middle(self, side: float) -> float:
        """The height of a kidney; the left one lies higher."""
        return self.person.kidney_height + (6.0 if side == LEFT else -4.0)

    def kidney_radius(self, side: float) -> Floats:
        """1 on the surface of the kidney of a side (+1 left)."""
        size = self.person.kidney_size
        middle = (side * 64, self.person.spine + 10, self.kidney_middle(side))
        return self.blob(middle, (26 * size, 24 * size, 50 * size), turn=side * 12)

    def kidney(self, side: float) -> Mask:
        """A kidney without the fat of its sinus."""
        size = self.person.kidney_size
        middle = (side * (64 - 21 * size), self.person.spine + 4, self.kidney_middle(side))
        return (self.kidney_radius(side) < 1) & (self.blob(middle, (14 * size, 12 * size, 16 * size)) > 1)

    @cached_property
    def liver_top(self) -> Floats:
        """The height of the liver's dome."""
        x, y = self.place.x + 62, self.place.y + 12
        return np.asarray(self.person.dome_right - 0.0045 * x**2 - 0.0075 * y**2, dtype=np.float32)

    @cached_property
    def left_dome(self) -> Floats:
        """The height of the left diaphragm."""
        x, y = self.place.x - 70, self.place.y + 8
        return np.asarray(self.person.dome_left - 0.008 * x**2 - 0.0075 * y**2, dtype=np.float32)

    @cached_property
    def heart(self) -> Floats:
        """1 on the surface of the heart."""
        return self.blob((18, -28, self.person.dome_right + 42), (54, 40, 46), turn=-25)

    @cached_property
    def vessels(self) -> Mask:
        """Aorta and lower vena cava."""
        front = self.person.spine - 26
        aorta = np.hypot(self.place.x - 11, self.place.y - front) < 10.5
        return np.asarray(aorta | (np.hypot((self.place.x + 17) / 11, (self.place.y - front) / 8) < 1))

    def lung(self, side: float) -> Mask:
        """The lung of a side (+1 left): in the cage, beside the mediastinum, above the diaphragm, thin at the top."""
        x, z = side * self.place.x, self.place.z
        top = np.maximum(z - 60, 0) / 190
        beside = x > 24 + 10 * np.exp(-(((self.place.y - self.person.spine) / 28) ** 2))
        floor = np.maximum(self.liver_top, self.left_dome) if side == LEFT else self.liver_top
        inside = (self.cage + top**3 < 0.9) & beside & (z > floor + 4)
        return np.asarray(inside & (self.heart > 1.08) & ~self.vessels & self.cavity)

    @cached_property
    def gallbladder(self) -> Mask:
        """Below the liver, in front."""
        return self.blob((-48, -44, self.person.liver_reach + 42), (13, 16, 24), turn=20) < 1

    @cached_property
    def liver(self) -> Mask:
        """Below the right dome, reaching to the left in front; kidney and gallbladder press into it."""
        x, y, z = self.place.x, self.place.y, self.place.z
        lower = self.person.liver_reach + 0.62 * np.maximum(x + 105, 0) - 0.12 * y
        behind = np.minimum(70.0, 52 - 0.8 * np.maximum(x + 62, 0))
        shape = (z < self.liver_top) & (z > lower) & (y < behind) & (self.cage < 0.9)
        free = (self.kidney_radius(RIGHT) > 1.25) & ~self.gallbladder & ~self.vessels & self.cavity
        return np.asarray(shape & free)

    @cached_property
    def spleen(self) -> Mask:
        """Behind, on the left, below the diaphragm; hollow towards the stomach."""
        size = self.person.spleen_size
        radius = self.blob((92, self.person.spine + 12, 14), (33 * size, 48 * size, 48 * size), turn=-18)
        away = (self.kidney_radius(LEFT) > 1.2) & (self.stomach > 1.1)
        return (radius < 1) & (self.cage < 0.9) & (self.place.z < self.left_dome) & away & self.cavity

    @cached_property
    def stomach(self) -> Floats:
        """1 on the surface of the stomach."""
        return self.blob((52, -28, 12), (36, 34, 46), turn=-20)

    @cached_property
    def _vertebra_phase(self) -> Floats:
        return np.asarray(np.mod(self.place.z + self.person.rib_shift, 34) / 34, dtype=np.float32)

    @cached_property
    def vertebra(self) -> Floats:
        """1 on the rim of vertebral bodies and discs; wider in the sacrum."""
        wide = 20 + 22 / (1 + np.exp((self.place.z + 98) / 5))
        return np.asarray(np.hypot(self.place.x / wide, (self.place.y - self.person.spine) / 15.5), dtype=np.float32)

    @cached_property
    def canal(self) -> Floats:
        """The distance from the middle of the spinal canal, mm."""
        return np.asarray(np.hypot(self.place.x, self.place.y - self.person.spine - 25), dtype=np.float32)

    @cached_property
    def spine_bone(self) -> Mask:
        """Vertebral bodies, arches, spinous and transverse processes; no discs, no canal."""
        x, phase = np.abs(self.place.x), self._vertebra_phase
        back = self.place.y - self.person.spine
        bodies = (self.vertebra < 1) & (phase < 0.8)
        arch = (self.canal < 14) & (phase > 0.15) & (phase < 0.85)
        spinous = (x < 4.5) & (back > 32) & (back < 54) & (phase > 0.25) & (phase < 0.75)
        transverse = (np.abs(back - 22) < 5) & (x < 36) & (phase > 0.3) & (phase < 0.6)
        return np.asarray((bodies | arch | spinous | transverse) & (self.canal > 8.5))

    @cached_property
    def rib_bone(self) -> Mask:
        """Ribs, falling from the spine to the front, and the breastbone."""
        x, y, z = np.abs(self.place.x), self.place.y, self.place.z
        shell = (self.cage > 0.925) & (self.cage < 1.02)
        phase = np.mod(z - 0.5 * y + self.person.rib_shift, 27) / 27
        margin = z > -32 + 0.9 * np.maximum(-y, 0)
        gap = ((y > 0) & (x < 24)) | ((y < -0.3 * self.person.half_depth) & (x < 58))
        breastbone = shell & (y < 0) & (x < 17) & (z > 44)
        return (shell & (phase < 0.42) & margin & ~gap) | breastbone

    @cached_property
    def pelvis_bone(self) -> Mask:
        """The iliac wings."""
        x, y, z = np.abs(self.place.x), self.place.y - 16, self.place.z
        ring = np.hypot(x / (0.72 * self.person.half_width), y / 62)
        crest = z < -66 - 0.3 * np.abs(y) - 0.002 * y**2
        return np.asarray((np.abs(ring - 1) < 0.055) & crest & (x > 38) & (y > -30))


def _lesion(liver: Mask, place: _Place, geometry: Geometry, rng: np.random.Generator) -> Mask:
    """A round lesion about the place that lies deepest in the liver."""
    depth = ndimage.distance_transform_edt(liver, sampling=geometry.spacing)
    z, y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    middle = [float(axis[z, y, x]) for axis in (place.x, place.y, place.z)]
    size = min(0.8 * float(depth.max()), rng.uniform(16, 20))
    parts = [(axis - at) / size for axis, at in zip((place.x, place.y, place.z), middle, strict=True)]
    return np.asarray(np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2) < 1) & liver


# --- the picture ------------------------------------------------------------------------------------------------------


def _render(torso: _Torso, masks: Mapping[str, Mask], rng: np.random.Generator) -> NDArray[np.int16]:
    """HU of all voxels: tissues, their texture, the scanner's blur in the plane, noise of 12 to 20 HU."""
    shape = torso.skin.shape
    hu = _tissues(torso, rng)
    _paint_organs(hu, torso, masks, rng)
    _paint_bones(hu, torso, masks["bones"])
    hu = ndimage.gaussian_filter(hu, (0, 0.45, 0.45))
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), (0, 0.5, 0.5))
    hu += noise * np.float32(rng.uniform(12, 20) / noise.std())
    return np.asarray(np.clip(np.rint(hu), -1024, 3071), dtype=np.int16)


def _tissues(torso: _Torso, rng: np.random.Generator) -> Floats:
    """HU of air, couch, fat, muscle, and what fills the belly between the organs."""
    place, person = torso.place, torso.person
    hu = np.full(torso.skin.shape, -1000, np.float32)
    couch = place.y - person.half_depth - 10 + 0.0012 * place.x**2
    hu[(np.abs(couch) < 3) & ~torso.body] = -500
    hu[torso.body] = -100
    hu[torso.skin > 0.985] += np.float32(70) * torso.body[torso.skin > 0.985]
    muscle = (torso.cage < 1.06) | ((torso.cage < 1.14) & (_cloud(rng, hu.shape, 12) > 0))
    hu[torso.body & muscle] = 48
    bowel = _cloud(rng, hu.shape, 7)
    hu[torso.cavity] = np.select([bowel > 1.5, bowel > 0.1], [-600, 32], -98)[torso.cavity]
    chest = torso.cavity & (place.z > np.maximum(torso.liver_top, torso.left_dome))
    hu[chest] = np.where(bowel > 0.2, 25, -75)[chest]
    for side in (LEFT, RIGHT):
        hu[torso.cavity & (torso.kidney_radius(side) < 1.3)] = -105
    psoas = np.hypot((np.abs(place.x) - 36) / 15, (place.y - person.spine - 3) / 17)
    hu[(psoas < 1) & (place.z < -5)] = 52
    return hu


def _paint_organs(hu: Floats, torso: _Torso, masks: Mapping[str, Mask], rng: np.random.Generator) -> None:
    place = torso.place
    below = torso.cavity & (place.z < torso.left_dome)
    gas = place.y < -42 + 4 * np.sin(place.x / 15)
    hu[below & (torso.stomach < 1)] = np.where(gas, -900, 28)[below & (torso.stomach < 1)]
    hu[torso.cavity & (torso.heart < 1) & (place.z > torso.liver_top)] = 42
    hu[torso.cavity & torso.vessels] = 44
    hu[torso.cavity & torso.gallbladder] = 10
    texture = 5 * _cloud(rng, hu.shape, 4)
    levels = {"liver": 60.0, "spleen": 50.0, "kidney_left": 35.0, "kidney_right": 35.0, "lesion": 8.0}
    for name, level in levels.items():
        if name in masks:
            shift = 0.0 if name == "lesion" else rng.uniform(-4, 4)
            hu[masks[name]] = level + shift + texture[masks[name]]
    lungs = masks["lung_left"] | masks["lung_right"]
    airy = _cloud(rng, hu.shape, 2)
    depth = -830 + 0.25 * place.y + 25 * airy + np.where(airy > 1.5, 420, 0)
    hu[lungs] = depth[lungs]


def _paint_bones(hu: Floats, torso: _Torso, bones: Mask) -> None:
    disc = (torso.vertebra < 0.97) & ~bones & torso.body
    hu[disc] = 80
    hu[(torso.canal < 8.5) & torso.body] = 25
    hu[bones] = 620
    hu[bones & (torso.vertebra < 0.8)] = 330


def _cloud(rng: np.random.Generator, shape: tuple[int, ...], cell: int) -> Floats:
    """Smooth noise of sd 1: values at every ``cell`` pixels (and half as many slices), linear between."""
    cells = [max(2, -(-count // step) + 1) for count, step in zip(shape, (max(cell // 2, 1), cell, cell), strict=True)]
    coarse = rng.standard_normal(cells, np.float32)
    fine = ndimage.zoom(coarse, [count / few for count, few in zip(shape, cells, strict=True)], order=1)
    return np.asarray(fine / fine.std(), dtype=np.float32)
