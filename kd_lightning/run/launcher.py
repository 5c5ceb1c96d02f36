"""What the workers of a multirun on one machine share out."""

import os
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"


class OneGPU(Callback):
    """Gives each worker one of the GPUs that this machine has, by the number of the worker's first job. The worker keeps it: a
    process cannot change its GPU once it has used it."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        import torch

        if torch.cuda.device_count() < 2 or torch.cuda.is_initialized():  # device_count touches no GPU
            return
        there = os.environ.get(VISIBLE) or ",".join(map(str, range(torch.cuda.device_count())))
        devices = there.split(",")
        os.environ[VISIBLE] = devices[config.hydra.job.num % len(devices)]
