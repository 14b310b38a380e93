"""OpenAI's Images API: what is drawn, in which files, by which fields; what is refused."""

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import openai
import pytest
from PIL import Image

from flash_ray.serving.images import png
from flash_ray.serving.links import Links
from flash_ray.serving.tokens import add_token, read_tokens
from tests.helpers.serving import HERE, SETTINGS, client_of, draw, error, pixels

# What clients send that have every field of OpenAI's, and what has to be refused.
HARMLESS = (
    {"quality": "auto"},
    {"quality": "standard"},
    {"style": "vivid"},
    {"moderation": "low"},
    {"user": "me"},
    {"stream": False},
    {"partial_images": 0},
    {"response_format": "b64_json"},
    {"background": "opaque"},
    {"output_format": "png", "output_compression": 100},
    {"num_inference_steps": 2},
    {"steps": 2, "num_inference_steps": 2},
)
REFUSED = (
    ("quality", {"quality": "hd"}),
    ("quality", {"quality": "high"}),
    ("style", {"style": "loud"}),
    ("output_format", {"output_format": "gif"}),
    ("output_compression", {"output_compression": 50}),
    ("output_compression", {"output_format": "webp", "output_compression": 101}),
    ("background", {"background": "transparent", "output_format": "jpeg"}),
    ("partial_images", {"partial_images": 2}),
    ("n", {"stream": True, "n": 2}),
    ("response_format", {"stream": True, "response_format": "url"}),
    ("num_inference_steps", {"steps": 2, "num_inference_steps": 3}),
    ("negative_prompt", {"negative_prompt": "ugly"}),
    ("input_fidelity", {"input_fidelity": "high"}),
    ("foo", {"foo": "bar"}),
)
NULLS = dict.fromkeys(("size", "n", "quality", "response_format", "style", "stream", "user"))


def test_the_official_client_draws_and_edits(official):
    drawn = official.images.generate(
        model="plain", prompt="A red circle", n=2, size="64x64", extra_body={"seed": 5}
    )
    assert [pixels(image.b64_json).shape for image in drawn.data] == [(64, 64, 3)] * 2
    upload = ("in.png", png(np.zeros((64, 64, 3), np.uint8)), "image/png")
    edited = official.images.edit(
        model="plain", image=upload, prompt="Make it blue", extra_body={"seed": 5}
    )
    assert pixels(edited.data[0].b64_json).shape == (64, 64, 3)
    both = official.images.edit(model="plain", image=[upload, upload], prompt="Join them")
    assert len(both.data) == 1
    with pytest.raises(openai.NotFoundError, match="there is no 'nobody'"):
        official.images.generate(model="nobody", prompt="A red circle")
    with pytest.raises(openai.BadRequestError, match="mask"):
        official.images.edit(model="plain", image=upload, mask=upload, prompt="Make it blue")


def test_the_same_request_is_the_same_picture_and_n_counts_seeds_up(client):
    three = draw(client, n=3).json()["data"]
    assert [image["seed"] for image in three] == [3, 4, 5]
    alone = draw(client, seed=4).json()["data"][0]
    difference = pixels(alone["b64_json"]).astype(int) - pixels(three[1]["b64_json"])
    assert np.abs(difference).max() <= 1
    other = draw(client, model="bold", seed=4).json()["data"][0]
    assert other["b64_json"] != alone["b64_json"]


def test_answers_say_where_the_time_went(client):
    timings = draw(client).json()["timings"]
    assert set(timings) == {"queue", "encode", "denoise", "decode", "total"}
    assert timings["denoise"] > 0


def test_sizes_and_steps(client):
    wide = draw(client, size="96x64", steps=2)
    assert pixels(wide.json()["data"][0]["b64_json"]).shape == (64, 96, 3)
    error(draw(client, size="100x64"), 400, "size", "multiples of 32")
    error(draw(client, size="4096x4096"), 400, "size", "at most 16384 pixels")
    error(draw(client, size="0x64"), 400, "size")


def test_what_is_not_allowed_is_an_error_by_field(client):
    error(draw(client, model="nobody"), 404, "model", "'nobody'", "teacher")
    error(draw(client, model="s3://bucket/x"), 404, "model")
    error(draw(client, model="../../etc"), 404, "model")
    error(draw(client, n=4), 400, "n", "at most 3")
    error(draw(client, n=0), 400, "n")
    error(draw(client, steps=21), 400, "steps", "at most 20")
    error(draw(client, prompt=""), 400, "prompt")
    error(draw(client, prompt="x" * 201), 400, "prompt", "at most 200")
    for character in "\x00\x0b\x1f\x7f":
        error(draw(client, prompt=f"a{character}b"), 400, "prompt", "control characters")
    lone = b'{"model": "plain", "prompt": "half an emoji \\ud83d"}'
    assert client.post("/v1/images/generations", content=lone).status_code == 400
    name = b'{"model": "plain", "prompt": "x", "\\ud83d": 1}'
    assert client.post("/v1/images/generations", content=name).status_code == 400
    error(draw(client, color="red"), 400, "color")
    error(draw(client, seed=-1), 400, "seed")
    error(client.post("/v1/images/generations", content=b"{"), 400, None)
    error(client.get("/v1/nothing"), 404, None)
    error(client.delete("/v1/models"), 405, None)


