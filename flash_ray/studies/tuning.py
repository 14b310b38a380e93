"""Ray Tune as studies use it: each trial a small driver, retried; no logs of Tune's own."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from flash_ray.studies.setting import OVERHEAD

VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records are the log
    "RAY_AIR_NEW_OUTPUT": "0",  # prints a table, however quiet
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # after Ctrl-C it returns as if all trials had ended
}
RETRIES = 2  # of a trial that failed, each from its last checkpoint


def tuned(
    trainable: Callable[..., None],
    shared: Mapping[str, Any],
    space: Mapping[str, Any],
    config: tune.TuneConfig,
    callbacks: Sequence[tune.Callback] = (),
) -> dict[Any, str]:
    """Runs trials; returns why some failed more than `RETRIES` times, by their "trial".

    Args:
        trainable: called with {"trial": ...} and what is shared.
        space: Tune's, if the configuration's search algorithm does not propose "trial".
    """
    os.environ.update(VARIABLES)
    driver = tune.with_resources(tune.with_parameters(trainable, **shared), {"cpu": OVERHEAD})
    with tempfile.TemporaryDirectory(prefix="flash-ray-tune-") as folder:
        results = tune.Tuner(
            driver,
            param_space=dict(space),
            tune_config=config,
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=list(callbacks),
                verbose=0,
            ),
        ).fit()
    return {
        result.config["trial"]: str(result.error).strip().splitlines()[-1]
        for result in results
        if result.error
    }
