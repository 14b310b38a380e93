"""Recipes that are refused."""

import pytest

from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe


def refusal(*overrides: str) -> str:
    """The one line in which the miniature's recipe with these overrides is refused."""
    with pytest.raises(UserError) as error:
        load_recipe("miniature", list(overrides))
    message = str(error.value)
    assert "\n" not in message
    return message
