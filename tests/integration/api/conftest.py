"""What the tests of the API share: the application in one process, over a real store."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient

from flash_ray.recipe import Recipe
from flash_ray.serving.images import png
from flash_ray.serving.service import Service
from flash_ray.storage.s3 import Store
from tests.helpers.distilling import small_recipe
from tests.helpers.serving import HERE, SETTINGS, client_of, draw, edit, in_process
from tests.helpers.small import publish


@pytest.fixture(scope="package")
def store(store: Store) -> Store:
    """A prefix of their own."""
    return Store(store.bucket, "api", store.endpoint)


@pytest.fixture(scope="package")
def recipe(base: Path) -> Recipe:
    return small_recipe(base)


@pytest.fixture(scope="package")
def service(
    recipe: Recipe, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """One with the students `plain` and `bold`, and a real small model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        publish(store, recipe, "plain", tmp_path_factory.mktemp("a"))
        publish(store, recipe, "bold", tmp_path_factory.mktemp("b"), scale=1.5)
        yield in_process(recipe, store, SETTINGS)


@pytest.fixture(scope="package")
def client(service: Service) -> Iterator[TestClient]:
    with client_of(service) as client:
        yield client


@pytest.fixture(scope="package")
def official(client: TestClient) -> openai.OpenAI:
    """The official client, its requests handed to the application."""
    return openai.OpenAI(base_url=f"{HERE}/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture(scope="package", params=["generations", "edits"])
def ask(request: pytest.FixtureRequest, client: TestClient) -> Callable[..., Any]:
    """Asks one of the two endpoints for a picture of one step."""

    def post(**fields: Any) -> Any:
        asked = {"seed": 3, "steps": 1, **fields}
        if request.param == "generations":
            return draw(client, **asked)
        form = {name: "" if value is None else value for name, value in asked.items()}
        return edit(client, png(np.zeros((64, 64, 3), np.uint8)), **form)

    return post
