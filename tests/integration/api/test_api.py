"""The HTTP application in one process: its models, roles, limits, errors and document."""

from dataclasses import replace

import numpy as np

from flash_ray.serving.images import png
from flash_ray.serving.tokens import add_token, read_tokens
from flash_ray.storage.students import set_alias
from tests.helpers.serving import BENCHMARK, HERE, SETTINGS, client_of, draw, error, pixels


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


def test_an_alias_moves_on_to_another_student(client, store):
    def drawn(model):
        return pixels(draw(client, model=model).json()["data"][0]["b64_json"]).astype(int)

    set_alias(store, "best", "plain")
    before = drawn("best")
    assert abs(before - drawn("plain")).max() <= 1
    set_alias(store, "best", "bold")
    after = drawn("best")
    assert abs(after - drawn("bold")).max() <= 1
    assert abs(after - before).max() > 1


def test_an_unexpected_error_has_the_shape_and_an_id_that_the_log_knows(service, caplog):
    async def broken(deployment, request):
        raise ZeroDivisionError("a secret")

    with client_of(replace(service, generate=broken)) as client:
        answer = draw(client)
        error(answer, 500, None)
        assert "a secret" not in answer.text
        assert answer.headers["x-request-id"] in caplog.text and "a secret" in caplog.text
        assert caplog.text.count("Traceback") == 1
        answer = client.post("/v1/images/generations", json={}, headers={"x-request-id": "mine"})
        error(answer, 400, "prompt")
    assert draw(client).headers["x-request-id"]


def test_without_tokens_only_this_machine_and_its_pages_may_ask(client, service, tmp_path):
    picture = {"image": ("in", png(np.zeros((64, 64, 3), np.uint8)))}
    form = {"model": "plain", "prompt": "Make it blue", "steps": "1"}
    edits = {"url": "/v1/images/edits", "data": form, "files": picture}
    foreign = (
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    )
    for headers in foreign:
        error(client.get("/v1/models", headers=headers), 403, None, "--tokens")
        error(client.post(**edits, headers=headers), 403, None, "--tokens")
    assert client.post(**edits, headers={"Origin": HERE}).status_code == 200
    token = add_token(tmp_path / "tokens.json", "me", "admin")
    with client_of(replace(service, tokens=read_tokens(tmp_path / "tokens.json"))) as guarded:
        headers = {"Authorization": f"Bearer {token}", "Host": "flash-ray.example"}
        assert guarded.get("/v1/models", headers=headers).status_code == 200


def test_every_error_has_a_code_that_a_client_can_tell_it_by(client):
    codes = [
        (draw(client, foo=1), "unknown_parameter"),
        (client.post("/v1/images/generations", json={}), "missing_required_parameter"),
        (draw(client, n="many"), "invalid_value"),
        (draw(client, size="100x64"), "invalid_value"),
        (draw(client, model="nobody"), "model_not_found"),
        (client.get("/v1/nothing"), "not_found"),
        (client.delete("/v1/models"), "method_not_allowed"),
        (client.post("/v1/images/generations", content=bytes(3 * 2**20)), "too_large"),
    ]
    for answer, code in codes:
        assert answer.json()["error"]["code"] == code


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


def test_the_judges_that_there_are_are_told(client):
    me = client.get("/v1/me").json()
    assert me["judges"] == list(me["scales"]) == ["exact", "ocr"]
    assert me["scales"]["ocr"] == "characters right, 0 to 1"
    asked = {"model": "plain", "task": "t2i", "cases": 1, "judge": "mine"}
    answer = client.post("/v1/evaluations", json=asked)
    error(answer, 400, "judge", "'mine' judges no t2i cases of miniature", "allowed: exact, ocr.")


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
