"""OCR of rendered text: how many characters of what was to be written can be read.

The models are those in rapidocr's own package, named by path, so nothing is ever downloaded; with
another rapidocr scores may change, which is why its version is bounded narrowly.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore, Runs
from flash_ray.evaluation.judges.choose import require

# Pixels that the shorter side of a smaller picture is enlarged to. Of the words of 96 text cases as
# the miniature draws them it reads 95 % at 128 and 256, 97 % at 320, 100 % at 384, 99 % at 448,
# 100 % at 512 and 98 % at 736, rapidocr's own; enlarged without smoothing 90 % at 384. Smaller is
# faster, and overlooks whole words.
SIDE = 384
DETECTION, RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"


class OcrJudge:
    """Scores 1 - CER, at least 0; cases that ask for no text have no score.

    CER, the character error rate, is the edit distance between the text read and the text wanted,
    over the length wanted. Letters and digits count, whatever their case.
    """

    name = "ocr"
    scale = "characters right, 0 to 1"
    runs: Runs = "worker"  # it loads models

    def __init__(self) -> None:
        validate_missing()

    def can_judge(self, case: Case) -> bool:
        """Whether the case asks for text that has letters or digits."""
        return bool(_letters(case.text or ""))

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3)."""
        return [
            self._score(case.text, image_HW3) if case.text and self.can_judge(case) else _NO_SCORE
            for case, image_HW3 in zip(cases, images_BHW3, strict=True)
        ]

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """It says nothing of a category beyond means."""
        return {}

    def read(self, image_HW3: np.ndarray) -> str:
        """The text in a uint8 picture, from top to bottom; lines are joined by spaces."""
        image = Image.fromarray(image_HW3)
        zoom = max(1, SIDE / min(image.size))
        size = (round(image.width * zoom), round(image.height * zoom))
        result = self._reader(image.resize(size, Image.Resampling.BICUBIC))
        return " ".join(result.txts or ())

    @cached_property
    def _reader(self) -> Any:
        from rapidocr import RapidOCR

        models = files("rapidocr") / "models"
        return RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,  # it turns upside-down lines, which "HOX" is too
                "Det.model_path": str(models / DETECTION),
                "Det.limit_side_len": SIDE,
                "Rec.model_path": str(models / RECOGNITION),
            }
        )

    def _score(self, wanted: str, image_HW3: np.ndarray) -> CaseScore:
        read = self.read(image_HW3)
        rate = error_rate(read, wanted)
        details = {"wanted": wanted, "read": read, "cer": rate}
        return CaseScore(score=max(0.0, 1 - rate), details=details)


_NO_SCORE = CaseScore(score=None)


def error_rate(read: str, wanted: str) -> float:
    """The character error rate, 0 or more; above 1 where more was read than was wanted."""
    from rapidfuzz.distance import Levenshtein

    expected = _letters(wanted)
    return Levenshtein.distance(_letters(read), expected) / len(expected)


def validate_missing() -> None:
    """Raises UserError if the extra is not installed."""
    for module in ("rapidocr", "onnxruntime"):
        require(module, "ocr")


def _letters(text: str) -> str:
    """Letters and digits in one case and form."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in plain if character.isalnum())
