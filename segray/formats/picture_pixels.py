"""The pixels of PNG, JPEG, TIFF, BMP and GIF files: Pillow reads them, ITK those that Pillow would cut to 8 bits.

The size that a header claims is looked at before memory is touched, since a kilobyte of PNG can claim 60,000 x 60,000.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from segray import storage
from segray.errors import CaseError, SegrayError
from segray.formats.folder import file_state
from segray.formats.limits import machine_memory
from segray.formats.png_rows import lacks_rows

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 1 << 28
"""Pixels of the largest picture that is read: 16,384 x 16,384."""

MOST_RATIO = 2000
"""How often the pixels of a PNG, JPEG or BMP can be more than its bytes; deflate reaches 1,032."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
TURNED = range(5, 9)
"""Values of the EXIF tag 274 under which rows are columns of the picture as it is seen."""

ORIENTATION, BITS, PHOTOMETRIC, SAMPLE_FORMAT = 274, 258, 262, 339
"""Tags of TIFF and EXIF."""

GREY_SCALES = {2: 85, 4: 17}
"""What Pillow multiplies grey samples of so many bits by."""

DAMAGES = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError)
"""What Pillow raises where a file is not what it says."""

INFLATING: Any = (isal_zlib.IsalError,)
"""What isal raises for damaged data; its stubs do not say that it is an exception."""

_PILLOW = threading.RLock()


@dataclass(frozen=True)
class PictureHeader:
    """What a picture says about itself before its pixels are read.

    Attributes:
        height: pixels, as the picture is seen.
        width: pixels.
        format: one of :data:`FORMATS`.
        mode: Pillow's word for the pixels; ``deep`` for colours that Pillow does not hold.
        depth: bits a sample.
        orientation: how the rows lie, in the words of EXIF; 1: as they are seen.
    """

    height: int
    width: int
    format: str
    mode: str
    depth: int
    orientation: int = 1

    @property
    def palette(self) -> bool:
        """True where pixels are indices of colours."""
        return self.mode in {"P", "PA"}

    @property
    def colours(self) -> bool:
        """True where a pixel has, or may have, a colour."""
        return self.mode not in {"1", "L", "LA", "La", "I", "F", "deep grey"} and not self.mode.startswith("I;16")


@dataclass(frozen=True)
class Pixels:
    """A picture, without its alpha channel.

    Attributes:
        values: (H, W) grey levels or palette indices, or (H, W, 3) red, green, blue; as the file has them.
        palette: (n, 3) uint8 colours of the indices, else None.
        header: of the file.
        notes: what was repaired.
    """

    values: NDArray[Any]
    palette: NDArray[np.uint8] | None
    header: PictureHeader
    notes: tuple[str, ...] = ()

    def colours(self) -> NDArray[Any]:
        """The picture as it is seen: (H, W) or (H, W, 3). Raises CaseError: an index outside of the palette."""
        if self.palette is None:
            return self.values
        if self.values.max(initial=0) >= len(self.palette):
            raise CaseError(f"A pixel has the colour number {self.values.max()}, and there are {len(self.palette)}.")
        seen: NDArray[Any] = self.palette[self.values]
        return seen


def read_picture_header(path: str) -> PictureHeader:
    """Size and kind of a picture; its pixels are not decoded.

    Raises:
        CaseError: it cannot be read, is no picture, has several pages, or claims more than :data:`MOST_PIXELS`.
    """
    with _opened(path) as (_, header, _):
        return header


def read_pixels(path: str) -> Pixels:
    """A picture, turned as its EXIF tag says. Raises CaseError as :func:`read_picture_header`, or where it is cut."""
    with _opened(path) as (image, header, stream):
        try:
            if image is not None:
                image.load()
            if header.format == "PNG" and lacks_rows(stream):
                raise ValueError("it holds fewer rows than its header claims")
            if image is None or header.mode.startswith("deep"):
                return _deep_pixels(path, header)
            return _pixels(image, header)
        except CaseError:
            raise
        except MemoryError as error:
            raise CaseError(f"{path} does not fit into memory.") from error
        except (*DAMAGES, *INFLATING, RuntimeError, struct.error) as error:
            raise CaseError(
                f"{path} is cut or damaged ({_reason(error)}).", mend="Copy it again from its source."
            ) from error


