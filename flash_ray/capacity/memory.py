"""The memory model: the bytes that each kind of process holds. `estimate` and `plan` use it.

It follows the code as it is. A full student and its fake score are DeepSpeed engines
(`trainer.learners`), LoRAs are trained as `trainer.adapter_learner` does. What a network holds all
the time is counted by role; what comes and goes is counted by phase, of which the largest matters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flash_ray.capacity.coding import decoding, encoding
from flash_ray.capacity.device import GIB, DeviceMemory, Held, Phase
from flash_ray.capacity.pipeline import PACKINGS, Packing, Pipeline
from flash_ray.capacity.workload import Assumptions, TaskTokens, task_tokens, teachers_at_once
from flash_ray.recipe import Recipe
from flash_ray.recipe.sections import Lora
from flash_ray.teachers.protocol import Group, groups, teachers_share_base

FP32 = 4  # bytes of a value
BUCKET = 500_000_000  # elements of DeepSpeed's buffer for gradients, as `learners` sets it
LIVE = 1_000_000_000  # weights that ZeRO 3 keeps gathered
LIVE_BASE = 500_000_000  # of a sharded base, as `trainer.sharded_base` sets it
STEPPED = 100_000_000  # weights that it steps at once
ENGINES = 2  # the student and the fake score
TEACHER_LORA = Lora()  # the size that a LoRA teacher is taken to have


@dataclass(frozen=True)
class _Passes:
    """Bytes of the longest micro-batch's passes through the transformer.

    Args:
        kept: for the backward pass, from the forward pass on.
        kept_prefix: the part of it that is text and references.
        forward, backward: at work in one layer, beside what is kept.
        prefix, negative_prefix: keys and values of all layers.
    """

    kept: float
    kept_prefix: float
    forward: float
    backward: float
    prefix: float
    negative_prefix: float

    def of_teachers(self, recipe: Recipe, group: Group) -> float:
        """The prefixes that a group's teachers hold for one request."""
        guided = any(recipe.guidance_of(recipe.teachers[i])[0] != 1.0 for i in group.members)
        sides = self.prefix + (self.negative_prefix if guided else 0.0)
        return teachers_at_once(recipe, group.members) * sides


