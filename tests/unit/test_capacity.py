"""The capacity model: its counts against real models, its formulas against numbers by hand."""

from pathlib import Path

import pytest
import torch
from diffusers import QwenImage21Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from flash_ray.capacity.device import GIB
from flash_ray.capacity.estimate import (
    best,
    checkpoint_seconds,
    estimates,
    moved_bytes,
    stage_seconds,
    traffic_seconds,
)
from flash_ray.capacity.pipeline import Architecture, Pipeline, pipeline_of
from flash_ray.capacity.tables import estimate_rows, read
from flash_ray.capacity.timeline import StageSeconds, simulate
from flash_ray.capacity.workload import (
    Assumptions,
    Work,
    assume,
    request_shares,
    task_tokens,
    workload,
)
from flash_ray.errors import UserError
from flash_ray.models.base import Condition, Layout
from flash_ray.recipe import load_recipe

QWEN = load_recipe("qwen-image-2.1-full")
TINY = Architecture(layers=1, width=2, head_width=2, mlp_ratio=3, context_width=4)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def attention_flops(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


def condition_of(backbone, rows: int, tokens: int) -> Condition:
    width = backbone.transformer.config.context_in_dim
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    return Condition(Layout("t2i", 64, 64), torch.randn(rows, tokens, width), mask, ~mask)


def test_parameters_are_those_of_the_real_models(backbone, miniature_folder):
    assert pipeline_of(str(miniature_folder)).transformer.parameters == count(backbone.transformer)
    with torch.device("meta"):
        assert Architecture().parameters == count(QwenImage21Transformer2DModel())
    assert pipeline_of("Qwen/Qwen-Image-2.1") == Pipeline()


def test_flops_are_those_that_torch_counts(backbone, miniature_folder):
    architecture = pipeline_of(str(miniature_folder)).transformer
    x_BNC, t_B = torch.randn(2, 16, architecture.in_channels), torch.full((2,), 0.5)
    condition = condition_of(backbone, 2, 10)
    # Torch counts attention on GPUs only.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter, torch.no_grad():
        backbone.velocity(backbone.transformer, x_BNC, t_B, condition)
    counts = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    outside = {"time_text_embed", "txt_in", "img_in", "modulation", "norm_out", "proj_out"}
    blocks = counts["Global"] - sum(
        flops
        for name, flops in counts.items()
        if name.count(".") == 1 and name.split(".")[1] in outside
    )
    assert blocks == pytest.approx(2 * architecture.full_flops(10, 16))


def kept_values(student: torch.nn.Module, backbone, rows: int, text: int) -> float:
    """How many activations autograd keeps for the backward pass of a call with 16 target tokens."""
    own = {weight.data_ptr() for weight in student.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive: no address twice
        return tensor

    x_BNC, t_B = torch.randn(rows, 16, backbone.latent_channels), torch.full((rows,), 0.5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone.velocity(student, x_BNC, t_B, condition_of(backbone, rows, text))
    return sum(size for size, _ in kept.values()) / 2  # bf16


def test_activations_are_those_that_autograd_keeps(backbone, miniature_folder):
    student = backbone.copy_transformer().bfloat16()
    two = kept_values(student, backbone, rows=4, text=16)
    student.transformer_blocks = student.transformer_blocks[:1]
    one_layer = two - kept_values(student, backbone, rows=4, text=16)
    widths = one_layer / (4 * 32) / pipeline_of(str(miniature_folder)).transformer.width
    assert widths == pytest.approx(Assumptions().activation_widths, rel=0.1)


def test_flops_by_hand():
    # 13 matrices of 2x2: 104 FLOPs a token; 8 for a pair of query and key. The only layer is the
    # last one: of the prefix it computes keys and values.
    assert TINY.full_flops(1, 2) == 2 * 104 + 16 + 8 * (2 * 3)
    assert TINY.cached_flops(1, 2) == 2 * 104 + 8 * (2 * 3)
    assert TINY.prefill_flops(1) == TINY.full_flops(1, 4)


def test_the_rungs_share_one_prefix():
    recipe = load_recipe(
        "qwen-image-2.1-full", ["tasks.edit=0", "runtime.gradient_checkpointing=false"]
    )
    work = workload(recipe, TINY, Assumptions(text_tokens=1))
    full, cached = TINY.full_flops(1, 4096), TINY.cached_flops(1, 4096)
    # To the four rungs: nothing; full; full and one cached; full and two cached.
    assert work.rollout == Work((3 * full + 3 * cached) / 4, 1.5)
    assert work.student_forward.flops == (full + 3 * cached) / 4
    # The first of four updates shares the pass without gradients before it.
    assert work.fake_update.flops == pytest.approx((11 * full + cached) / 4)


def test_edits_carry_their_references():
    (t2i, edit) = task_tokens(QWEN, Assumptions(text_tokens=10, references=2))
    assert (t2i.target_tokens, t2i.prefix_tokens, t2i.share) == (4096, 10, 0.5)
    assert edit.prefix_tokens == 10 + 2 * 4096


def test_guidance_doubles_a_teachers_scores():
    def score(guidance: float) -> Work:
        recipe = load_recipe(
            "miniature", [f"teacher_defaults.guidance_scale={guidance}", "tasks.edit=0"]
        )
        (teacher,) = workload(recipe, TINY, Assumptions(negative_text_tokens=256)).teachers
        return teacher.score

    assert score(4.0) == score(1.0) * 2


def test_a_teacher_scores_where_it_counts():
    by_rung = load_recipe("miniature", ["teachers=step-wise-by-rung"])
    assert request_shares(by_rung, "t2i") == pytest.approx([1.0, 0.5])
    by_progress = load_recipe(
        "miniature", ["teachers=step-wise-by-progress", "teacher_defaults.diagnose_every=4"]
    )
    assert request_shares(by_progress, "edit") == pytest.approx([1.0, 0.5 + 0.5 / 4])


def stages(**changed: float) -> StageSeconds:
    given = dict(before=1.0, fake_score=1.0, backward=1.0, tail=5.0, prefill=0.0, score=2.0)
    return StageSeconds(**given | changed)


def test_one_trainer_waits_for_what_the_fake_score_does_not_hide():
    timing = simulate(stages(), trainers=1, replicas=1, passes=1)
    assert timing.seconds == pytest.approx(9)
    assert timing.wait_share == pytest.approx(1 / 9)
    assert timing.teacher_idle_share == pytest.approx(7 / 9)
    four = simulate(stages(), trainers=1, replicas=1, passes=4)
    assert (four.seconds, four.wait_share) == (pytest.approx(4 * 4 + 5), pytest.approx(4 / 21))


def test_trainers_that_share_a_teacher_queue_up():
    timing = simulate(stages(), trainers=2, replicas=1, passes=1)
    # One answer after 2 s, the next after 4 s, of which 1 s is hidden; all go on together.
    assert timing.seconds == pytest.approx(11)
    assert timing.wait_share == pytest.approx((1 + 3) / 2 / 11)
    assert timing.teacher_idle_share == pytest.approx(7 / 11)


def test_prefill_hides_behind_the_trainers_own_work():
    hidden = simulate(stages(prefill=5.0), trainers=1, replicas=1, passes=1)
    assert hidden.seconds == pytest.approx(9)
    late = simulate(stages(prefill=10.0), trainers=1, replicas=1, passes=1)
    assert late.seconds > 9


@pytest.mark.parametrize("trainers", [1, 3, 8])
def test_more_teachers_help_down_to_one_answers_time(trainers):
    enough = simulate(stages(), trainers, replicas=100, passes=2)
    assert enough.wait_share * enough.seconds == pytest.approx(2 * (2 - 1))
    quick = simulate(stages(score=0.5, prefill=0.1), trainers, replicas=100, passes=2)
    assert quick.wait_share == 0
    assert quick.teacher_idle_share > 0.9


def test_processes_share_the_cores():
    alone = simulate(stages(), trainers=1, replicas=1, passes=1, cores=2)
    assert alone == simulate(stages(), trainers=1, replicas=1, passes=1)
    # One core does everything: 8 s of the trainer, 2 s of the teacher.
    assert simulate(stages(), 1, 1, passes=1, cores=1).seconds == pytest.approx(10)
    # Two trainers on one core.
    assert simulate(stages(score=0.0), 2, 1, passes=1, cores=1).seconds == pytest.approx(16)


def test_traffic_and_checkpoints_by_hand():
    assumed = Assumptions(
        gpu_link_gb_per_s=100, node_network_gb_per_s=10, network_efficiency=0.5,
        s3_gb_per_s_per_node=2.0,
    )  # fmt: skip
    gigabytes = 2 * Architecture().parameters / 1e9
    forward, backward, step = moved_bytes(QWEN, Architecture(), stage=3)
    assert (forward + backward, step) == (pytest.approx(3e9 * gigabytes), 0)
    seconds = [traffic_seconds(assumed, n, forward + backward) for n in (1, 8, 16)]
    assert seconds[0] == 0
    assert seconds[1] == pytest.approx(3 * gigabytes * 7 / 8 / 50)
    assert seconds[2] == pytest.approx(3 * gigabytes * 15 / 16 / 5)
    assert checkpoint_seconds(40 * 10**9, assumed, trainers=9) == pytest.approx(40 / (2 * 2))


def test_workers_reduce_a_loras_gradient_alone():
    recipe = load_recipe("qwen-image-2.1-full", ["student.weights=lora"])
    assert moved_bytes(recipe, Architecture(), stage=3) == (0, 0, 2 * 4 * 167_772_160)


def test_divisions_keep_the_global_batch_while_each_trainer_has_a_micro_batch():
    few = {
        estimate.trainers: estimate for estimate in estimates(QWEN, Pipeline(), Assumptions(), 8)
    }
    assert (few[8].teachers, few[8].global_batch, few[8].accumulation) == (0, 64, 8)
    assert (few[6].teachers, few[6].global_batch, few[6].accumulation) == (2, 66, 11)
    many = best(estimates(QWEN, Pipeline(), Assumptions(), 512))
    assert many.accumulation == 1
    assert many.global_batch == many.trainers
    assert many.trainers + many.teachers <= 512


def test_the_best_division_fits_if_any_does():
    assumed = Assumptions()
    found = estimates(QWEN, Pipeline(), assumed, 64)
    assert any(not estimate.fits for estimate in found)
    assert best(found).fits
    assert best(found).trainer_memory.total <= assumed.gpu_memory_gib * GIB


def test_a_slower_network_and_a_lower_mfu_take_longer():
    def seconds(**changed: float) -> float:
        return estimates(QWEN, Pipeline(), Assumptions(**changed), 64)[0].timing.seconds

    assert seconds(node_network_gb_per_s=12.5) > seconds()
    assert seconds(mfu=0.2) > seconds()


def test_stages_at_one_trainer_are_flops_over_rates():
    recipe = load_recipe(
        "qwen-image-2.1-full", ["tasks.edit=0", "runtime.gradient_checkpointing=false"]
    )
    assumed = Assumptions(device_flops_per_s=100.0, mfu=0.5, optimizer_step_seconds=1.0)
    work = workload(recipe, TINY, assumed)
    seconds = stage_seconds(recipe, TINY, assumed, work, stage=2, trainers=1, accumulation=3)
    assert seconds.fake_score == pytest.approx(TINY.full_flops(256, 4096) / 50)
    assert seconds.tail == pytest.approx(1 + 4 * (3 * work.fake_update.flops / 50 + 1))


def test_settings_go_to_the_recipe_or_to_the_assumptions():
    recipe, assumed = read("miniature", ["mfu=0.35", "runtime.num_workers=1"])
    assert (assumed.mfu, recipe.runtime.num_workers) == (0.35, 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mfu": 1.5}, ("mfu", "1.5", "above 0 to 1")),
        ({"mfu": "fast"}, ("mfu", "'fast'")),
        ({"gpus_per_node": 0}, ("gpus_per_node", "0")),
    ],
)
def test_bad_assumptions_are_refused_in_one_line(values, words):
    with pytest.raises(UserError) as refused:
        assume(values)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)


def test_one_gpu_is_too_few():
    with pytest.raises(UserError, match="--gpus: 1; allowed: 2 or more"):
        estimates(QWEN, Pipeline(), Assumptions(), 1)


def test_the_readmes_table_is_what_the_model_says():
    readme = (Path(__file__).parents[2] / "cluster" / "README.md").read_text(encoding="utf-8")
    guided = load_recipe("qwen-image-2.1-full", ["teacher_defaults.guidance_scale=4"])
    for gpus in (8, 64, 512):
        for row in estimate_rows(estimates(guided, Pipeline(), Assumptions(), gpus)):
            assert f"| {' | '.join(row)} |" in readme
