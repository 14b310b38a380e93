"""The letters that signs of the miniature world are written with."""

import numpy as np

from flash_ray.miniature.scenes import LETTERS

# Five columns by seven rows for each of LETTERS.
_GLYPHS = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "X": "10001 10001 01010 00100 01010 10001 10001",
}
# One cell of margin all round lets bilinear reading fall off to zero.
GLYPHS = np.stack(
    [
        np.pad(np.array([[int(bit) for bit in row] for row in _GLYPHS[letter].split()]), 1)
        for letter in LETTERS
    ]
).astype(np.float32)