@dataclass(frozen=True)
class MemoryModel:
    """The memory of a recipe's processes.

    Args:
        stage: of ZeRO, for full students.
        workers: that train.
    """

    recipe: Recipe
    pipeline: Pipeline
    assumed: Assumptions
    stage: int
    workers: int
    tasks: tuple[TaskTokens, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(task_tokens(self.recipe, self.assumed)))

    @property
    def value(self) -> int:
        """Bytes of a weight in the recipe's precision."""
        return 2 if self.recipe.training.precision == "bf16" else 4

    @property
    def is_lora(self) -> bool:
        """Whether LoRAs are trained."""
        return self.recipe.student.weights == "lora"

    @property
    def is_base_sharded(self) -> bool:
        """Whether the workers share out the base on which LoRAs stand."""
        return self.is_lora and self.recipe.runtime.base == "sharded"

    @property
    def parameters(self) -> int:
        """Weights of the whole transformer."""
        return self.pipeline.transformer.parameters

    @property
    def trained(self) -> tuple[int, int]:
        """Weights that the student and the fake score train."""
        if not self.is_lora:
            return self.parameters, self.parameters
        student = self.recipe.student.lora or Lora()
        fake_score = self.recipe.training.fake_score.lora or student
        architecture = self.pipeline.transformer
        return architecture.lora_parameters(student), architecture.lora_parameters(fake_score)

    @property
    def optimizers(self) -> tuple[int, int]:
        """Bytes a weight of the student's and the fake score's optimizer: the weight in fp32, and
        Adam's moments, of which beta1 = 0 needs but one."""
        training = self.recipe.training
        adams = training.optimizer, training.fake_score.optimizer
        student, fake_score = (FP32 * (3 if adam.betas[0] else 2) for adam in adams)
        return student, fake_score

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint: what the optimizers hold, and the average."""
        student, fake_score = self.trained
        of_student, of_fake_score = self.optimizers
        return student * (of_student + FP32) + fake_score * of_fake_score

    @property
    def student_file(self) -> int:
        """Bytes of the published weights."""
        return self.value * self.trained[0]

    def trainer(self, teachers_inside: bool) -> DeviceMemory:
        """A training worker, with the teachers in its process or without any."""
        shares = self.workers if self.is_base_sharded else 1
        base = {"base": Held(self._base / shares)}
        if self._draws:
            base["VAE"] = Held(self._vae)
        inside = groups(self.recipe) if teachers_inside else []
        teachers = self._teachers_weights(inside, has_base=True)
        student, fake_score = self._learners()
        passes = self._passes()
        backward, gradients = passes.kept + passes.backward, self._gradients_on_their_way()
        gradients += self._accumulated
        first = passes.prefix if len(self.recipe.student.rungs) > 1 else 0.0
        # The fake score's text and references wait for its first update, which shares them.
        shared = passes.kept_prefix
        phases = {
            "student's backward pass": Phase(
                backward + shared, first + passes.prefix, 0.0, gradients
            ),
            "fake score's backward pass": Phase(backward, passes.prefix, training=gradients),
            "an optimizer's step": Phase(training=self._step()),
            **self._evaluation(),
        }
        if inside:
            # Later passes of an update find the gradient of those before.
            several = self.recipe.runtime.gradient_accumulation_steps > 1
            before = self._base_gathered + (self._accumulated if several else 0.0)
            scoring = passes.kept + passes.forward
            phases["teachers' scores"] = Phase(scoring, first, training=before)
        held = {"student": student, "fake score": fake_score, **base, **teachers}
        return DeviceMemory(held, phases, self._other, self._loading(student, teachers))

    def teacher(self, group: Group, open_requests: int) -> DeviceMemory:
        """An actor of a group of teachers, with so many requests announced and not answered."""
        passes = self._passes()
        asked = open_requests * passes.of_teachers(self.recipe, group)
        held = self._teachers_weights([group], has_base=False)
        return DeviceMemory(held, {"scores": Phase(passes.forward, asked)}, self._other)

    def encoder(self) -> DeviceMemory:
        """An actor that encodes cases, before anything is trained."""
        held = {"text encoder": Held(self._text_encoder), "VAE": Held(self._vae)}
        return DeviceMemory(held, self._encoded(), self._other)

    def drawing(self) -> DeviceMemory:
        """An actor that draws a benchmark's cases with the finished student, and with the base."""
        held = {
            "base": Held(self.value * self.parameters),
            "student": Held(self.student_file),
            "text encoder": Held(self._text_encoder),
            "VAE": Held(self._vae),
        }
        return DeviceMemory(held, {**self._encoded(), **self._drawn()}, self._other)

    def condition_bytes(self) -> float:
        """Bytes of all encoded cases, in the store and on each node."""
        context = self.pipeline.transformer.context_width
        total = 0.0
        for task in self.tasks:
            is_edit = task.task == "edit"  # text to image shares one negative condition
            texts = task.text_tokens + (task.negative_text_tokens if is_edit else 0.0)
            latents = task.reference_tokens * self.pipeline.transformer.in_channels
            total += self.recipe.data.num_cases * (texts * context + latents) * self.value
        return total

    @property
    def pipeline_file(self) -> int:
        """Bytes of the base's files, taken to be in the recipe's precision."""
        parts = self.parameters, self.pipeline.vae.parameters, self.pipeline.text_encoder.parameters
        return self.value * sum(parts)

    @property
    def gathered_on_host(self) -> float:
        """Bytes of the averaged weights that worker 0 gathers."""
        return 0.0 if self.is_lora else float(self.value * self.parameters)

    @property
    def _other(self) -> float:
        return self.assumed.other_memory_gib * GIB if self.recipe.runtime.gpu else 0.0

    @property
    def _draws(self) -> bool:
        """Whether a worker draws pictures during the run."""
        evaluation = self.recipe.evaluation
        return evaluation.benchmark is not None and bool(evaluation.every)

    @property
    def _vae(self) -> float:
        return self.value * self.pipeline.vae.parameters

    @property
    def _packing(self) -> Packing | None:
        form = self.recipe.training.base_format
        return PACKINGS[form] if form else None

    @property
    def _base(self) -> float:
        """The base that is trained on."""
        if self._packing is None:
            return self.value * self.parameters
        return self.pipeline.transformer.packed_bytes(self._packing, self.value)

    @property
    def _unpacking(self) -> float:
        """One quantized layer at work."""
        working = self._packing.working if self._packing else 0.0
        return working * self.pipeline.transformer.largest_layer

    @property
    def _text_encoder(self) -> float:
        return self.value * self.pipeline.text_encoder.parameters

    @property
    def _share(self) -> float:
        """The part of a weight's state that ZeRO leaves on each worker."""
        return self.parameters / self.workers

    def _learners(self) -> tuple[Held, Held]:
        """The student, with its average, and the fake score."""
        if self.is_lora:
            student, fake_score = (
                Held(self.value * count, FP32 * count, each * count)
                for count, each in zip(self.trained, self.optimizers, strict=True)
            )
            average = float((FP32 + self.value) * self.trained[0])  # and an adapter for it
        else:
            share = 0.0 if self._is_offloaded else self._share
            weights = self.value * (self._share if self.stage == 3 else self.parameters)
            # ZeRO 3 keeps the gradient's place, the others have one from pass to step.
            gradients = FP32 * share if self.stage == 3 else 0.0
            buffers = self._bucket if self.stage == 3 else 0.0
            student, fake_score = (
                Held(weights, gradients, each * share, buffers=buffers) for each in self.optimizers
            )
            average = FP32 * share
        return Held(**{**vars(student), "average": average}), fake_score

    @property
    def _is_offloaded(self) -> bool:
        return self.recipe.runtime.offload == "optimizer"

    @property
    def offloaded(self) -> float:
        """Bytes that a worker has in the host's memory instead of its GPU's.

        The gradient has a place for a step, and another where passes add up; under ZeRO 2 the
        rounded weights have one on their way back.
        """
        if not self._is_offloaded:
            return 0.0
        each = FP32 + (FP32 if self.stage == 3 else self.value)
        return self._share * (sum(self.optimizers) + FP32 + ENGINES * each)

    @property
    def _bucket(self) -> float:
        return self.value * min(self.parameters, BUCKET)

    @property
    def _base_gathered(self) -> float:
        """The layers of a sharded base that are at work, and fetched ahead."""
        return self.value * min(self.parameters, LIVE_BASE) if self.is_base_sharded else 0.0

    @property
    def _accumulated(self) -> float:
        """The gradient that an engine of ZeRO 1 or 2 has between a pass and the step: one network's
        at a time. Under ZeRO 1 every worker has the whole, in the weights' precision."""
        if self.is_lora or self.stage == 3:
            return 0.0
        return FP32 * self._share if self.stage == 2 else self.value * self.parameters

    def _gradients_on_their_way(self) -> float:
        """In a backward pass: a bucket, and once more what is reduced of it; under ZeRO 3, where
        the bucket is held, layers of both networks are gathered."""
        if self.is_lora:
            return self._base_gathered
        if self.stage == 3:
            return self._bucket + ENGINES * self.value * min(self.parameters, LIVE)
        return 2 * self._bucket

    def _step(self) -> float:
        """An engine's step: its gradient in fp32, and on a CPU what Adam computes on the way.

        In fp32, and under ZeRO 1, ZeRO 2's gradient is there once more while it is made flat.
        """
        if self.is_lora or self._is_offloaded:
            return self._accumulated
        temporaries = 0 if self.recipe.runtime.gpu else 2
        if self.stage == 3:
            return min(self._share, STEPPED) * FP32 * (1 + temporaries)
        flat = FP32 * self._share
        is_flat = self.stage == 2 and self.value < FP32
        return max(flat * (1 + temporaries), flat + (0.0 if is_flat else self._accumulated))

    def _teachers_weights(self, of: list[Group], has_base: bool) -> dict[str, Held]:
        """Weights of teachers: pipelines that the process has not yet, and LoRAs."""
        teachers, held = self.recipe.teachers, {}
        for group in of:
            names = [teachers[index].name for index in group.members]
            # Another pipeline is taken to be as large as the base.
            is_base = group.pipeline == self.recipe.base and teachers_share_base(self.recipe)
            weights = 0.0 if has_base and is_base else float(self.value * self.parameters)
            loras = [
                index
                for index in group.members
                if teachers[index].model not in ("base", group.pipeline)
            ]
            adapter = self.pipeline.transformer.lora_parameters(TEACHER_LORA)
            weights += len(loras) * self.value * adapter
            if weights:
                held[f"teacher {', '.join(names)}"] = Held(weights)
        return held

    def _loading(self, student: Held, teachers: Mapping[str, Held]) -> float:
        """A worker with the base makes one engine, then the other, of a whole copy and a flat one;
        under ZeRO 3 weight by weight."""
        beside = self._other + sum(each.total for each in teachers.values())
        if self._draws:
            beside += self._vae
        whole = self._base + self._unpacking
        if self.is_lora or self.stage == 3:
            return beside + whole
        return beside + whole + student.total + 2 * whole

    def activations(self, again: bool) -> float:
        """Bytes of a backward pass's activations, `again` with gradient checkpointing."""
        passes = self._passes(again)
        return passes.kept + passes.backward

    def _passes(self, again: bool | None = None) -> _Passes:
        """The passes of the micro-batch whose sequence is longest.

        Args:
            again: whether only the layers' inputs are kept, and one layer whole; None: as the
                recipe says.
        """
        architecture, runtime = self.pipeline.transformer, self.recipe.runtime
        if again is None:
            again = runtime.gradient_checkpointing
        task = max(self.tasks, key=lambda task: task.prefix_tokens + task.target_tokens)
        token = self.value * runtime.micro_batch_size * architecture.width
        row = token * (task.prefix_tokens + task.target_tokens)
        layer, working = self.assumed.activation_widths, self.assumed.working_widths
        keys = 2 * token * architecture.layers
        kept = architecture.layers * (1 if again else layer)
        return _Passes(
            kept=row * kept,
            kept_prefix=token * task.prefix_tokens * kept,
            forward=row * working + self._unpacking,
            backward=row * (working + (layer if again else 0.0)) + self._unpacking,
            prefix=keys * task.prefix_tokens,
            negative_prefix=keys * task.negative_prefix_tokens,
        )

    def _evaluation(self) -> dict[str, Phase]:
        """Worker 0 has the averaged student beside the engines, and may have it draw cases."""
        averaged = self._base_gathered if self.is_lora else float(self.value * self.parameters)
        phases = {} if self.is_lora else {"average gathered": Phase(training=averaged)}
        if self._draws:
            drawn = self._drawn().items()
            phases |= {name: replace(phase, training=averaged) for name, phase in drawn}
        return phases

    def _drawn(self) -> dict[str, Phase]:
        """Pictures of the recipe's resolution, one at a time: sampled, then decoded."""
        passes, rows = self._passes(), self.recipe.runtime.micro_batch_size
        return {
            "pictures sampled": Phase(passes.forward / rows, passes.prefix / rows),
            "pictures decoded": decoding(self.pipeline, self.recipe.data.resolution, self.value),
        }

    def _encoded(self) -> dict[str, Phase]:
        return encoding(self.pipeline, self.recipe.data.resolution, self.value, self.tasks)
