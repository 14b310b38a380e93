"""Memory plans: against tensors' bytes, figures by hand, and what the command names as a cure."""

import pytest
import torch
from diffusers import QwenImage21Transformer2DModel

from flash_ray.capacity.changes import smallest_changes
from flash_ray.capacity.device import GIB, DeviceMemory, Held
from flash_ray.capacity.memory import MemoryModel
from flash_ray.capacity.pipeline import Architecture, Pipeline, pipeline_of
from flash_ray.capacity.plan import Hardware, Plan, make_plan, read_size
from flash_ray.capacity.workload import Assumptions, teachers_at_once
from flash_ray.errors import UserError
from flash_ray.models.adapters import Adapters
from flash_ray.models.base import shapes_of
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.recipe.load import presets
from flash_ray.recipe.sections import Lora
from flash_ray.trainer.adapter_learner import AdapterEMA, AdapterLearner
from flash_ray.workflows import memory as workflow
from tests.helpers.held import held_by_adapter

QWEN = load_recipe("qwen-image-2.1-full")
STATED = {
    "qwen-image-2.1-full": (8, "80GB"),
    "qwen-image-2.1-lora": (1, "40GB"),
    "qwen-image-2.1-lora-24gb": (1, "24GB"),
}


def model_of(*overrides: str, stage: int = 3, workers: int = 8) -> MemoryModel:
    recipe = load_recipe("qwen-image-2.1-full", list(overrides))
    return MemoryModel(recipe, Pipeline(), Assumptions(), stage, workers)


def trainer(*overrides: str, stage: int = 3, workers: int = 8) -> DeviceMemory:
    return model_of(*overrides, stage=stage, workers=workers).trainer(teachers_inside=True)


def plan_of(recipe: Recipe, gpus: int, memory: str) -> Plan:
    hardware = Hardware(gpus, read_size("--memory", memory))
    return make_plan(recipe, pipeline_of(recipe.base), Assumptions(), hardware)


def changes_of(recipe: Recipe, gpus: int, memory: str) -> list[tuple[str, ...]]:
    hardware = Hardware(gpus, read_size("--memory", memory))
    return smallest_changes(recipe, pipeline_of(recipe.base), Assumptions(), hardware)


