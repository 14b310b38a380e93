"""What a Serve configuration's `import_path` names: the application, from typed arguments."""

from pathlib import Path

from pydantic import Field
from ray import serve

from flash_ray.backbones.load import resolve_base
from flash_ray.checkpoints.storage import Store
from flash_ray.recipe import load_recipe
from flash_ray.recipe.schema import Section
from flash_ray.serving.app import application
from flash_ray.serving.commands import refuse_judges
from flash_ray.serving.settings import Serving
from flash_ray.serving.tokens import read_tokens


class BuildArgs(Section):
    """`applications[].args` of a Serve configuration, as in cluster/kuberay/base/endpoints.yaml."""

    recipe: str = Field("miniature", description="a preset's name or a YAML file on every node")
    overrides: list[str] = Field([], description="KEY=VALUE changes of the recipe")
    store: str = Field(pattern="^s3://", description="s3://bucket/prefix that all nodes can reach")
    serving: Serving = Field(Serving(), description="what `flash-ray serve --settings` reads")
    tokens: Path = Field(description="a file that `flash-ray token` made, on every node")


def build(args: BuildArgs) -> serve.Application:
    """The endpoints. A cluster's are open to others, so there is no way without tokens.

    Raises:
        UserError: the recipe, its base, the store, a judge or the tokens cannot be used.
    """
    recipe = load_recipe(args.recipe, args.overrides)
    resolve_base(recipe.base)
    refuse_judges(args.serving)
    tokens = read_tokens(args.tokens)
    store = Store.from_url(args.store)
    store.check()
    return application(recipe, store, args.serving, tokens)