@contextmanager
def _opened(path: str) -> Iterator[tuple[Image.Image | None, PictureHeader, BinaryIO]]:
    """Pillow's image, None where only ITK reads it, its header and its bytes; Pillow's warnings stay inside."""
    with _PILLOW, warnings.catch_warnings(), _stream(path) as stream:
        warnings.simplefilter("ignore")
        image = _identified(path, stream)
        if image is None:
            yield None, _checked(path, _deep_header(path)), stream
            return
        with image:
            try:
                header = _header(path, image, stream)
            except (*DAMAGES, struct.error) as error:
                raise CaseError(f"{path} has a damaged header ({_reason(error)}).") from error
            yield image, _checked(path, header), stream


@contextmanager
def _stream(path: str) -> Iterator[BinaryIO]:
    try:
        size = file_state(path)[0]
        stream: BinaryIO = io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else _local(path)
    except (SegrayError, OSError) as error:
        told = error.strerror if isinstance(error, OSError) else None
        raise CaseError(f"{path} cannot be read ({told})." if told else str(error)) from error
    with stream:
        if size == 0:
            raise CaseError(f"{path} is empty (0 bytes).", mend="Copy it again from its source.")
        yield stream


def _local(path: str) -> BinaryIO:
    return open(storage.absolute(path), "rb")


def _identified(path: str, stream: BinaryIO) -> Image.Image | None:
    """Pillow's image, its pixels not decoded; None for a TIFF that Pillow does not know. Raises CaseError."""
    from PIL import Image, UnidentifiedImageError

    # Pillow's own limits are lower than segray's and come as warnings; _checked looks at the size.
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        stream.seek(0)
        if stream.read(4) in (b"II*\0", b"MM\0*"):
            return None
        raise CaseError(
            f"{path} is no picture that segray reads, whatever its name.", mend="It reads PNG, JPEG, TIFF, BMP and GIF."
        ) from error
    except (*DAMAGES, MemoryError, struct.error) as error:
        raise CaseError(f"{path} has a damaged header ({_reason(error)}).") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _header(path: str, image: Image.Image, stream: BinaryIO) -> PictureHeader:
    # JPEGs of cameras hold a preview beside the picture; Pillow calls them MPO.
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pages != 1:
        raise CaseError(
            f"{path} holds {pages} pictures; a case is one picture.", mend="Save each page as a file of its own."
        )
    depth, samples = _depth(image, stream)
    width, height = image.size
    orientation = _orientation(image)
    if orientation in TURNED:
        width, height = height, width
    mode = image.mode
    if depth > 8 and samples > 1:
        mode = "deep grey" if samples == 2 else "deep"
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return PictureHeader(height, width, kind, mode, depth, orientation)


def _orientation(image: Image.Image) -> int:
    """The EXIF tag, where it lies before the pixels; TIFF is turned by Pillow itself."""
    # Of a PNG without it, Pillow would decode all pixels, to see whether it comes behind them.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    told = image.getexif().get(ORIENTATION, 1)
    return told if told in range(2, 9) else 1


def _depth(image: Image.Image, stream: BinaryIO) -> tuple[int, int]:
    """Bits of a sample and samples of a pixel as the file stores them, which Pillow's mode does not tell."""
    if image.format == "PNG":
        place = stream.tell()
        stream.seek(24)
        depth, kind = stream.read(2)
        stream.seek(place)
        return depth, {2: 3, 4: 2, 6: 4}.get(kind, 1)
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS, (1,))  # type: ignore[attr-defined]
        bits = bits if isinstance(bits, tuple) else (bits,)
        return int(max(bits)), len(bits)
    return (32, 1) if image.mode in {"I", "F"} else (1 if image.mode == "1" else 8, len(image.getbands()))