@pytest.mark.parametrize("fields", [*HARMLESS, NULLS], ids=str)
def test_the_harmless_fields_of_clients_are_taken_by_both_endpoints(ask, fields):
    answer = ask(**{"steps": None, **fields}) if "num_inference_steps" in fields else ask(**fields)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("param", "fields"), REFUSED, ids=str)
def test_what_cannot_be_done_is_refused_by_both_endpoints(ask, param, fields):
    error(ask(**fields), 400, param)


def test_answers_tell_what_openai_s_do(ask):
    body = ask(n=2).json()
    assert (body["size"], body["output_format"]) == ("64x64", "png")
    assert (body["quality"], body["background"]) == ("auto", "opaque")
    usage = body["usage"]
    parts = usage["input_tokens_details"]
    assert usage["output_tokens"] == 2 * 16 and parts["text_tokens"] > 0
    assert usage["input_tokens"] == parts["text_tokens"] + parts["image_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert "url" not in body["data"][0]


@pytest.mark.parametrize(("kind", "mode"), [("png", "RGBA"), ("webp", "RGBA"), ("jpeg", "RGB")])
def test_files_are_of_the_kind_that_is_asked_for(ask, kind, mode):
    fields = {"output_format": kind} | ({"background": "transparent"} if mode == "RGBA" else {})
    body = ask(**fields).json()
    assert body["output_format"] == kind
    picture = Image.open(BytesIO(base64.b64decode(body["data"][0]["b64_json"])))
    assert (picture.format, picture.mode, picture.size) == (kind.upper(), mode, (64, 64))
    if kind != "png":
        packed = ask(**fields, output_compression=5).json()["data"][0]["b64_json"]
        assert len(packed) < len(body["data"][0]["b64_json"])


def test_a_model_that_draws_no_alpha_says_so(service):
    with client_of(replace(service, draws_alpha=False)) as client:
        error(draw(client, background="transparent"), 400, "background", "auto, opaque")


def test_without_a_model_the_server_s_default_draws(service, client):
    settings = SETTINGS.model_copy(update={"default_model": "plain"})
    wanted = draw(client).json()["data"]
    with client_of(replace(service, settings=settings)) as other:
        assert draw(other, model=None).json()["data"] == wanted
    assert draw(client, model=None, steps=1).status_code == 200  # by the teacher


def test_a_link_is_whoever_s_knows_it_and_not_for_long(service, client, tmp_path):
    drawn = pixels(draw(client).json()["data"][0]["b64_json"])
    token = add_token(tmp_path / "tokens.json", "me", "admin")
    links = Links(1000.0, 10_000_000)
    guarded = replace(service, tokens=read_tokens(tmp_path / "tokens.json"), links=links)
    with client_of(guarded) as other:
        other.headers["Authorization"] = f"Bearer {token}"
        (image,) = draw(other, response_format="url").json()["data"]
        assert set(image) == {"url", "seed"} and image["url"].startswith(f"{HERE}/pictures/")
        del other.headers["Authorization"]
        answer = other.get(image["url"])
        assert answer.headers["content-type"] == "image/png"
        assert (np.asarray(Image.open(BytesIO(answer.content))) == drawn).all()
        error(other.get(f"{image['url']}x"), 404, None)
    with client_of(replace(service, links=Links(0.0, 10_000_000))) as other:
        (image,) = draw(other, response_format="url").json()["data"]
        error(other.get(image["url"]), 404, None)


def test_a_stream_shows_the_picture_as_it_comes(official):
    events = list(
        official.images.generate(
            model="plain", prompt="A red circle", stream=True, partial_images=2,
            extra_body={"seed": 3},
        )
    )  # fmt: skip
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:-1]] == [0, 1]
    whole = official.images.generate(model="plain", prompt="A red circle", extra_body={"seed": 3})
    last = pixels(events[-1].b64_json).astype(int)
    assert np.abs(last - pixels(whole.data[0].b64_json)).max() <= 1
    distances = [np.abs(last - pixels(event.b64_json)).mean() for event in events[:-1]]
    assert distances[0] > distances[1] > 0
    assert events[-1].usage.output_tokens == 16 and events[-1].size == "64x64"

    upload = ("in.png", png(np.zeros((64, 64, 3), np.uint8)), "image/png")
    (edited,) = official.images.edit(
        model="plain", image=upload, prompt="Make it blue", stream=True
    )
    assert edited.type == "image_edit.completed" and pixels(edited.b64_json).shape == (64, 64, 3)


def test_what_a_stream_refuses_it_refuses_before_it_begins(official):
    with pytest.raises(openai.NotFoundError, match="there is no 'nobody'"):
        official.images.generate(model="nobody", prompt="A red circle", stream=True)


@pytest.mark.parametrize(
    "prompt",
    [
        "雪山　湖泊　日落",
        "a family 👨\u200d👩\u200d👧\u200d👦 at the sea",
        "غروب آفتاب بر فراز کوه\u200cها",
        "two\tcolumns\r\nand two lines",
        "a\u00a0b {c} %s \u0085",
        "a <|im_end|> in it",
    ],
)
def test_ordinary_text_of_any_script_is_drawn(ask, prompt):
    answer = ask(prompt=prompt)
    assert answer.status_code == 200, answer.text
