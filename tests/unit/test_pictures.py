"""Pictures of every kind come out as what one sees, in 8 bits and upright."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from flash_ray.data.pictures import BadPicture, decode_picture

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of(values, dtype):
    return Image.fromarray(np.round(values).astype(dtype))


DEEP = {
    "16-bit gray PNG": encoded(of(RAMP * 65_535, np.uint16)),
    "16-bit gray TIFF": encoded(of(RAMP * 65_535, np.uint16), "TIFF"),
    "32-bit TIFF": encoded(of(RAMP * 65_535, np.int32), "TIFF"),
    "float TIFF": encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "8-bit gray": encoded(of(RAMP * 255, np.uint8)),
    "gray JPEG": encoded(of(RAMP * 255, np.uint8), "JPEG", quality=100),
    "palette": encoded(of(RAMP * 255, np.uint8).quantize(256)),
    "CMYK": encoded(of(RAMP * 255, np.uint8).convert("RGB").convert("CMYK"), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_gray_of_any_depth_is_the_same_gray(name):
    picture = decode_picture(DEEP[name])
    assert picture.mode == "RGB"
    seen = np.asarray(picture).astype(float)
    most = 8 if name == "palette" else 2
    assert np.abs(seen - np.round(RAMP * 255)[..., None]).max() <= most


@pytest.mark.parametrize("scale", [-1.0, 300.0, float("nan")])
def test_floats_beyond_their_range_are_refused(scale):
    data = encoded(Image.fromarray((RAMP * scale).astype(np.float32)), "TIFF")
    with pytest.raises(BadPicture, match="F numbers outside 0 to 1"):
        decode_picture(data)


def test_what_may_be_clear_stays_so():
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    gray16 = of(np.full((32, 32), 500), np.uint16)
    for data in (
        encoded(clear),
        encoded(clear.convert("LA")),
        encoded(clear.quantize()),
        encoded(gray16, transparency=500),
    ):
        picture = decode_picture(data)
        assert picture.mode == "RGBA"
        assert np.asarray(picture)[..., 3].max() == 0


@pytest.mark.parametrize(
    ("kind", "depth"),
    [("PNG", np.uint8), ("PNG", np.uint16), ("JPEG", np.uint8), ("WEBP", np.uint8)],
)
def test_a_turned_photograph_is_upright(kind, depth):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.zeros((32, 64), depth)
    values[:, :32] = np.iinfo(depth).max  # white on the left
    picture = decode_picture(encoded(Image.fromarray(values), kind, exif=exif))
    assert picture.size == (32, 64)
    pixels = np.asarray(picture.convert("L"))
    assert pixels[:24].mean() > 250 and pixels[-24:].mean() < 5  # white is above


def png_header(width, height):
    """A PNG that claims to be so large and holds nothing."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    framed = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (b"IHDR" + fields, b"IDAT")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((14_000, 14_000), "above the limit of 178,956,970 pixels"),
        ((17_000, 20), "a side outside 16 to 16384 pixels"),
        ((100, 8), "a side outside 16 to 16384 pixels"),
    ],
)
def test_limits_are_stated_as_limits(size, says):
    with pytest.raises(BadPicture, match=says):
        decode_picture(png_header(*size))


@pytest.mark.parametrize("data", [b"", b"no picture", DEEP["16-bit gray PNG"][:80]])
def test_a_broken_picture_is_called_broken(data):
    with pytest.raises(BadPicture, match="^broken picture$"):
        decode_picture(data)