def _checked(path: str, header: PictureHeader) -> PictureHeader:
    """Refuse what cannot be a picture or cannot be held, by the header's own arithmetic. Raises CaseError."""
    pixels = header.height * header.width
    if pixels < 1:
        raise CaseError(f"{path} has no pixels.")
    claim = f"{path} claims {header.width:,} x {header.height:,} pixels"
    if pixels > MOST_PIXELS:
        raise CaseError(
            f"{claim}; segray reads pictures of up to {MOST_PIXELS:,}.", mend="Cut it into tiles, or make it smaller."
        )
    needed = pixels * (3 if header.colours and not header.palette else 1) * max(header.depth, 1) // 8
    if needed * 4 > machine_memory():
        raise CaseError(f"{claim}, more than fits into the memory of this machine.")
    if header.format in {"PNG", "JPEG", "BMP"} and needed > file_state(path)[0] * MOST_RATIO:
        raise CaseError(f"{claim}, but it is far too small for them.", mend="Copy it again from its source.")
    return header


def _pixels(image: Image.Image, header: PictureHeader) -> Pixels:
    from PIL import ImageOps

    palette: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()
    if header.orientation != 1:
        image = ImageOps.exif_transpose(image)
        notes = ("The picture was turned as its EXIF tag says.",)
    if header.palette:
        table = image.getpalette("RGB") or []
        palette = np.array(table, np.uint8).reshape(-1, 3)
    elif image.mode in {"CMYK", "YCbCr", "HSV"}:
        image = image.convert("RGB")
    values = _values(np.asarray(image), header, _tags(image))
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    elif values.ndim != 2:
        raise CaseError("The picture has neither one channel nor three.")
    return Pixels(values, palette, header, notes)


def _tags(image: Image.Image) -> dict[int, Any]:
    return dict(getattr(image, "tag_v2", {}))


def _values(stored: NDArray[Any], header: PictureHeader, tags: dict[int, Any]) -> NDArray[Any]:
    """The samples as the file has them, in native byte order."""
    values = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if header.mode == "L" and header.depth in GREY_SCALES:
        return values // np.uint8(GREY_SCALES[header.depth])
    if header.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == 0:
        return np.uint16((1 << header.depth) - 1) - values
    unsigned = tags.get(SAMPLE_FORMAT, (1,)) in (1, (1,))
    if header.mode == "I" and header.format == "TIFF" and header.depth == 32 and unsigned:
        return values.view(np.uint32)
    return values


def _deep_header(path: str) -> PictureHeader:
    with _itk_reader(path) as reader:
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        words = _itk().GetPixelIDValueAsString(reader.GetPixelID())
    if len(size) > 2 and any(side != 1 for side in size[2:]):
        raise CaseError(f"{path} holds {size[2]} pictures; a case is one picture.")
    if components not in (1, 2, 3, 4):
        raise CaseError(f"{path} has {components} channels; segray reads pictures of one or three.")
    depth = 64 if "64" in words else 32 if "32" in words else 16 if "16" in words else 8
    return PictureHeader(size[1], size[0], "TIFF", "deep" if components > 2 else "deep grey", depth)


def _deep_pixels(path: str, header: PictureHeader) -> Pixels:
    with _itk_reader(path) as reader:
        values = _itk().GetArrayFromImage(reader.Execute())
    if values.ndim > 2 and values.shape[0] == 1 and values.shape[1:3] == (header.height, header.width):
        values = values[0]
    if values.shape[:2] != (header.height, header.width):
        raise CaseError(f"{path} is read differently by Pillow and ITK.", mend="Save it again as PNG.")
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] > 2 else values[..., 0]
    return Pixels(values, None, header)


@contextmanager
def _itk_reader(path: str) -> Iterator[Any]:
    """A reader that has read the header. Raises CaseError."""
    with tempfile.TemporaryDirectory(prefix="segray-") as folder:
        place = storage.absolute(path)
        if storage.is_remote(path):
            place = os.path.join(folder, path.rsplit("/", 1)[-1])
            with open(place, "wb") as stream:
                stream.write(storage.read_bytes(path))
        reader = _itk().ImageFileReader()
        reader.SetImageIO("PNGImageIO" if path.lower().endswith(".png") else "TIFFImageIO")
        reader.SetFileName(place)
        try:
            reader.ReadImageInformation()
            yield reader
        except RuntimeError as error:
            raise CaseError(f"{path} is cut, damaged or of a kind that segray does not read.") from error


def _itk() -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160].rstrip(".") if lines else type(error).__name__
