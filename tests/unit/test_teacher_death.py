"""A teacher that dies tells its cause in one line, as the run's error quotes it."""

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from flash_ray.errors import UserError
from flash_ray.teachers.client import cause_of


def died_loading(error):
    trace = (
        "ray::TeacherActor.__init__() (pid=1)\n"
        '  File "scorer.py", line 117, in group_scorer\n    model.add_lora(file, name)\n'
        f"{type(error).__module__}.{type(error).__name__}: {error}"
    )
    return ActorDiedError(RayTaskError("TeacherActor.__init__", trace, error))


def test_the_actors_own_error_is_the_cause():
    assert cause_of(died_loading(UserError("teachers: no LoRA in x"))) == "teachers: no LoRA in x"
    assert "OutOfMemoryError: 2 GiB" in cause_of(
        died_loading(type("OutOfMemoryError", (Exception,), {})("2 GiB"))
    )


def test_else_it_is_what_ray_says_in_one_line():
    cause = cause_of(ActorUnavailableError("its node\nis gone", None))
    assert "its node is gone" in cause
    assert "\n" not in cause and len(cause) <= 300
