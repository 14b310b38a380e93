"""What the integration tests share: one real object store, one local Ray cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_ray.cluster.session import local_cluster
from flash_ray.storage.embedded import embedded_store
from flash_ray.storage.s3 import Store
from tests.helpers.small import build_base


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A real S3 server for the whole session; AWS_* point to it meanwhile."""
    with embedded_store(Path(tmp_path_factory.mktemp("store"))) as embedded:
        yield embedded


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline, very small and untrained."""
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def cluster(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray with places for two workers and two teachers; it can use `store`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_RAY_CACHE", str(tmp_path_factory.mktemp("node")))
        # For the workers: classes of the tests and of tests.helpers.
        folders = (Path(__file__).parent, Path(__file__).parents[2])
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        with local_cluster(cpus=4, trainers=2, teachers=2):
            yield
