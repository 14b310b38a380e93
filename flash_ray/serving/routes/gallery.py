"""The page that a person looks at. It is public; what it asks for is not."""

import mimetypes
from importlib import resources

from fastapi import APIRouter, Response

from flash_ray.serving.http import ApiError

router = APIRouter(include_in_schema=False)
FOLDER = resources.files("flash_ray.serving") / "gallery"


@router.get("/")
def page() -> Response:
    """The page itself."""
    return _file("index.html")


@router.get("/gallery/{name}")
def part(name: str) -> Response:
    """A script or style sheet of the page."""
    return _file(name)


@router.get("/healthz")
def healthy() -> dict[str, str]:
    """An answer that says that the server is up."""
    return {"status": "ok"}


def _file(name: str) -> Response:
    # Only what is in the folder: a name from the network is compared, never joined to a path.
    files = {entry.name: entry for entry in FOLDER.iterdir() if entry.is_file()}
    if name not in files:
        raise ApiError(404, f"There is nothing called {name[:100]!r}.")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(files[name].read_bytes(), media_type=kind)
