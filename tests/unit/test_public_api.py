"""`import flash_ray`: what it gives, what it does not load, and the loop in its docstring."""

import subprocess
import sys
import textwrap

import pytest
import torch

import flash_ray

HEAVY = ("torch", "ray", "deepspeed", "diffusers", "transformers", "pydantic", "numpy")


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh process has loaded after the code."""
    program = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import flash_ray") == set()


def test_nothing_is_reported_to_the_makers_of_onnxruntime(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    loaded_by("import flash_ray, onnxruntime")
    assert list(tmp_path.iterdir()) == []  # no session of its telemetry


def test_a_recipe_needs_no_torch():
    loaded = loaded_by("import flash_ray as fr; fr.load_recipe('miniature'); fr.Recipe")
    assert "pydantic" in loaded
    assert not loaded & {"torch", "ray", "deepspeed", "diffusers", "transformers"}


def test_the_command_line_loads_what_a_command_needs_when_it_runs():
    unneeded = {"torch", "ray", "deepspeed", "diffusers", "transformers"}
    assert not loaded_by("import flash_ray.cli.app") & {*unneeded, "numpy"}
    assert not loaded_by("from flash_ray.workflows.models import published_students") & {
        *unneeded,
        "numpy",
    }


def test_the_mathematics_needs_torch_alone():
    for code in ("import flash_ray.methods", "import flash_ray as fr; fr.DMD(sigmas=(1.0,))"):
        assert loaded_by(code) - {"numpy"} == {"torch"}  # torch loads numpy


def test_every_public_name_is_there():
    for name in flash_ray.__all__:
        assert getattr(flash_ray, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        flash_ray.distil  # noqa: B018


def test_the_loop_in_the_docstring_runs_and_learns_the_data():
    lines = flash_ray.__doc__.splitlines()
    code = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))
    names: dict[str, object] = {}
    exec(compile(code, "flash_ray.__doc__", "exec"), names)
    samples = names["samples"]
    torch.testing.assert_close(samples.mean((0, 1)), names["mean_C"], atol=0.2, rtol=0)
    assert samples.std((0, 1)).tolist() == pytest.approx([names["std"]] * 2, abs=0.1)
    assert torch.isfinite(names["loss"]) and names["diagnostics"]["dmd_gradient"] > 0
