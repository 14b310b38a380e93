"""cluster/aws.yaml against Ray's own schema, and against what the code asks for."""

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import flash_ray
from flash_ray.cluster.resources import cluster_needs
from flash_ray.recipe import load_recipe
from flash_ray.teachers.protocol import teacher_actors
from tests.helpers.containerfile import FILE, last, user_of

CONFIG = yaml.safe_load((FILE.parents[1] / "cluster/aws.yaml").read_text())


def test_ray_accepts_it_and_adds_no_installation_of_its_own():
    prepared = prepare_config(CONFIG)
    validate_config(prepared)
    assert not any("install" in line for line in prepared["setup_commands"])
    assert not any("install" in line for line in prepared["head_setup_commands"])
    assert all(t["node_config"]["ImageId"] for t in prepared["available_node_types"].values())


def test_it_has_room_for_the_large_recipe():
    recipe = load_recipe("qwen-image-2.1-full")
    types = CONFIG["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    for resource, needed in cluster_needs(recipe, teacher_actors(recipe)).items():
        offered = sum(
            t.get("max_workers", 0) * t["resources"].get(resource, 0) for t in types.values()
        )
        assert offered >= needed, resource
    for kind in ("trainer", "teacher"):
        resources, runtime = types[kind]["resources"], recipe.runtime
        assert resources["CPU"] / resources[kind] >= runtime.cpus_per_worker
        assert resources["GPU"] == resources[kind]
    assert sum(t.get("max_workers", 0) for t in types.values()) <= CONFIG["max_workers"]


def test_it_suits_the_image():
    assert CONFIG["docker"]["image"].endswith(f"/flash-ray:{flash_ray.__version__}")
    (token,) = CONFIG["file_mounts"]
    assert f"--env=RAY_AUTH_TOKEN_PATH={token}" in CONFIG["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in CONFIG["docker"]["run_options"]
    assert token.startswith(last("WORKDIR"))
    user, _, group = user_of().partition(":")
    (command,) = CONFIG["initialization_commands"]
    folder = command.split()[-1]
    assert f"-o {user} -g {group}" in command
    assert f"--volume={folder}:/cache" in CONFIG["docker"]["run_options"]
