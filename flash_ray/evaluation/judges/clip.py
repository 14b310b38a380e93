"""CLIP and its kin as a judge: how near a picture is to its prompt, and an edit to its input."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore, Runs
from flash_ray.models.loading import asking_hub, hub_answers

if TYPE_CHECKING:
    import torch
    from PIL import Image

# PickScore is a CLIP that was trained on what people prefer.
KINDS = ("clip", "siglip", "siglip2")
BATCH = 16  # cases that are embedded together
_ON_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


class ClipJudge:
    """Scores the cosine similarity of prompt and picture under a checkpoint of transformers.

    Edits have a measure `likeness`, the cosine similarity of the result and its first input. A
    prompt is cut off where the model reads no further; `cut_off` counts such prompts.

    Args:
        model: a folder of `save_pretrained`, or a hub id, owner/name or owner/name@revision.

    Raises:
        UserError: there is no such checkpoint, or it is of another kind.
    """

    scale = "cosine similarity, -1 to 1"
    runs: Runs = "worker"

    def __init__(self, model: str):
        self._source, self._revision = model, None
        if not Path(model).is_dir():
            self._source, self._revision = _on_hub(model)
        kind = _kind(self._source, self._revision)
        if kind not in KINDS:
            raise UserError(
                f"--judge clip:{model}: a {kind!r} model; allowed: {', '.join(KINDS)}; choose "
                "another checkpoint"
            )
        self.name = f"clip:{Path(model).name if Path(model).is_dir() else model}"

    def can_judge(self, case: Case) -> bool:
        """Every case has a prompt."""
        return True

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3)."""
        scores = []
        for start in range(0, len(cases), BATCH):
            chosen = slice(start, start + BATCH)
            scores += self._batch(cases[chosen], list(images_BHW3[chosen]))
        return scores

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """How many prompts are longer than the model reads; nothing if none is."""
        count = sum(score.details["cut_off"] for score in scores)
        return {"cut_off": count} if count else {}

    def _batch(self, cases: Sequence[Case], images_BHW3: list[np.ndarray]) -> list[CaseScore]:
        from PIL import Image

        edits = [index for index, case in enumerate(cases) if case.references]
        pictures = [Image.fromarray(image_HW3) for image_HW3 in images_BHW3]
        pictures += [cases[index].references[0].convert("RGB") for index in edits]
        prompts = [case.prompt for case in cases]
        text_BD, image_PD = self._loaded.embed(prompts, pictures)
        alignment_B = np.sum(text_BD * image_PD[: len(cases)], axis=1)
        likeness = dict(
            zip(edits, np.sum(image_PD[edits] * image_PD[len(cases) :], axis=1), strict=True)
        )
        cut_off = self._loaded.cut_off(prompts)
        return [
            CaseScore(
                score=float(alignment_B[index]),
                measures={"likeness": float(likeness[index])} if index in likeness else {},
                details={"cut_off": cut_off[index]},
            )
            for index in range(len(cases))
        ]

    @cached_property
    def _loaded(self) -> "_Embedder":
        import torch
        from transformers import AutoModel, AutoProcessor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        where = {"revision": self._revision, "local_files_only": self._offline}
        try:
            with asking_hub():
                model = AutoModel.from_pretrained(self._source, use_safetensors=True, **where)
                processor = AutoProcessor.from_pretrained(self._source, **where)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"--judge {self.name}: {self._source} cannot be loaded ({reason}); allowed: a "
                "checkpoint with safetensors, its tokenizer and its image processor"
            ) from error
        return _Embedder(model.eval().to(device), processor)

    @property
    def _offline(self) -> bool:
        return Path(self._source).is_dir() or not hub_answers()


class _Embedder(NamedTuple):
    """A checkpoint, and what makes its inputs."""

    model: Any
    processor: Any

    @property
    def _most(self) -> int:
        """Tokens of a prompt that the model reads."""
        return int(self.model.config.text_config.max_position_embeddings)

    def embed(
        self, prompts: list[str], pictures: "list[Image.Image]"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors of prompts and of pictures."""
        import torch

        inputs = self.processor(
            text=prompts,
            images=pictures,
            return_tensors="pt",
            padding="max_length",  # SigLIP was trained so; CLIP does not mind
            truncation=True,
            max_length=self._most,
        )
        with torch.inference_mode():
            found = self.model(**inputs.to(self.model.device))
        return _unit(found.text_embeds), _unit(found.image_embeds)

    def cut_off(self, prompts: list[str]) -> list[bool]:
        """Whether each prompt is longer than the model reads."""
        ids = self.processor.tokenizer(prompts, truncation=False, padding=False)["input_ids"]
        return [len(tokens) > self._most for tokens in ids]


def _unit(vectors_BD: "torch.Tensor") -> np.ndarray:
    from torch.nn.functional import normalize

    return normalize(vectors_BD.float(), dim=-1).cpu().numpy()


def _on_hub(model: str) -> tuple[str, str | None]:
    """The hub id and the revision that a word names."""
    if not (found := _ON_HUB.fullmatch(model)):
        raise UserError(
            f"--judge clip:{model}: no folder; allowed: a folder written by save_pretrained, or a "
            "hub id such as owner/name; check the name"
        )
    return found[1], found[2]


def _kind(source: str, revision: str | None) -> str:
    """The model type that a checkpoint's config.json states."""
    try:
        if Path(source).is_dir():
            file = Path(source) / "config.json"
        else:
            from huggingface_hub import hf_hub_download

            offline = not hub_answers()
            with asking_hub():
                found = hf_hub_download(
                    source, "config.json", revision=revision, local_files_only=offline
                )
            file = Path(found)
        return str(json.loads(file.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--judge clip:{source}: no model's config.json there ({reason}); allowed: a folder "
            "written by save_pretrained, or a hub id that can be reached or is in the cache"
        ) from error
