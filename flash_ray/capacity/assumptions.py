"""What the model takes for given. Each can be changed: `--set mfu=0.35`."""

import json
from typing import Annotated, Any

from pydantic import Field, ValidationError

from flash_ray.errors import UserError
from flash_ray.recipe import messages
from flash_ray.recipe.schema import Section

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Assumptions(Section):
    """Numbers of the machines and of the data; the defaults are one H100 SXM in nodes of 8."""

    device_flops_per_s: Positive = Field(
        989e12, description="dense bf16 peak of one GPU, above 0 (H100 SXM data sheet: 989e12)"
    )
    mfu: Share = Field(0.4, description="share of the peak that trainers reach, above 0 to 1")
    teacher_mfu: Share = Field(0.4, description="share that teachers reach, above 0 to 1")
    pass_seconds: float = Field(
        0.0, ge=0, description="fixed cost of a pass through the transformer in s, 0 or more"
    )
    teacher_pass_seconds: float = Field(
        0.0, ge=0, description="the same of a teacher's passes in s, 0 or more"
    )
    optimizer_step_seconds: float = Field(
        0.05, ge=0, description="one AdamW step and what is averaged after it in s, 0 or more"
    )
    gpu_memory_gb: Positive = Field(80.0, description="of one GPU in GB, above 0")
    other_memory_gb: float = Field(
        4.0, ge=0, description="CUDA context, buffers, fragments per GPU in GB, 0 or more"
    )
    vae_gb: float = Field(1.35, ge=0, description="the VAE, on every GPU, in GB, 0 or more")
    activation_widths: Positive = Field(
        38.0,
        description="values kept for the backward pass per token and layer, in units of the width",
    )
    gpus_per_node: int = Field(8, ge=1, description="1 or more")
    gpu_link_gb_per_s: Positive = Field(
        450.0, description="one GPU to others of its node, one way, in GB/s (NVLink 4: 450)"
    )
    node_network_gb_per_s: Positive = Field(
        400.0,
        description="one node to others, one way, in GB/s (8 x 400 Gb/s InfiniBand: 400; "
        "100 Gb/s Ethernet: 12.5)",
    )
    network_efficiency: Share = Field(0.8, description="share of those that is reached, 0 to 1")
    overlap: float = Field(
        0.5, ge=0, le=1, description="share of compute that traffic can hide behind, 0 to 1"
    )
    object_store_gb_per_s: Positive = Field(
        1.2, description="a tensor from a trainer to a teacher or back in GB/s, above 0"
    )
    call_seconds: float = Field(0.002, ge=0, description="a call of an actor in s, 0 or more")
    s3_gb_per_s_per_node: Positive = Field(1.0, description="upload of a node in GB/s, above 0")
    text_tokens: float = Field(256.0, ge=0, description="of a prompt with its template, 0 or more")
    negative_text_tokens: float = Field(
        32.0, ge=0, description="of an empty prompt with its template, 0 or more"
    )
    references: float = Field(
        1.0, ge=0, description="pictures of an edit, each of the output's area, 0 or more"
    )


def assume(values: dict[str, Any]) -> Assumptions:
    """The assumptions with some changed. Raises UserError for what is out of range."""
    try:
        return Assumptions.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"--set: {messages.problem(error, Assumptions)}") from None