def test_linear_layers_and_loras_are_those_of_the_real_model(backbone, miniature_folder):
    with torch.device("meta"):
        real = QwenImage21Transformer2DModel()
    linear = {
        name: (part.in_features, part.out_features)
        for name, part in real.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    assert dict(Architecture()._linear_layers()) == linear
    assert sum(map(lambda s: s[0] * s[1], linear.values())) == pytest.approx(
        Architecture().parameters, rel=1e-4
    )
    assert Architecture().lora_parameters(Lora(rank=64)) == 167_772_160
    adapters = Adapters(backbone.copy_transformer())
    targets = ("to_q", "img_mlp.out", "proj_out")
    adapters.add("student", 3, 3, targets)
    counted = pipeline_of(str(miniature_folder)).transformer
    weights = sum(weight.numel() for weight in adapters.parameters("student"))
    assert counted.lora_parameters(Lora(rank=3, targets=targets)) == weights


def test_a_folders_parts_are_counted_from_its_files(backbone, miniature_folder):
    pipeline = pipeline_of(str(miniature_folder))
    for part, counted in (("vae", pipeline.vae), ("text_encoder", pipeline.text_encoder)):
        module = getattr(backbone.pipeline, part)
        saved = {weight.data_ptr(): weight.numel() for weight in module.state_dict().values()}
        assert counted.parameters == sum(saved.values()), part
    assert pipeline.is_known and pipeline_of("Qwen/Qwen-Image-2.1@main").is_known
    assert not pipeline_of("somebody/else").is_known


def test_an_adapters_bytes_are_those_that_are_planned(backbone, miniature_folder):
    adapters = Adapters(backbone.copy_transformer())
    blocks = sorted(
        {
            name.removesuffix(".weight").split(".", 2)[2]
            for name, shape in shapes_of(adapters.transformer).items()
            if name.startswith("transformer_blocks.") and len(shape) == 2
        }
    )
    for name in ("student", "ema"):
        adapters.add(name, 2, 2, blocks, trainable=name == "student")
    learner = AdapterLearner(adapters, "student", QWEN.training.optimizer)
    ema = AdapterEMA(learner, 0.5)
    learner.step()
    overrides = [f"base={miniature_folder}", "student={weights: lora, lora: {rank: 2}}"]
    recipe = load_recipe("miniature", [*overrides, "training.precision=fp32"])
    model = MemoryModel(recipe, pipeline_of(recipe.base), Assumptions(), 2, 1)
    held = model.trainer(teachers_inside=True).held
    assert held["student"] == held_by_adapter(learner, ema)
    assert held["fake score"] == held_by_adapter(learner)
    assert held["base"] == Held(sum(4 * p.numel() for p in backbone.transformer.parameters()))


def test_zero_shards_optimizer_then_gradients_then_weights():
    weights = Architecture().parameters
    bucket = 2 * 500_000_000
    plans = [trainer(stage=stage, workers=4) for stage in (1, 2, 3)]
    one, two, three = (plan.held["student"] for plan in plans)
    assert one == two == Held(2 * weights, 0.0, 8 * weights / 4, 4 * weights / 4)
    sharded = [weights * each / 4 for each in (2, 4, 8, 4)]
    assert three == Held(*sharded, buffers=bucket)
    # The others have one network's gradient at a time.
    on_their_way = (
        2 * weights + 2 * bucket,
        4 * weights / 4 + 2 * bucket,
        bucket + 4 * 1_000_000_000,
    )
    for plan, expected in zip(plans, on_their_way, strict=True):
        for name in ("student's backward pass", "fake score's backward pass"):
            assert plan.phases[name].training == expected
    with_momentum = trainer("training.optimizer.betas=[0.9, 0.999]", stage=2, workers=4).held
    assert with_momentum["student"].optimizer == 12 * weights / 4
    assert with_momentum["fake score"].optimizer == 8 * weights / 4


def test_an_offloaded_optimizer_is_in_the_hosts_memory():
    weights, share = Architecture().parameters, Architecture().parameters / 8
    here, there = trainer(), trainer("runtime.offload=optimizer")
    for name in ("student", "fake score"):
        expected = Held(2 * share, buffers=here.held[name].buffers)
        assert there.held[name] == expected
    for stage, each in ((2, 4 + 2), (3, 4 + 4)):
        model = model_of("runtime.offload=optimizer", stage=stage)
        assert model.offloaded == share * (2 * 8 + 4 + 2 * each)
    assert model_of().offloaded == 0
    recipe = load_recipe("qwen-image-2.1-full", ["runtime.offload=optimizer"])
    more = plan_of(recipe, 8, "80GB").host - plan_of(QWEN, 8, "80GB").host
    assert more == pytest.approx(weights * (2 * 8 + 4 + 2 * 8))


def test_gradient_checkpointing_keeps_the_layers_inputs():
    row = 2 * 4096 * (4096 + 4096 + 256)
    prefix = 4 * 32 * 4096 * (4096 + 256)
    phase = trainer().phases["student's backward pass"]
    waiting = 2 * 4096 * (4096 + 256)  # text that the fake score's first update shares
    assert phase.activations == row * (32 + 38 + 14) + waiting * 32
    assert phase.caches == 2 * prefix  # the rollout's and the fake score's
    kept = trainer("runtime.gradient_checkpointing=false").phases["student's backward pass"]
    assert kept.activations == row * (32 * 38 + 14) + waiting * 32 * 38
    assert model_of().activations(again=False) == row * (32 * 38 + 14)


def test_a_run_on_an_h100_took_what_is_planned():
    # Peaks in GB of BENCHMARKS.md, "On a GPU": LoRAs of rank 64, without VAE and CUDA's own; that
    # loop kept two moments, and drops the fake score's prefix before the backward pass.
    moments = (
        "training.optimizer.betas=[0.9, 0.99]",
        "training.fake_score.optimizer.betas=[0.9, 0.99]",
    )
    for task, peak in (("t2i", 24.0), ("edit", 29.8)):
        tasks = {"t2i": 0, "edit": 0, task: 1}
        memory = trainer("student.weights=lora", f"tasks={tasks}", *moments, workers=1)
        phase = memory.phases["student's backward pass"]
        total = memory.resident - memory.other + phase.total
        assert (total - phase.caches / 2) / 1e9 == pytest.approx(peak, rel=0.05), task


def test_worker_0_holds_the_average_beside_the_engines():
    memory = trainer(workers=4)
    assert memory.phases["average gathered"].training == 2 * Architecture().parameters
    assert memory.total >= memory.resident + memory.phases["average gathered"].total
    assert "average gathered" not in trainer("student.weights=lora").phases


def test_checkpoints_hold_the_optimizers_and_the_average():
    weights, lora = Architecture().parameters, 167_772_160
    assert model_of(stage=3).checkpoint == model_of(stage=2).checkpoint == 20 * weights
    assert model_of("student.weights=lora").checkpoint == 20 * lora
    assert model_of("training.optimizer.betas=[0.9, 0.99]").checkpoint == 24 * weights
    assert model_of("student.weights=lora").student_file == 2 * lora


def test_encoded_cases_are_as_large_as_those_that_were_measured():
    # BENCHMARKS.md, "Encoding": 1.45 and 2.12 MiB of a case whose prompt has 185 tokens.
    assumed = Assumptions(text_tokens=185, negative_text_tokens=22)
    for task, size in (("t2i", 1.45), ("edit", 2.12)):
        tasks = {"t2i": 0, "edit": 0, task: 1}
        recipe = load_recipe("qwen-image-2.1-full", [f"tasks={tasks}"])
        cases = MemoryModel(recipe, Pipeline(), assumed, 3, 8).condition_bytes()
        assert cases / recipe.data.num_cases / 2**20 == pytest.approx(size, rel=0.01)


def test_teachers_that_are_never_asked_together_take_room_for_one():
    by_rung = load_recipe("miniature", ["teachers=step-wise-by-rung"])
    assert teachers_at_once(by_rung, (0, 1)) == 2  # both have a part of the first rungs
    by_progress = load_recipe("miniature", ["teachers=step-wise-by-progress"])
    assert teachers_at_once(by_progress, (1,)) == 1
    always = load_recipe("miniature", ["teachers=base-only"])
    assert teachers_at_once(always, (0,)) == 1


def test_actors_take_gpus_and_hold_the_prefixes_of_open_requests():
    recipe = load_recipe("qwen-image-2.1-full", ["teacher_defaults.placement=actors"])
    plan = plan_of(recipe, 8, "80GB")
    assert plan.gpus == 9 and "9 GPUs are needed" in plan.problems[0]
    (teacher,) = [each for each in plan.processes if each.name.startswith("teacher")]
    prefix = 4 * 32 * 4096 * (4096 + 256)
    assert teacher.memory.phases["scores"].caches == 2 * 8 * prefix  # in flight x workers


def test_every_large_preset_fits_the_machine_that_it_states():
    assert {*STATED} == {name for name in presets() if not name.startswith("miniature")}
    for name, (gpus, memory) in STATED.items():
        assert plan_of(load_recipe(name), gpus, memory).problems == (), name


def test_the_smallest_changes_fit():
    kept = load_recipe("qwen-image-2.1-full", ["runtime.gradient_checkpointing=false"])
    assert changes_of(kept, 8, "80GB")[0] == ("runtime.gradient_checkpointing=true",)
    (alone,) = changes_of(QWEN, 1, "80GB")
    assert "runtime.num_workers=1" in alone and "student.weights=lora" in alone
    assert "runtime.gradient_accumulation_steps=64" in alone  # the same batch in all
    lora = load_recipe("qwen-image-2.1-lora")
    found = changes_of(lora, 1, "32GB")
    int8 = ("training.base_precision=int8", "teacher_defaults.quantized=true")
    assert found == [int8, ("student.lora.rank=32",), ("data.resolution=[768, 768]",)]
    for change in found:
        changed = load_recipe("qwen-image-2.1-lora", [*change])
        assert plan_of(changed, 1, "32GB").problems == ()
    assert changes_of(QWEN, 1, "8GB") == []


def test_a_quantized_base_takes_fewer_bytes_and_teachers_may_not_share_it():
    lora = ["student.weights=lora", "teacher_defaults.placement=in_process"]
    weights, blocks = Architecture().parameters, 32 * Architecture().layer_weights
    assert trainer(*lora).held["base"] == Held(2 * weights)
    for form, size in {"fp8": 1, "int8": 1, "nf4": 0.516}.items():
        own = trainer(*lora, f"training.base_precision={form}")
        shared = trainer(
            *lora, f"training.base_precision={form}", "teacher_defaults.quantized=true"
        )
        packed = 2 * (weights - blocks) + size * blocks
        assert own.held["base"].weights == pytest.approx(packed, rel=1e-3), form
        assert own.held["teacher base"] == Held(2 * weights)
        assert "teacher base" not in shared.held
        assert shared.loading < trainer(*lora).loading
        # An actor that draws the finished student has the base as it was published.
        assert model_of(*lora, f"training.base_precision={form}").drawing().held["base"] == Held(
            2 * weights
        )


def test_a_quantized_base_is_proposed_where_it_makes_a_lora_fit():
    lora = load_recipe("qwen-image-2.1-lora-24gb", ["training.base_precision=null"])
    found = changes_of(lora, 1, "24GB")
    assert ("training.base_precision=nf4",) in found
    apart = load_recipe("qwen-image-2.1-lora-24gb", ["teacher_defaults.quantized=false"])
    assert changes_of(apart, 1, "24GB")[0] == ("teacher_defaults.quantized=true",)


def test_host_memory_and_disk_are_limits_where_they_are_given():
    def problems(**limits: int) -> tuple[str, ...]:
        hardware = Hardware(8, 80 * GIB, **limits)
        return make_plan(QWEN, Pipeline(), Assumptions(), hardware).problems

    assert problems() == problems(host_memory=2**40, disk=2**41) == ()
    assert problems(host_memory=32 * GIB) == ("host memory: 45 GiB on a node of 32",)
    assert "disk: 289 GB" in problems(disk=200 * 10**9)[0]


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80 * GIB), ("1.5 TiB", 1536 * GIB), ("512m", GIB // 2)]
)
def test_sizes_are_read(text, size):
    assert read_size("--memory", text) == size


@pytest.mark.parametrize("text", ["80", "GB", "-4GB", "0GB", "eighty"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="--memory: '.*' is no size; allowed: e.g. 80GB"):
        read_size("--memory", text)


def test_a_recipe_that_cannot_fit_the_gpus_of_this_machine_is_refused(monkeypatch):
    lora = load_recipe("qwen-image-2.1-lora")
    monkeypatch.setattr(workflow, "_visible_gpus", lambda: [32 * GIB])
    with pytest.raises(UserError, match=r"trainer: 33.3 GiB .*training.base_precision=int8 "):
        workflow.validate_memory(lora, is_here=False)
    workflow.validate_memory(QWEN, is_here=False)  # for eight GPUs: meant for a cluster
    with pytest.raises(UserError, match="runtime: 8 GPUs are needed"):
        workflow.validate_memory(QWEN, is_here=True)
    unknown = load_recipe("qwen-image-2.1-lora", ["base=somebody/else"])
    workflow.validate_memory(unknown, is_here=True)
    monkeypatch.setattr(workflow, "_visible_gpus", list)
    workflow.validate_memory(lora, is_here=True)
