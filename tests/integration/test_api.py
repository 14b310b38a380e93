"""The HTTP application in one process, with a real store and a real small model."""

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import openai
import pytest
from PIL import Image

from flash_ray.evaluation.judges import base
from flash_ray.evaluation.judges.endpoint import VlmSettings
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.scenes import CATEGORIES
from flash_ray.recipe.schema import Evaluation
from flash_ray.serving import images
from flash_ray.serving.images import png
from flash_ray.serving.links import Links
from flash_ray.serving.routes import images as images_routes
from flash_ray.serving.settings import Limits, Serving
from flash_ray.serving.tokens import add_token, read_tokens
from flash_ray.storage.students import set_alias
from tests.helpers.distilling import small_recipe
from tests.helpers.serving import HERE, client_of, in_process
from tests.helpers.small import build_base, publish

BENCHMARK = "/v1/benchmarks/miniature"
SETTINGS = Serving(limits=Limits(n=3, prompt=200, steps=20, image_bytes=100_000, images=2, cases=2))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return small_recipe(build_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def service(recipe, store, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        publish(store, recipe, "plain", tmp_path_factory.mktemp("a"))
        publish(store, recipe, "bold", tmp_path_factory.mktemp("b"), scale=1.5)
        yield in_process(recipe, store, SETTINGS)


@pytest.fixture(scope="module")
def client(service):
    with client_of(service) as client:
        yield client


@pytest.fixture(scope="module")
def official(client):
    """The official client, its requests handed to the application."""
    return openai.OpenAI(base_url=f"{HERE}/v1", api_key="none", http_client=client, max_retries=0)


def pixels(b64_json):
    return np.asarray(Image.open(BytesIO(base64.b64decode(b64_json))))


def draw(client, **fields):
    body = {"model": "plain", "prompt": "A red circle", "seed": 3, **fields}
    return client.post("/v1/images/generations", json=body)


def error(answer, status, param, *words):
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["param"] == param
    for word in words:
        assert word in body["message"]


def test_models_are_the_teacher_and_the_students_with_their_digests(client, official):
    found = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert found["teacher"]["scores"] is None  # this base brings none
    assert found["teacher"]["evaluations"] == 80 and found["teacher"]["steps"] == 40
    assert found["plain"]["evaluations"] == 4
    assert found["plain"]["scores"]["tasks"] == {"t2i": 3.0, "edit": 3.0}
    assert found["plain"]["scores"]["benchmark"] == "miniature"
    assert found["plain"]["digest"] != found["bold"]["digest"]
    assert {model.id for model in official.models.list()} == set(found)
    assert official.models.retrieve("plain").id == "plain"


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
)
NULLS = dict.fromkeys(("size", "n", "quality", "response_format", "style", "stream", "user"))


@pytest.fixture(scope="module", params=["generations", "edits"])
def ask(request, client):
    """Asks one of the two endpoints for a picture of one step."""

    def post(**fields):
        if request.param == "generations":
            return draw(client, **{"steps": 1, **fields})
        small = png(np.zeros((64, 64, 3), np.uint8))
        body = {"model": "plain", "prompt": "x", "seed": 3, "steps": 1, **fields}
        form = {name: "" if value is None else value for name, value in body.items()}
        return client.post("/v1/images/edits", data=form, files={"image": small})

    return post


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


@pytest.mark.parametrize(
    "size",
    [(7, 200), (200, 7), (3, 600), (1, 64), (64, 1), (1000, 1), (16, 3300), (2000, 20), (1, 1)],
)
def test_elongated_pictures_are_drawn_or_refused(client, size):
    answer = edit(client, png(Image.new("RGB", size)))
    if max(size) <= 8 * min(size):
        assert answer.status_code == 200
    else:
        error(answer, 400, "image", f"{size[0]}x{size[1]}", "cut the picture")


def test_an_edit_has_the_shape_of_its_first_picture(client):
    def size(picture, **fields):
        return edit(client, png(picture), steps=1, **fields).json()["size"]

    assert size(Image.new("RGB", (64, 64))) == "64x64"
    assert size(Image.new("RGB", (1000, 500))) == "96x64"
    assert size(Image.new("RGB", (500, 1000))) == "64x96"
    assert size(Image.new("RGB", (400, 100))) == "96x32"  # the nearest that is trained on
    assert size(Image.new("RGB", (1000, 500)), size="64x64") == "64x64"


def test_uploads_are_taken_as_they_look(client, monkeypatch):
    """What reaches the model is small, upright, and of 8 bits."""
    seen = []
    real = images.png
    monkeypatch.setattr(images_routes, "png", lambda picture: seen.append(picture) or real(picture))

    def upload(picture, kind="PNG", **options):
        file = BytesIO()
        picture.save(file, kind, **options)
        assert edit(client, file.getvalue(), steps=1).status_code == 200
        return seen.pop()

    left = Image.new("RGB", (300, 200))
    left.paste((255, 255, 255), (0, 0, 150, 200))
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down: what was left is right
    for kind in ("JPEG", "PNG", "WEBP"):
        shown = upload(left, kind, exif=turned)
        assert shown.width * shown.height <= 4 * 64 * 64 * 1.02
        assert shown.getpixel((0, 0))[0] < 9 and shown.getpixel((shown.width - 1, 0))[0] > 246
    gray = Image.fromarray(np.full((64, 64), 128 * 256, np.uint16))
    assert upload(gray).getpixel((5, 5)) == (128, 128, 128)
    clear = Image.new("P", (64, 64))
    clear.info["transparency"] = 0
    assert upload(clear, transparency=0).getpixel((5, 5))[3] == 0


def test_an_unexpected_error_has_the_shape_and_an_id_that_the_log_knows(service, caplog):
    async def broken(deployment, request):
        raise ZeroDivisionError("a secret")

    with client_of(replace(service, generate=broken)) as client:
        answer = draw(client)
        error(answer, 500, None)
        assert "a secret" not in answer.text
        assert answer.headers["x-request-id"] in caplog.text and "a secret" in caplog.text
        answer = client.post("/v1/images/generations", json={}, headers={"x-request-id": "mine"})
        error(answer, 400, "prompt")
    assert draw(client).headers["x-request-id"]


def edit(client, data, **fields):
    body = {"model": "plain", "prompt": "Make it blue", **fields}
    return client.post("/v1/images/edits", data=body, files={"image": ("in", data)})


def test_uploads_that_are_no_pictures_are_errors(client):
    whole = png(np.zeros((64, 64, 3), np.uint8))
    assert edit(client, whole).status_code == 200
    error(edit(client, b"not a picture"), 400, "image", "cannot be read")
    error(edit(client, whole[: len(whole) // 2]), 400, "image", "cannot be read")
    for side in (6_000, 20_000):  # above our limit, above Pillow's own
        bomb = BytesIO()
        Image.new("1", (side, side)).save(bomb, "PNG")
        assert len(bomb.getvalue()) < 100_000
        error(edit(client, bomb.getvalue()), 400, "image", "too many pixels")
    gif = BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    error(edit(client, gif.getvalue()), 400, "image", "PNG, JPEG or WebP")
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    error(edit(client, png(noise)), 400, "image", "at most 100000")
    error(edit(client, bytes(4 * 2**20)), 413, None)
    error(client.post("/v1/images/edits", data={"model": "plain", "prompt": "x"}), 400, "image")


def test_bodies_without_a_length_are_bounded_too(client):
    pieces = (b" " * 65536 for _ in range(64))
    error(client.post("/v1/images/generations", content=pieces), 413, None)


def test_cases_and_single_scores(client):
    (benchmark,) = client.get("/v1/benchmarks").json()["data"]
    assert benchmark == {
        "id": "miniature",
        "tasks": {task: list(names) for task, names in CATEGORIES.items()},
        "digest": MiniatureBenchmark().digest,
    }
    edits, t2i = f"{BENCHMARK}/edit/cases", f"{BENCHMARK}/t2i/cases"
    cases = client.get(f"{edits}?per_category=2").json()["data"]
    assert len(cases) == 12 and {case["size"] for case in cases} == {"64x64"}
    (path,) = cases[0]["references"]
    source = client.get(path)
    assert source.headers["content-type"] == "image/png"
    body = {"benchmark": "miniature", "task": "edit", "case": cases[0]["id"]}
    body["b64_json"] = b64(source.content)
    untouched = client.post("/v1/scores", json=body).json()
    assert 1 <= untouched["score"] <= 2.5 and untouched["details"]["cap"]
    assert set(untouched["measures"]) == {"compliance", "quality"}
    assert untouched["details"]["attributes"] and untouched["failure"] is None
    error(client.post("/v1/scores", json={**body, "case": "scene-999"}), 404, "case")
    error(client.post("/v1/scores", json={**body, "benchmark": "x"}), 404, "benchmark", "miniature")
    error(client.post("/v1/scores", json={**body, "task": "x"}), 400, "task")
    error(client.post("/v1/scores", json={**body, "b64_json": "?"}), 400, "b64_json")
    large = b64(png(np.zeros((96, 96, 3), np.uint8)))
    error(client.post("/v1/scores", json={**body, "b64_json": large}), 400, "b64_json", "64x64")
    assert client.get(t2i).json()["data"][0]["references"] == []
    error(client.get(f"{t2i}/text-000/input.png"), 404, "case")
    error(client.get(f"{edits}/scene-002/input.png"), 404, "case")
    error(client.get(f"{path}?number=2"), 404, "case", "has 1 pictures")
    error(client.get(f"{edits}?per_category=3"), 400, "per_category", "at most 2")
    error(client.get("/v1/benchmarks/x/t2i/cases"), 404, "benchmark", "'x'", "miniature")
    error(client.get(f"{BENCHMARK}/x/cases"), 400, "task")


def test_without_a_benchmark_nothing_is_scored_and_nothing_claims_a_score(recipe, store):
    bare = recipe.model_copy(update={"evaluation": Evaluation()})
    with client_of(in_process(bare, store, SETTINGS)) as client:
        assert client.get("/v1/benchmarks").json()["data"] == []
        assert client.get("/v1/me").json()["judges"] == []
        models = client.get("/v1/models").json()["data"]
        assert {"plain", "teacher"} <= {model["id"] for model in models}
        assert [model["scores"] for model in models] == [None] * len(models)
        asked = {"model": "plain", "task": "t2i", "cases": 1}
        wanted = (404, "benchmark", "its recipe names no benchmark")
        error(client.post("/v1/evaluations", json=asked), *wanted)
        error(client.post("/v1/evaluations", json={**asked, "benchmark": "miniature"}), *wanted)
        scored = {"benchmark": "miniature", "task": "t2i", "case": "text-000", "b64_json": "x"}
        error(client.post("/v1/scores", json=scored), *wanted)
        error(client.get(f"{BENCHMARK}/t2i/cases"), *wanted)
        assert draw(client).status_code == 200


def b64(data):
    return base64.b64encode(data).decode()


def test_evaluations_are_run_once_kept_and_listed(client, store):
    asked = {"model": "plain", "task": "edit", "cases": 1, "seed": 7}
    first = client.post("/v1/evaluations", json=asked)
    assert first.status_code == 202
    found = client.get(f"/v1/evaluations/{first.json()['id']}").json()
    assert found["status"] == "succeeded" and found["progress"] == {"done": 6, "total": 6}
    assert (found["benchmark"], found["task"], found["judge"]) == ("miniature", "edit", "exact")
    result = found["result"]
    assert result["counted"] == 6 and set(result["measures"]) == {"compliance", "quality"}
    assert set(result["categories"]) == {answer["category"] for answer in result["answers"]}
    mean = np.mean([answer["score"] for answer in result["answers"]])
    assert result["score"] == pytest.approx(mean)
    assert all(client.get(*answer["references"]).is_success for answer in result["answers"])
    picture = client.get(result["answers"][0]["picture"])
    assert Image.open(BytesIO(picture.content)).size == (64, 64)

    again = client.post("/v1/evaluations", json=asked)
    assert again.status_code == 200 and again.json()["id"] == first.json()["id"]
    other = client.post("/v1/evaluations", json={**asked, "model": "bold"})
    assert other.json()["id"] != first.json()["id"]
    listed = client.get("/v1/evaluations").json()["data"]
    assert {item["id"] for item in listed} == {first.json()["id"], other.json()["id"]}
    assert all(item["result"] is None for item in listed)

    ended = client.delete(f"/v1/evaluations/{first.json()['id']}").json()
    assert ended["status"] == "succeeded"
    error(client.get("/v1/evaluations/eval-0"), 404, "id")
    error(client.get("/v1/evaluations/a%20b"), 404, None)
    error(client.post("/v1/evaluations", json={**asked, "cases": 3}), 400, "cases", "at most 2")
    error(client.post("/v1/evaluations", json={**asked, "task": "x"}), 400, "task")
    wrong = {**asked, "benchmark": "x"}
    error(client.post("/v1/evaluations", json=wrong), 404, "benchmark", "allowed: miniature")
    named = client.post("/v1/evaluations", json={**asked, "benchmark": "miniature"})
    assert named.json()["id"] == first.json()["id"]


def test_an_evaluation_and_the_images_api_draw_the_same_picture(client):
    case = client.get(f"{BENCHMARK}/t2i/cases").json()["data"][0]
    asked = {"model": "plain", "task": "t2i", "cases": 1}
    name = client.post("/v1/evaluations", json=asked).json()["id"]
    evaluated = client.get(f"/v1/evaluations/{name}/pictures/{case['id']}.png").content
    fields = {"prompt": case["prompt"], "seed": case["seed"], "size": case["size"]}
    drawn = draw(client, **fields).json()["data"][0]["b64_json"]
    difference = pixels(drawn).astype(int) - np.asarray(Image.open(BytesIO(evaluated)))
    assert np.abs(difference).max() <= 1


def test_an_alias_moves_on_to_another_student(client, store):
    set_alias(store, "best", "plain")
    before = draw(client, model="best").json()["data"][0]["b64_json"]
    assert before == draw(client, model="plain").json()["data"][0]["b64_json"]
    set_alias(store, "best", "bold")
    after = draw(client, model="best").json()["data"][0]["b64_json"]
    assert after == draw(client, model="bold").json()["data"][0]["b64_json"] != before


def test_tokens_give_roles(service, tmp_path):
    secrets = {
        role: add_token(tmp_path / "tokens.json", role, role)
        for role in ("read", "generate", "admin")
    }
    guarded = replace(service, tokens=read_tokens(tmp_path / "tokens.json"))
    with client_of(guarded) as client:

        def ask(path, token=None, method="GET", **more):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return client.request(method, path, headers=headers, **more)

        body = {"model": "plain", "prompt": "A red circle"}
        error(ask("/v1/models"), 401, None)
        error(ask("/v1/me"), 401, None)
        error(ask("/v1/me", "fr-wrong"), 401, None)
        assert {role: ask("/v1/me", secrets[role]).json()["role"] for role in secrets} == {
            role: role for role in secrets
        }
        error(ask("/v1/models", "fr-wrong"), 401, None)
        assert ask("/v1/models", secrets["read"]).status_code == 200
        drawing = ("/v1/images/generations", secrets["read"], "POST")
        error(ask(*drawing, json=body), 403, None, "read", "generate")
        drawing = ("/v1/images/generations", secrets["generate"], "POST")
        assert ask(*drawing, json=body).status_code == 200
        gone = ("/v1/evaluations/eval-0", secrets["generate"], "DELETE")
        error(ask(*gone), 403, None, "admin")
        assert ask("/v1/evaluations/eval-0", secrets["admin"], "DELETE").status_code == 404
        assert ask("/healthz").status_code == 200
    assert all(secret not in (tmp_path / "tokens.json").read_text() for secret in secrets.values())


def test_limits_are_told_as_they_are_enforced(client):
    """The largest that is told is allowed, one more is refused."""
    me = client.get("/v1/me").json()
    assert me["role"] == "admin"  # there are no tokens
    limits = me["limits"]
    told = {"pixels": 4 * 64 * 64, "size_step": 32, "aspect": 8}
    assert limits == {**SETTINGS.limits.model_dump(), **told}
    step = limits["size_step"]
    width = 2 * step
    height = limits["pixels"] // width
    assert draw(client, size=f"{width}x{height}", steps=1).status_code == 200
    error(draw(client, size=f"{width}x{height + step}"), 400, "size")
    most = step * limits["aspect"]
    assert draw(client, size=f"{step}x{most}", steps=1).status_code == 200
    error(draw(client, size=f"{step}x{most + step}"), 400, "size")
    error(draw(client, size=f"{step // 2}x{step}"), 400, "size")
    for field, most in (("n", limits["n"]), ("steps", limits["steps"])):
        assert draw(client, **{"steps": 1, field: most}).status_code == 200
        error(draw(client, **{field: most + 1}), 400, field)
    cases = f"{BENCHMARK}/t2i/cases?per_category="
    assert client.get(f"{cases}{limits['cases']}").status_code == 200
    error(client.get(f"{cases}{limits['cases'] + 1}"), 400, "per_category")


def test_the_judges_that_there_are_are_told(service, client, monkeypatch):
    seer = VlmSettings(base_url="http://127.0.0.1:1/v1", model="seer", max_requests=1)
    settings = SETTINGS.model_copy(update={"judges": {"mine": seer}})
    assert client.get("/v1/me").json()["judges"] == ["exact", "ocr"]
    with client_of(replace(service, settings=settings)) as other:
        assert other.get("/v1/me").json()["judges"] == ["exact", "ocr", "mine"]
        monkeypatch.setattr(base, "find_spec", lambda module: None)
        assert other.get("/v1/me").json()["judges"] == ["exact", "mine"]
        asked = {"model": "plain", "task": "t2i", "cases": 1, "judge": "ocr"}
        error(other.post("/v1/evaluations", json=asked), 400, "judge", "allowed: exact, mine.")


def test_the_document_has_every_path_and_an_example(client):
    document = client.get("/openapi.json").json()
    paths = {f"/v1/{end}" for end in ("images/generations", "images/edits", "models", "me")}
    paths |= {"/v1/benchmarks", "/v1/benchmarks/{benchmark}/{task}/cases", "/v1/scores"}
    assert paths | {"/v1/evaluations"} <= set(document["paths"])
    schemas = document["components"]["schemas"]
    assert schemas["Generation"]["properties"]["prompt"]["examples"]
    assert schemas["Me"]["properties"]["role"]["examples"]
    references = {
        name: field["anyOf"][0]["$ref"].rpartition("/")[2]
        for name, field in schemas["Evaluation"]["properties"].items()
        if "$ref" in field.get("anyOf", [{}])[0]
    }
    assert references == {"score": "MeanScore", "result": "EvaluationResult"}
    fastapis = {"HTTPValidationError", "ValidationError"}
    assert {name for name, schema in schemas.items() if "description" not in schema} == fastapis
    assert set(schemas["Bounds"]["required"]) == set(client.get("/v1/me").json()["limits"])
    security = document["paths"]["/v1/me"]["get"]["security"]
    assert security == document["paths"]["/v1/models"]["get"]["security"]


def test_answers_carry_the_headers_that_keep_browsers_safe(client):
    for path in ("/", "/v1/models", "/v1/nothing"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
