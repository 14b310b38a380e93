"""On a GPU the numbers are those of the CPU, but for rounding."""

import pytest
import torch

from flash_ray.models.adapters import Adapters
from flash_ray.models.sampling import SamplerConfig, sample
from flash_ray.recipe.sections import Adam
from tests.benchmarks.gpu.loop import full_loop, lora_loop
from tests.benchmarks.gpu.networks import TARGETS

FAST = Adam(lr=1e-3, betas=(0.0, 0.99))
SIGMAS = (1.0, 0.86, 0.67, 0.4)


def losses(model, kind, iterations=6):
    """Student's and fake score's losses of a loop over t2i cases, by iteration."""
    conditions = model.encode(["a red circle", "a blue house on a dark field"], None, (64, 64))
    make = full_loop if kind == "full" else lambda *a, **k: lora_loop(a[0], 8, *a[1:], **k)
    loop = make(model, (FAST, FAST))
    found = [loop.iteration(n, conditions, n % len(SIGMAS)) for n in range(iterations)]
    return torch.tensor([[float(loss) for loss in found_n.values()] for found_n in found])


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_distillation_has_the_losses_of_the_cpu(make_model, exact, kind):
    expected = losses(make_model("cpu"), kind)
    got = losses(make_model("cuda"), kind)
    torch.testing.assert_close(got, expected, rtol=2e-3, atol=1e-4)
    rounded = losses(make_model("cuda", torch.bfloat16), kind)
    torch.testing.assert_close(rounded, expected, rtol=0.1, atol=0.05)


def test_adapters_keep_their_gradients_on_cuda(make_model, exact):
    found = {}
    for device in ("cpu", "cuda"):
        model = make_model(device)
        adapters = Adapters(model.transformer)
        for seed, name in enumerate(("student", "fake")):
            adapters.add(name, 4, 8, TARGETS, seed=seed)
            for index, weight in enumerate(adapters.parameters(name)):
                generator = torch.Generator().manual_seed(100 * seed + index)
                with torch.no_grad():
                    weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
        adapters.enable_gradient_checkpointing()
        conditions = model.encode(["a red circle"], None, (64, 64)).positive
        x = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(3)).to(device)
        t = torch.tensor([0.4], device=device)
        with adapters.use("student"):
            v = model.velocity(model.transformer, x, t, conditions)
        with adapters.use("fake"):
            v.square().mean().backward()
        found[device] = [weight.grad.cpu() for weight in adapters.parameters("student")]
        assert all(weight.grad is None for weight in adapters.parameters("fake"))
    for cpu, cuda in zip(found["cpu"], found["cuda"], strict=True):
        assert cpu.abs().max() > 0
        torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=1e-5)


def test_samples_are_those_of_diffusers_pipeline(make_model, exact):
    model = make_model("cuda")
    model.pipeline.set_progress_bar_config(disable=True)
    prompts = ["a red circle on a dark field"]
    conditions = model.encode(prompts, None, (64, 64))
    noise = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(4)).cuda()
    ours = sample(model, model.transformer, conditions, noise, SamplerConfig(SIGMAS))
    theirs = model.pipeline(
        prompt=prompts,
        height=64,
        width=64,
        sigmas=list(SIGMAS),
        latents=noise,
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-4, atol=1e-4)
    cpu = sample(
        make_model("cpu"),
        make_model("cpu").transformer,
        conditions.to("cpu"),
        noise.cpu(),
        SamplerConfig(SIGMAS),
    )
    torch.testing.assert_close(ours.cpu(), cpu, rtol=1e-3, atol=1e-3)
