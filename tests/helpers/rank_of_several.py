"""One of the processes of `test_distributed.py`: train, and write the outcome."""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist


def train(rank: int, world: int, folder: Path, jobs: dict[str, dict]) -> None:
    """Join the others through a file and train every job together with them."""
    from made_patches import toy

    from pathopatch.core.artefacts import Stamp
    from pathopatch.core.config import TrainConfig
    from pathopatch.core.errors import NonFiniteError
    from pathopatch.training.checkpoint import CheckpointFolder
    from pathopatch.training.fit import fit_arrays

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    patches, val = toy([[30, 8], [8, 30]], seed=0), toy([[150, 150], [150, 150]], seed=1)
    for name, settings in jobs.items():
        checkpoints = CheckpointFolder(folder / name, Stamp(stage="f"))
        try:
            fitted = fit_arrays(patches, val, TrainConfig(**settings), checkpoints=checkpoints)
        except NonFiniteError as error:
            outcome: dict[str, object] = {"error": str(error)}
        else:
            outcome = {
                "history": fitted.history,
                "threshold": fitted.decision_threshold,
                "validation": fitted.validation,
            }
            torch.save(fitted.network.state_dict(), folder / f"{name}-{rank}.pt")
        (folder / f"{name}-{rank}.json").write_text(json.dumps(outcome))
    dist.destroy_process_group()
