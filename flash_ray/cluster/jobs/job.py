"""What is sent to a cluster: a command and its files. Needs no Ray, so that checks are quick."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from flash_ray import __version__
from flash_ray.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """A command to run on a cluster.

    Args:
        command: of `flash-ray submit`.
        name: of the run, the student or the study.
        words: of the `flash-ray` command that the job runs, in a folder with `files`.
        recipe: whose digest goes into the id.
        files: text by name.
        extras: of flash_ray, what the nodes need beside its requirements.
        repeats: words that do not make it another job, such as --resume.
    """

    command: str
    name: str
    words: tuple[str, ...]
    recipe: Recipe
    files: Mapping[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """COMMAND-NAME-DIGEST: the same for what was sent before, and only for that."""
        content = [self.recipe.digest, self.words, sorted(self.files.items())]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
        return f"{self.command}-{self.name}-{digest}"

    @property
    def metadata(self) -> dict[str, str]:
        """What the dashboard shows beside the job."""
        return {
            "flash_ray": __version__,
            "command": self.command,
            "recipe": self.recipe.name,
            "recipe_digest": self.recipe.digest,
        }
