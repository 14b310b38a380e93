"""A stranger's LoRA costs a line, whatever is in the file: no memory, no time, no code."""

import json
import os
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from flash_ray.errors import UserError
from flash_ray.models.lora import read_lora
from flash_ray.models.lora_source import LORA, SETTINGS
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.recipe import load_recipe
from flash_ray.teachers.validation import validate_teachers

LAYER = "transformer_blocks.0.attn.to_q"
A, B = f"transformer.{LAYER}.lora_A.weight", f"transformer.{LAYER}.lora_B.weight"


@pytest.fixture(scope="module")
def pair(lora_folder):
    """One layer's matrices by their keys."""
    given = load_file(lora_folder / LORA)
    return {A: given[A], B: given[B]}


def refused(base, file, says):
    """The line with which the recipe is refused, before anything is loaded."""
    teachers = [{"name": "it", "model": str(file)}]
    recipe = load_recipe("miniature", [f"base={base}", f"teachers={json.dumps(teachers)}"])
    with pytest.raises(UserError, match="^teachers.0.model: ") as caught:
        validate_teachers(recipe)
    line = str(caught.value)
    assert says in line and line.isprintable() and len(line) < 600
    return line


def alpha(value, **shape):
    return lambda pair: {**plain(pair), f"{LAYER}.alpha": torch.full(tuple(shape.values()), value)}


def plain(pair):
    return {key.removeprefix("transformer."): value for key, value in pair.items()}


def with_first(pair, value):
    changed = pair[A].clone()
    changed[0, 0] = value
    return {**pair, A: changed}


