"""Event files: one point per evaluation, the history's own numbers, also after a kill; a clear word without them."""

from importlib.util import find_spec

import pytest
from made_patches import toy, write_work

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.training import checkpoint
from pathopatch.training.checkpoint import EVENTS, CheckpointFolder
from pathopatch.training.fit import fit_arrays
from pathopatch.training.run import fit

SMALL = {"input_px": 16, "steps": 6, "batch_per_class": 4, "evaluations": 3, "threads": 1}
needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="the extra `tensorboard` is not installed: event files cannot be read back"
)


class _Killed(Exception):
    pass


def _points(folder):
    """Return the values that TensorBoard shows: by name, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / EVENTS))
    events.Reload()
    return {tag: {point.step: point.value for point in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@needs_tensorboard
def test_event_files_show_the_history_once_also_when_the_run_was_killed(tmp_path):
    def progress(step, total, metrics):
        if step == 5:
            raise _Killed

    patches = toy([[20, 6], [6, 20]], seed=0)
    config = TrainConfig(**SMALL, tensorboard=True)
    with pytest.raises(_Killed):
        fit_arrays(patches, patches, config, checkpoints=CheckpointFolder(tmp_path, "f"), progress=progress)
    assert list(_points(tmp_path)["loss"]) == [2, 4]
    rows = fit_arrays(patches, patches, config, checkpoints=CheckpointFolder(tmp_path, "f")).history
    points = _points(tmp_path)
    assert set(points) == {"loss", "loss_biased", "loss_less_biased", "val_wga", "val_gba"}
    for name, values in points.items():
        assert values == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-6)
    fit_arrays(
        patches, patches, config.model_copy(update={"evaluations": 2}), checkpoints=CheckpointFolder(tmp_path, "other")
    )
    assert list(_points(tmp_path)["loss"]) == [3, 6]  # another run's points are gone


@needs_tensorboard
def test_a_run_with_event_files_is_otherwise_the_same(tmp_path):
    contents = []
    for name, wants in (("a", True), ("b", False)):
        write_work(tmp_path / name)
        folder = fit(tmp_path / name, TrainConfig(**SMALL, tensorboard=wants))
        assert (folder / EVENTS).exists() == wants
        left_out = ("log.json", "config.json")
        files = [p for p in folder.rglob("*") if p.is_file() and p.name not in left_out and EVENTS not in p.parts]
        contents.append({str(p.relative_to(folder)): p.read_bytes() for p in files})
    assert contents[0] == contents[1]


def test_without_the_package_the_run_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None)
    patches = toy([[6, 6], [6, 6]], seed=0)
    with pytest.raises(InputUnsupportedError, match="pip install tensorboard"):
        fit_arrays(
            patches, patches, TrainConfig(**SMALL, tensorboard=True), checkpoints=CheckpointFolder(tmp_path, "f")
        )
