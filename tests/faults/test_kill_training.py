"""kill -9 at any step of training and around every rename: resumed, a run ends as an undisturbed one, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from fresh_process import FRESH

from pathopatch.core.artefacts import Stamp
from pathopatch.core.files import FAULT_VARIABLE

STEPS = 4


METHODS = {"gerne": {}, "groupdro": {"groupdro": {"eta": 0.5}}}
SETTINGS = {"steps": STEPS, "evaluations": 3, "schedule": "cosine"}


def _train(folder: Path, name: str, fault: str) -> None:
    """Train in this process, which a fault may end, and leave what was reached."""
    from made_patches import toy

    from pathopatch.core.config import TrainConfig
    from pathopatch.training.checkpoint import CheckpointFolder
    from pathopatch.training.fit import fit_arrays

    if fault:
        os.environ[FAULT_VARIABLE] = fault
    config = TrainConfig(
        input_px=16, batch_per_class=4, threads=1, learning_rate=3e-3, warmup_steps=2, device="cpu", method=name,
        **SETTINGS, **METHODS[name],
    )  # fmt: skip
    train, val = toy([[20, 6], [6, 20]], seed=0), toy([[6, 6], [6, 6]], seed=1)
    fitted = fit_arrays(train, val, config, checkpoints=CheckpointFolder(folder, Stamp(stage="f")))
    weights = hashlib.sha256()
    for key, value in sorted(fitted.network.state_dict().items()):
        weights.update(key.encode() + value.contiguous().numpy().tobytes())
    reached = [weights.hexdigest(), fitted.history, fitted.step, fitted.decision_threshold, fitted.validation]
    (folder / "reached.json").write_text(json.dumps(reached))


def _killed(folder: Path, name: str, fault: str) -> bool:
    """Train in a process of its own and return whether the fault ended it."""
    folder.mkdir()
    process = FRESH.Process(target=_train, args=(folder, name, fault))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
@pytest.mark.fault("kill")
@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_at_any_step_or_rename_ends_as_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    assert not _killed(tmp_path / "undisturbed", name, "")
    expected = (tmp_path / "undisturbed" / "reached.json").read_text()
    kills = 0
    for point in ("step", "rename", "renamed"):
        for number in range(1, 2 * STEPS + 2):
            folder = tmp_path / f"{point}-{number}"
            if not _killed(folder, name, f"{point}:{number}"):
                break
            assert not (folder / "reached.json").exists()
            kills += 1
            _train(folder, name, "")
            assert (folder / "reached.json").read_text() == expected, f"killed at {point} {number}"
    assert kills == STEPS + 3 + 3  # a checkpoint after each of the steps 1, 3 and 4
