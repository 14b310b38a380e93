"""Pictures that clients send: of any shape and depth, broken, too many, too large."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flash_ray.serving import images
from flash_ray.serving.images import png
from flash_ray.serving.routes import images as images_routes
from tests.helpers.serving import edit, error


@pytest.mark.parametrize(
    "size",
    [(7, 200), (200, 7), (3, 600), (1, 64), (64, 1), (1000, 1), (16, 3300), (2000, 20), (1, 1)],
)
def test_elongated_pictures_are_drawn_or_refused(client, size):
    answer = edit(client, png(Image.new("RGB", size)))
    if max(size) <= 8 * min(size):
        assert answer.status_code == 200
    else:
        error(answer, 400, "image", f"{size[0]}x{size[1]}", "cut the picture")


def test_an_edit_has_the_shape_of_its_first_picture(client):
    def size(picture, **fields):
        return edit(client, png(picture), steps=1, **fields).json()["size"]

    assert size(Image.new("RGB", (64, 64))) == "64x64"
    assert size(Image.new("RGB", (1000, 500))) == "96x64"
    assert size(Image.new("RGB", (500, 1000))) == "64x96"
    assert size(Image.new("RGB", (400, 100))) == "128x32"
    assert size(Image.new("RGB", (1000, 500)), size="64x64") == "64x64"


def test_uploads_are_taken_as_they_look(client, monkeypatch):
    """What reaches the model is small, upright, and of 8 bits."""
    seen = []
    real = images.png
    monkeypatch.setattr(images_routes, "png", lambda picture: seen.append(picture) or real(picture))

    def upload(picture, kind="PNG", **options):
        file = BytesIO()
        picture.save(file, kind, **options)
        assert edit(client, file.getvalue(), steps=1).status_code == 200
        return seen.pop()

    left = Image.new("RGB", (300, 200))
    left.paste((255, 255, 255), (0, 0, 150, 200))
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down: what was left is right
    for kind in ("JPEG", "PNG", "WEBP"):
        shown = upload(left, kind, exif=turned)
        assert shown.width * shown.height <= 4 * 64 * 64 * 1.02
        assert shown.getpixel((0, 0))[0] < 9 and shown.getpixel((shown.width - 1, 0))[0] > 246
    gray = Image.fromarray(np.full((64, 64), 128 * 256, np.uint16))
    assert upload(gray).getpixel((5, 5)) == (128, 128, 128)
    clear = Image.new("P", (64, 64))
    clear.info["transparency"] = 0
    assert upload(clear, transparency=0).getpixel((5, 5))[3] == 0


def test_uploads_that_are_no_pictures_are_errors(client):
    whole = png(np.zeros((64, 64, 3), np.uint8))
    assert edit(client, whole).status_code == 200
    error(edit(client, b"not a picture"), 400, "image", "cannot be read")
    error(edit(client, whole[: len(whole) // 2]), 400, "image", "cannot be read")
    for side in (6_000, 20_000):  # above our limit, above Pillow's own
        bomb = BytesIO()
        Image.new("1", (side, side)).save(bomb, "PNG")
        assert len(bomb.getvalue()) < 100_000
        error(edit(client, bomb.getvalue()), 400, "image", "too many pixels")
    gif = BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    error(edit(client, gif.getvalue()), 400, "image", "PNG, JPEG or WebP")
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    error(edit(client, png(noise)), 400, "image", "at most 100000")
    error(edit(client, bytes(4 * 2**20)), 413, None)
    error(client.post("/v1/images/edits", data={"model": "plain", "prompt": "x"}), 400, "image")


def test_bodies_without_a_length_are_bounded_too(client):
    pieces = (b" " * 65536 for _ in range(64))
    error(client.post("/v1/images/generations", content=pieces), 413, None)
