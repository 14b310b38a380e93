"""OCR of rendered text: how many characters of what was to be written can be read.

The models are those in rapidocr's own package, named by path, so nothing is ever downloaded; with
another rapidocr scores may change, which is why its version is bounded narrowly.
"""

import unicodedata
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from PIL import Image

from flash_ray.data.rows import QUOTED
from flash_ray.evaluation.judges.base import CaseScore, require
from flash_ray.miniature.benchmark import Case
from flash_ray.miniature.edits import Edit
from flash_ray.miniature.scenes import Scene

# Pixels that the shorter side of a smaller picture is enlarged to. Of the words of 96 text cases as
# the miniature draws them it reads 95 % at 128 and 256, 97 % at 320, 100 % at 384, 99 % at 448,
# 100 % at 512 and 98 % at 736, rapidocr's own; enlarged without smoothing 90 % at 384. Smaller is
# faster, and overlooks whole words.
SIDE = 384
DETECTION, RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"


class OcrJudge:
    """Scores 1 + 4 * (1 - CER), at least 1; cases that ask for no text have no opinion.

    CER, the character error rate, is the edit distance between the text read and the text wanted,
    over the length wanted. Letters and digits count, whatever their case.
    """

    name = "ocr"

    def __init__(self) -> None:
        validate_missing()
        from rapidocr import RapidOCR

        models = files("rapidocr") / "models"
        self._read = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,  # it turns upside-down lines, which "HOX" is too
                "Det.model_path": str(models / DETECTION),
                "Det.limit_side_len": SIDE,
                "Rec.model_path": str(models / RECOGNITION),
            }
        )

    def judge(self, cases: Sequence[Case], pictures_BHW3: np.ndarray) -> list[CaseScore]:
        """One opinion of each uint8 picture, (cases, H, W, 3)."""
        return [
            self._opinion(wanted_text(case), picture)
            for case, picture in zip(cases, pictures_BHW3, strict=True)
        ]

    def read(self, picture_HW3: np.ndarray) -> str:
        """The text in a uint8 picture, from top to bottom; lines are joined by spaces."""
        image = Image.fromarray(picture_HW3)
        zoom = max(1, SIDE / min(image.size))
        size = (round(image.width * zoom), round(image.height * zoom))
        found = self._read(image.resize(size, Image.Resampling.BICUBIC))
        return " ".join(found.txts or ())

    def _opinion(self, wanted: str | None, picture_HW3: np.ndarray) -> CaseScore:
        if not wanted or not _letters(wanted):
            return CaseScore(score=None)
        read = self.read(picture_HW3)
        rate = error_rate(read, wanted)
        details = {"wanted": wanted, "read": read, "cer": rate}
        return CaseScore(score=1 + 4 * max(0.0, 1 - rate), details=details)


def error_rate(read: str, wanted: str) -> float:
    """The character error rate, 0 or more; above 1 where more was read than was wanted."""
    from rapidfuzz.distance import Levenshtein

    expected = _letters(wanted)
    return Levenshtein.distance(_letters(read), expected) / len(expected)


def wanted_text(case: Case) -> str | None:
    """The text that a case asks for: the miniature's word, else what its prompt has in quotation
    marks; None if there is none."""
    scene = case.wanted.target if isinstance(case.wanted, Edit) else case.wanted
    if isinstance(scene, Scene):
        return scene.word if case.category == "text" else None
    return " ".join(found.group()[1:-1] for found in QUOTED.finditer(case.prompt)) or None


def validate_missing() -> None:
    """Raises UserError if the extra is not installed."""
    for module in ("rapidocr", "onnxruntime", "rapidfuzz"):
        require(module, "ocr")


def _letters(text: str) -> str:
    """Letters and digits in one case and form."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in plain if character.isalnum())
