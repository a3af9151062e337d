"""The code of a Ray job's workers: a job that runs from a checkout uploads it, and its workers must not use another."""

import os
from typing import Any

# In the environment of what runs from a checkout (see jobs/checkout.py), and of what Ray runs as a job.
CHECKOUT, JOB = "CYCLEPREF_CHECKOUT", "RAY_JOB_CONFIG_JSON_ENV_VAR"


def use_upload() -> dict[str, Any]:
    """Arguments of `ray.init` with which workers run the uploaded code; none where nothing was uploaded.

    Ray adds them to what the job's own runtime_env says. Workers that this machine's own Ray starts find the code by
    PYTHONPATH.
    """
    if not (JOB in os.environ and CHECKOUT in os.environ):
        return {}
    return {"runtime_env": {"worker_process_setup_hook": "jobs.checkout.use_checkout"}}
