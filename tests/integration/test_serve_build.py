"""The application as Ray Serve builds it from a configuration, over a real store."""

import pytest
import yaml
from pydantic import ValidationError
from ray import serve
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as build_as_serve
from ray.serve.schema import ServeApplicationSchema

from flash_ray.errors import UserError
from flash_ray.serving.app import build
from flash_ray.serving.tokens import add_token


@pytest.fixture
def args(store, tmp_path):
    add_token(tmp_path / "tokens.json", "me", "admin")
    written = f"""
        recipe: miniature
        store: {store.url()}
        tokens: {tmp_path}/tokens.json
        serving: {{generate: {{min: 0, max: 3}}, limits: {{n: 2}}}}
    """
    return yaml.safe_load(written)


def test_serve_builds_the_application_from_its_configuration(args):
    ServeApplicationSchema(import_path="flash_ray.serving.app:build", args=args)
    built = build_as_serve(build, args)
    assert isinstance(built, serve.Application)
    gateway = built._bound_deployment
    recipe, store, settings, tokens, benchmarks, generators, _ = gateway.init_args
    assert (recipe.name, store.url(), settings.limits.n) == ("miniature", args["store"], 2)
    assert [(token.name, token.role) for token in tokens] == [("me", "admin")]
    assert list(benchmarks) == ["miniature"]
    assert (
        generators["generate"]._bound_deployment._deployment_config.autoscaling_config.max_replicas
        == 3
    )


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"tokens": "/nowhere/tokens.json"}, UserError, "No such file"),
        ({"store": "s3://no-such-bucket"}, UserError, "no-such-bucket"),
        ({"recipe": "miniatur"}, UserError, "miniatur"),
        ({"overrides": ["evaluation.judge=none"]}, UserError, "evaluation.judge"),
        ({"store": "store"}, ValidationError, "s3://"),
        ({"serving": {"limit": {}}}, ValidationError, "serving.limit"),
        ({"setings": {}}, ValidationError, "setings"),
    ],
)
def test_what_cannot_be_served_is_an_error(args, change, error, message):
    with pytest.raises(error, match=message):
        build_as_serve(build, {**args, **change})


def test_there_is_no_default_recipe(args):
    del args["recipe"]
    with pytest.raises(ValidationError, match="recipe"):
        build_as_serve(build, args)
