"""What the integration tests share: one real object store, one local Ray cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_ray.checkpoints.storage import Store
from flash_ray.checkpoints.weed import embedded_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A real S3 server for the whole session; AWS_* point to it meanwhile."""
    with embedded_store(Path(tmp_path_factory.mktemp("store"))) as embedded:
        yield embedded
