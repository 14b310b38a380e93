"""Qwen-Image-2.1 behind the model interface, on top of diffusers' own pipeline."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from flash_ray.errors import UserError
from flash_ray.models import vae
from flash_ray.models.adapters import Adapted, Adapters
from flash_ray.models.base import Condition, ConditionPair, Layout, PromptCache, shapes_of
from flash_ray.models.loading import INDEX, asking_hub, import_components, on_hub, read_config
from flash_ray.models.lora import read_lora
from flash_ray.models.lora_source import LORA
from flash_ray.models.schedule import save_unshifted, scheduled, validate_scheduler
from flash_ray.models.student_files import load_whole
from flash_ray.models.user_text import as_text, user_text
from flash_ray.models.vae import kind
from flash_ray.recipe.sizes import follow_aspect

# Imported where they are used: commands ask a family about a checkpoint and load no model.
if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
    from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline

STEPS = 40  # of the pipeline, where the checkpoint states no sigmas
CONFIG = "transformer/config.json"
PROMPTS = 16  # encoded at once


class QwenImage21:
    """Encodes and decodes as `QwenImage21Pipeline` does, with the pipeline's own methods."""

    name = "qwen-image-2.1"
    pipeline_class = "QwenImage21Pipeline"

    def __init__(self, pipeline: "QwenImage21Pipeline"):
        self.pipeline = pipeline
        self._adapters: Adapters | None = None
        self._loaded = count()  # LoRAs, whose names are these numbers
        self._shapes = shapes_of(pipeline.transformer) if pipeline.transformer is not None else {}
        self._empty: dict[Layout, Condition] = {}  # the empty prompt's
        if pipeline.transformer is not None:
            from flash_ray.models.qwen_image_21_patch import patched

            patched(pipeline.transformer)
        for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
            if part is not None:
                part.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        encoders: bool = True,
        transformer: bool = True,
        vae: bool = True,
    ) -> Self:
        """Loads a checkpoint from a folder or a hub id.

        Args:
            encoders: False leaves out the text encoder, the largest part; `encode` then fails.
            transformer: False leaves that out: `velocity` and `to_images` work, with another one.
            vae: False leaves that out: pictures are neither encoded nor decoded.

        Raises:
            UserError: no Qwen-Image-2.1 pipeline can be loaded from `source`.
        """
        from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline

        from flash_ray.models.processor import without_video

        wanted = {"text_encoder": encoders, "transformer": transformer, "vae": vae}
        given: dict[str, Any] = {part: None for part, is_wanted in wanted.items() if not is_wanted}
        try:
            import_components(source)
            given |= without_video(source)
            name, revision = on_hub(source)
            with asking_hub():
                pipeline = QwenImage21Pipeline.from_pretrained(
                    name, revision=revision, dtype=dtype, **given
                )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"base: cannot load {str(source)!r} ({reason}); give a folder written by "
                "save_pretrained, or an id owner/name of the Hugging Face hub"
            ) from error
        return cls(pipeline.to(device))

    @staticmethod
    def own_sigmas(source: str | Path) -> list[float]:
        """The `sigmas` with which the pipeline samples when a call names none, before its
        scheduler shifts them, from the configuration alone.

        Raises:
            ValueError: the scheduler does not sample by Euler's method.
        """
        validate_scheduler(source)
        sigmas = read_config(source, INDEX).get("sample_sigmas")
        return list(np.linspace(1.0, 1 / STEPS, STEPS) if sigmas is None else sigmas)

    @staticmethod
    def transformer_shapes(source: str | Path) -> dict[str, list[int]]:
        """Shapes of the transformer's weights by name, from its configuration alone."""
        config = read_config(source, CONFIG)
        with torch.device("meta"):
            transformer = _transformer_class().from_config(config)
        return shapes_of(transformer)

    @staticmethod
    def check_lora(file: Path, source: str | Path) -> None:
        """Checks that a LoRA fits the transformer of `source` and is finite, a matrix at a time.

        Raises:
            BadLora: it cannot be read, is of a kind that cannot be loaded, or does not fit.
        """
        read_lora(file, QwenImage21.transformer_shapes(source), check_only=True)

    @staticmethod
    def transformer_channels(source: str | Path) -> int:
        """C of the latents that the transformer takes, from its configuration alone."""
        return read_config(source, CONFIG)["in_channels"]

    @property
    def latent_channels(self) -> int:
        """C of x_BNC."""
        if self.pipeline.transformer is None:
            return self.pipeline.latent_channels
        return int(self.transformer.config["in_channels"])

    @property
    def transformer(self) -> "QwenImage21Transformer2DModel":
        """The base transformer, frozen, in eval mode."""
        return self.pipeline.transformer

    def to(self, device: torch.device | str) -> None:
        """Moves all parts to a device."""
        self.pipeline.to(device)

    def compile_blocks(self) -> None:
        """Has the transformer's blocks compiled when they are first called; copies of it too."""
        self.transformer.compile_blocks()

    def copy_transformer(self) -> "QwenImage21Transformer2DModel":
        """A trainable deep copy of the base transformer; ValueError once a LoRA is added."""
        if self._adapters is not None and self._adapters.names:
            raise ValueError("copy the transformer before a LoRA is added")
        return copy.deepcopy(self.transformer).requires_grad_(True).train()

    @property
    def adapters(self) -> Adapters:
        """The LoRAs on the base transformer: whoever uses one has it activated here."""
        if self._adapters is None:
            self._adapters = Adapters(cast(Any, self.transformer))
        return self._adapters

    @property
    def lora_targets(self) -> list[str]:
        """All linear layers of the transformer's blocks."""
        in_blocks = {k: v for k, v in self._shapes.items() if k.startswith("transformer_blocks.")}
        return [k.removesuffix(".weight") for k, shape in in_blocks.items() if len(shape) == 2]

    def load_transformer(self, source: Path | str, device: torch.device | None = None) -> nn.Module:
        """Loads the transformer in a folder or of a hub id, which may be a pipeline's, with the
        base's dtype and, by default, device, frozen; or a LoRA's folder, onto the base.

        Raises:
            UserError: there is none, or it has another shape than the base's.
        """
        if (file := Path(source) / LORA).is_file():
            self.adapters.remove_unused()
            try:
                self.add_lora(file, name := f"loaded-{next(self._loaded)}")
            except UserError as error:
                raise UserError(f"transformer: {error}") from error
            return self.adapters.lend(name)
        base_device, dtype = kind(self.transformer)
        return load_whole(_transformer_class(), source, device or base_device, dtype, self._shapes)

    def add_lora(self, file: Path, name: str) -> None:
        """Adds the LoRA in `file`, of any format that `read_lora` reads, frozen and not in use.

        Raises:
            UserError: it cannot be read, or does not fit the transformer.
        """
        try:
            matrices, settings = read_lora(file, self._shapes)
            self.pipeline.load_lora_into_transformer(
                matrices, self.transformer, adapter_name=name, metadata=settings
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the LoRA {file} {reason}; give one that was trained on this base"
            ) from error
        self.adapters.adopt()

    @torch.no_grad()
    def encode(
        self,
        prompts: list[str],
        references: list[list[Image.Image]] | None,
        size: tuple[int, int],
    ) -> ConditionPair:
        """Encodes prompts, for edits each with its own reference images.

        A prompt is text whatever it says: its words never become control tokens of the tokenizer.

        Args:
            references: one list of images for each prompt; None for T2I.
            size: (height, width) of the output in pixels. References are resized to its area, each
                in its own aspect ratio, as the pipeline does.

        Raises:
            ValueError: the cases do not share a layout, or the text encoder was left out.
        """
        if self.pipeline.text_encoder is None:
            raise ValueError("encode needs the text encoder: load with encoders=True")
        if references is None:
            layout = Layout("t2i", *size)
            if layout not in self._empty:
                self._empty[layout] = self._encode_prompts([""], layout)
            return ConditionPair(
                self._encode_prompts(prompts, layout), self._empty[layout].rows([0] * len(prompts))
            )
        resized, latents_BNC, layout = self._encode_references(references, size)
        return ConditionPair(
            self._encode_prompts(prompts, layout, resized, latents_BNC),
            self._encode_prompts([""] * len(prompts), layout, resized, latents_BNC),
        )

    def velocity(
        self,
        transformer: Callable[..., Any],
        x_BNC: Tensor,
        t_B: Tensor,
        condition: Condition,
        cache: PromptCache | None = None,
    ) -> Tensor:
        """Predicts v_BNC at z_t = x_BNC for times t_B in [0, 1], in x_BNC's dtype.

        Args:
            transformer: one of this model's, or what is called like it and has it as `module`.
            cache: filled by the first call and reused by later ones. While gradients are on, only
                one with `graph` is: another would cut them off from the text's keys and values.
        """
        from flash_ray.models.qwen_image_21_patch import plan_of

        module: Any = getattr(transformer, "module", transformer)  # that of a learner
        condition = condition.to(x_BNC.device, dtype := kind(module)[1])
        if cache and torch.is_grad_enabled() and not cache.graph:
            cache = None
        v_BNC: Tensor = transformer(
            x_BNC=x_BNC.to(dtype),
            t_B=t_B,
            condition=condition,
            plan=plan_of(module, condition),
            cache=cache,
        )
        return v_BNC.to(x_BNC.dtype)

    def scheduled(self, sigmas: Sequence[float], layout: Layout) -> list[float]:
        """The noise levels at which the pipeline takes the steps of a call with these `sigmas`."""
        return scheduled(self.pipeline.scheduler, sigmas, layout.tokens)

    def save_student(self, transformer: nn.Module, folder: Path) -> None:
        """Saves a transformer, or a LoRA of the base, as the pipeline loads it, and a scheduler
        config with which the pipeline takes its `sigmas` as they are."""
        if isinstance(transformer, Adapted):
            adapters, name = transformer.adapters, transformer.name
            self.pipeline.save_lora_weights(
                folder,
                transformer_lora_layers=dict(adapters.state_dict(name)),
                transformer_lora_adapter_metadata=adapters.settings(name),
            )
        else:
            cast("QwenImage21Transformer2DModel", transformer).save_pretrained(folder)
        save_unshifted(self.pipeline.scheduler, folder / "scheduler")

    def to_latents(self, images: list[Image.Image]) -> Tensor:
        """Encodes images of one size (sides multiples of 32, opaque) by the VAE's mean: x_BNC."""
        preprocess = self.pipeline.image_processor.preprocess
        return vae.to_latents(
            self.pipeline, torch.cat([preprocess(image.convert("RGBA")) for image in images])
        )

    def to_images(self, x_BNC: Tensor, layout: Layout) -> np.ndarray:
        """Decodes latents to RGB images, uint8, (B, H, W, 3); the alpha channel is dropped."""
        return np.ascontiguousarray(self.to_rgba(x_BNC, layout)[..., :3])

    def to_rgba(self, x_BNC: Tensor, layout: Layout) -> np.ndarray:
        """Decodes latents to RGBA images, uint8, (B, H, W, 4)."""
        pixels = vae.to_pixels(self.pipeline, x_BNC, layout)
        values = self.pipeline.image_processor.postprocess(pixels, output_type="np")
        return (values * 255).round().astype(np.uint8)

    def _encode_references(
        self, references: list[list[Image.Image]], size: tuple[int, int]
    ) -> tuple[list[list[Image.Image]], Tensor, Layout]:
        """Resized images of each case, their latents one after another, the cases' layout."""
        processor = self.pipeline.image_processor
        resized, latents = [], []
        for position in zip(*references, strict=True):  # the cases' first images, then second...
            pixels = []
            for image in position:
                height, width = follow_aspect((image.height, image.width), size)
                rgba = image.convert("RGBA")
                resized.append(processor.resize(rgba, width=width, height=height))
                pixels.append(processor.preprocess(rgba, width=width, height=height))
            shapes = {tuple(values.shape[-2:]) for values in pixels}
            if len(shapes) != 1:
                raise ValueError(f"one layout per batch, got references of {sorted(shapes)}")
            latents.append(vae.to_latents(self.pipeline, torch.cat(pixels)))
        cases = [resized[index :: len(references)] for index in range(len(references))]
        sides = tuple((image.height, image.width) for image in cases[0])
        return cases, torch.cat(latents, dim=1), Layout("edit", *size, sides)

    def _encode_prompts(
        self,
        prompts: list[str],
        layout: Layout,
        images: list[list[Image.Image]] | None = None,
        references_BNC: Tensor | None = None,
    ) -> Condition:
        shown = sum(height * width for height, width in layout.references)
        rows = min(PROMPTS, vae.at_once(shown)) if shown else PROMPTS
        parts = []
        for start in range(0, len(prompts), rows):
            part = slice(start, start + rows)
            parts.append(self._encode_part(prompts[part], layout, images and images[part]))
        return replace(Condition.cat(parts), references_BNC=references_BNC)

    def _encode_part(
        self, prompts: list[str], layout: Layout, images: list[list[Image.Image]] | None
    ) -> Condition:
        # The pipeline only walks through them, so they need not be the list that it asks for.
        images_by_prompt: Any = None if images is None else _ImagesByPrompt(images)
        device, _ = kind(self.pipeline.text_encoder)
        processor = self.pipeline.processor
        texts = [as_text(prompt, processor.tokenizer) for prompt in prompts]
        with user_text(processor):
            embeds_BLD, mask_BL, slots_BL = self.pipeline.encode_prompt(
                texts, images_by_prompt, device
            )
        slots_BL = slots_BL.bool()
        if mask_BL is None:  # nothing is padded
            mask_BL = torch.ones_like(slots_BL)
        return Condition(
            layout, embeds_BLD.masked_fill(slots_BL[..., None], 0), mask_BL.bool(), slots_BL
        )


class _ImagesByPrompt:
    """Stands for the pipeline's one list of images, and gives each prompt of a batch other ones.

    The pipeline walks through the list once for every prompt, in order.
    """

    def __init__(self, images: list[list[Image.Image]]):
        self._images = iter(images)
        self._length = len(images[0])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Image.Image]:
        return iter(next(self._images))


def _transformer_class() -> Any:
    """Of diffusers with our patch; its types say that it may return tuples."""
    from flash_ray.models.qwen_image_21_patch import QwenImage21Transformer2DModel

    return QwenImage21Transformer2DModel