BAD = {
    "not a number": (lambda p: with_first(p, float("nan")), "not finite"),
    "infinite": (lambda p: with_first(p, float("-inf")), "not finite"),
    "whole numbers": (lambda p: {k: v.long() for k, v in p.items()}, "numbers of kind I64"),
    "negative alpha": (alpha(-1.0), "alpha that is no number above 0"),
    "alpha is no number": (alpha(float("nan")), "alpha that is no number above 0"),
    "infinite alpha": (alpha(float("inf")), "alpha that is no number above 0"),
    "many alphas": (alpha(1.0, n=3), "alpha that is no number above 0"),
    "rank 0": (lambda p: {A: p[A][:0], B: p[B][:, :0]}, "no matrix"),
    "huge rank": (
        lambda p: {A: p[A][:1].repeat(5000, 1), B: p[B][:, :1].repeat(1, 5000)},
        "of ranks 5000 and 5000, for",
    ),
    "unequal ranks": (lambda p: {A: p[A], B: p[B][:, :1].clone()}, "of ranks 2 and 1"),
    "transposed": (lambda p: {A: p[B].clone(), B: p[A].clone()}, "has matrices for"),
    "a number": (lambda p: {A: torch.zeros(()), B: torch.zeros(())}, "no matrix"),
    "a vector": (lambda p: {A: torch.zeros(3), B: torch.zeros(3)}, "has matrices for"),
    "four dimensions": (lambda p: {A: p[A][None, None], B: p[B]}, "no matrix"),
    "one of a pair": (lambda p: {A: p[A]}, "as diffusers reads it"),
    "two names for one": (
        lambda p: {**p, **{key: value.clone() for key, value in plain(p).items()}},
        "in two ways",
    ),
    "a path": (
        lambda p: {k.replace(LAYER, "../../../etc/passwd"): v for k, v in p.items()},
        "has matrices for ../../../etc/passwd",
    ),
    "a terminal's codes": (
        lambda p: {k.replace(LAYER, "\x1b[2J\n\u202ex"): v for k, v in p.items()},
        "has matrices for",
    ),
    "a long name": (
        lambda p: {k.replace(LAYER, "x" * 100_000): v for k, v in p.items()},
        "has matrices for xxx",
    ),
    "magnitudes of nothing": (
        lambda p: {**p, "transformer.other.lora_magnitude_vector": torch.ones(4)},
        "no pair of matrices for other",
    ),
    "biases of another size": (
        lambda p: {**p, f"transformer.{LAYER}.lora_B.bias": torch.ones(3)},
        "has 3 magnitudes or biases",
    ),
    "many tensors": (
        lambda p: {f"x{n}.lora_A.weight": torch.zeros(1, 1) for n in range(3000)},
        "too many for the base",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_tensors(pair, miniature_folder, tmp_path, name):
    make, says = BAD[name]
    tensors = {key: value.contiguous() for key, value in make(pair).items()}
    save_file(tensors, tmp_path / LORA)
    refused(miniature_folder, tmp_path, says)
    with pytest.raises(UserError) as caught:
        QwenImage21.from_pretrained(miniature_folder, encoders=False).add_lora(
            tmp_path / LORA, "it"
        )
    assert str(caught.value).isprintable()


def header(fields, data=b""):
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


FILES = {
    "empty": b"",
    "a length without a header": struct.pack("<Q", 100),
    "a header without end": struct.pack("<Q", 2**63) + b"{",
    "no JSON": header(b"\x80\x04evil"),
    "nested": header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "more than there is": header(
        {A: {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 2**64 - 4]}}
    ),
    "too short": header({A: {"dtype": "F32", "shape": [2**20, 2**10], "data_offsets": [0, 2**32]}}),
    "overlapping": header(
        {
            A: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
            B: {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]},
        },
        bytes(24),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_headers(miniature_folder, tmp_path, name):
    (tmp_path / LORA).write_bytes(FILES[name])
    refused(miniature_folder, tmp_path, "cannot be read")


@pytest.mark.parametrize(
    ("width", "says"), [(2**20, "has matrices for"), (2**29, "cannot be read")]
)
def test_a_large_file_that_does_not_fit_is_not_read(miniature_folder, tmp_path, width, says):
    half = 4 * width * 2**9
    fields = {
        key: {"dtype": "F32", "shape": shape, "data_offsets": [n * half, (n + 1) * half]}
        for n, (key, shape) in enumerate({A: [2**9, width], B: [width, 2**9]}.items())
    }
    with (tmp_path / LORA).open("wb") as file:
        head = header(fields)
        file.write(head)
        file.truncate(len(head) + 2 * half)  # sparse: it takes no disk
    refused(miniature_folder, tmp_path, says)


SETTINGS_OF_STRANGERS = {
    "a huge rank": ({"r": 10**9, "lora_alpha": 1}, "settings for rank 1000000000"),
    "a rank in words": ({"r": "many"}, "cannot be read (r "),
    "an infinite alpha": ('{"r": 2, "lora_alpha": Infinity}', "cannot be read (lora_alpha"),
    "a negative alpha": ({"r": 2, "lora_alpha": -1}, "cannot be read (lora_alpha"),
    "a slow pattern": ({"r": 2, "alpha_pattern": {"(a+)+b": 1}}, "cannot be read (alpha_pattern"),
    "a list": ([], "cannot be read"),
    "no JSON": ("{", "cannot be read"),
    "nested": ('{"r":' * 100_000, "cannot be read"),
    "large": ({"r": 2, "more": "x" * 2**21}, "more than a MiB"),
}


@pytest.mark.parametrize("where", ["in the file", "beside it"])
@pytest.mark.parametrize("name", SETTINGS_OF_STRANGERS)
def test_settings(pair, miniature_folder, tmp_path, name, where):
    given, says = SETTINGS_OF_STRANGERS[name]
    text = given if isinstance(given, str) else json.dumps(given)
    metadata = {"lora_adapter_metadata": text} if where == "in the file" else None
    save_file(pair, tmp_path / LORA, metadata)
    if where == "beside it":
        (tmp_path / SETTINGS).write_text(text)
    refused(miniature_folder, tmp_path, says)


def test_nothing_but_known_settings_reaches_peft(pair, miniature_folder, tmp_path):
    evil = {
        "r": 2,
        "lora_alpha": 2,
        "megatron_config": {},
        "megatron_core": "antigravity",
        "layer_replication": [[0, 2]] * 1000,
        "target_modules": ".*",
        "modules_to_save": ["proj_out"],
        "init_lora_weights": "pissa",
        "auto_mapping": {"parent_library": "os"},
        "rank_pattern": {"(.*.*)*x": 2},
    }
    for given in (evil, {f"transformer.{key}": value for key, value in evil.items()}):
        save_file(pair, tmp_path / LORA, {"lora_adapter_metadata": json.dumps(given)})
        _, settings = read_lora(tmp_path / LORA, QwenImage21.transformer_shapes(miniature_folder))
        assert settings == {
            "transformer.r": 2,
            "transformer.rank_pattern": {},
            "transformer.lora_alpha": 2,
            "transformer.alpha_pattern": {},
            "transformer.use_rslora": False,
            "transformer.use_dora": False,
            "transformer.lora_bias": False,
            "transformer.target_modules": [LAYER],
        }
        model = QwenImage21.from_pretrained(miniature_folder, encoders=False)
        before = dict(model.transformer.named_modules())
        model.add_lora(tmp_path / LORA, "it")
        made = set(dict(model.transformer.named_modules())) - set(before)
        assert {re.match(re.escape(LAYER), name) is not None for name in made} == {True}


def test_ranks_of_each_layer_are_the_matrices_own(lora_folder, miniature_folder, tmp_path):
    given = load_file(lora_folder / LORA)
    given[A], given[B] = given[A][:1].clone(), given[B][:, :1].clone()
    fields = {"r": 2, "lora_alpha": 4, "rank_pattern": {LAYER: 1}}
    save_file(given, tmp_path / LORA, {"lora_adapter_metadata": json.dumps(fields)})
    model = QwenImage21.from_pretrained(miniature_folder, encoders=False)
    model.add_lora(tmp_path / LORA, "it")
    layers = dict(model.transformer.named_modules())
    assert (layers[LAYER].r["it"], layers[LAYER].scaling["it"]) == (1, 4.0)
    other = "transformer_blocks.1.attn.to_q"
    assert (layers[other].r["it"], layers[other].scaling["it"]) == (2, 2.0)


def test_links_and_pipes_in_a_folder(miniature_folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password: hunter2\n" * 100)
    makers = {
        "link": lambda path: path.symlink_to(secret),
        "loop": lambda path: path.symlink_to(path),
        "dangling": lambda path: path.symlink_to(tmp_path / "nowhere"),
        "zeros": lambda path: path.symlink_to("/dev/zero"),
        "pipe": os.mkfifo,
        "folder": os.mkdir,
    }
    for name, make in makers.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / LORA)
        assert "hunter2" not in refused(miniature_folder, tmp_path / name, name)
    link = tmp_path / "settings"
    link.mkdir()
    (link / LORA).write_bytes(b"")
    (link / SETTINGS).symlink_to(secret)
    assert "hunter2" not in refused(miniature_folder, link, "cannot be read")
