"""Name the places of a work folder's artefacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import inside

FOLDS, REPETITIONS = "folds", "repetitions"
INNER_FOLDS = "inner_folds.csv"
"""File in a run's folder: logits of the patches that its frozen network learnt from, each by a head without it."""
_OUTPUTS = (
    "slides.parquet", "groups.parquet", "features.json", "review.sqlite",
    "status/*.json", "status/locks/*.lock",
    "slides/*.zarr", "patches/*.parquet", "predictions/*.parquet", "heatmaps/*/heatmap.json", "heatmaps/*/overlay.png",
    "runs/*/*.json", "evaluations/*/metrics.json",
)  # fmt: skip
"""Each stage leaves at least one of these."""


@dataclass(frozen=True)
class WorkFolder:
    """A work folder, and where each artefact lies in it.

    Every member returns a path below the folder, whether or not something is there.

    Raises
    ------
    InputUnsupportedError
        A symbolic link leads outside the folder.

    Examples
    --------
    >>> WorkFolder(Path("work")).run("gerne")
    PosixPath('work/runs/gerne')
    """

    root: Path

    def require_outputs(self) -> None:
        """Refuse a folder in which no stage has left anything, such as a home folder.

        Raises
        ------
        InputMissingError
            There is no such folder, or no output of this package in it.
        """
        if not self.root.is_dir():
            found = f"no folder {self.root}"
        elif not any(next(self.root.glob(pattern), None) for pattern in _OUTPUTS):
            found = "nothing that pathopatch made is in this folder"
        else:
            return
        remedy = "give the work folder of a study, or the folder that predict wrote"
        raise InputMissingError(found, place=str(self.root), remedy=remedy)

    @property
    def slides(self) -> Path:
        """``slides.parquet``: one row per slide."""
        return inside(self.root, "slides.parquet")

    @property
    def left_out(self) -> Path:
        """``left-out.json``: the reason why ``predict`` left a file out, by its path."""
        return inside(self.root, "left-out.json")

    @property
    def parts(self) -> Path:
        """``parts/``: which parts of a divided cohort the folder holds."""
        return inside(self.root, "parts")

    @property
    def groups(self) -> Path:
        """``groups.parquet``: one row per patch, with split and groups."""
        return inside(self.root, "groups.parquet")

    @property
    def untrained(self) -> Path:
        """``untrained.json``: why a run of the study was not trained, by its name."""
        return inside(self.root, "untrained.json")

    @property
    def audit(self) -> Path:
        """``groups/audit.json``; its tables lie beside it."""
        return inside(self.root, "groups", "audit.json")

    def hard_share(self, run: str, share: float) -> Path:
        """``groups/hard/<run>/<share>.parquet``: the patches that a run's model finds hardest; facts lie beside it."""
        return inside(self.root, "groups", "hard", run, f"{share:g}.parquet")

    @property
    def comparison(self) -> Path:
        """``comparison.csv``: the evaluated runs side by side."""
        return inside(self.root, "comparison.csv")

    @property
    def features(self) -> Path:
        """``features.json``: the feature files behind the patches, where the patches are features."""
        return inside(self.root, "features.json")

    def frozen_features(self, key: str, slide_id: str) -> Path:
        """Features of a slide's labelled patches by a frozen backbone, ``features/<key>/<slide>.npz``."""
        return inside(self.root, "features", key, f"{slide_id}.npz")

    def store(self, slide_id: str) -> Path:
        """Patches, overview and tissue mask of a tiled slide (OME-Zarr)."""
        return inside(self.root, "slides", f"{slide_id}.zarr")

    def patches(self, slide_id: str) -> Path:
        """Patch table of a tiled slide."""
        return inside(self.root, "patches", f"{slide_id}.parquet")

    def predictions(self, slide_id: str) -> Path:
        """Table of a predicted slide, one row per patch."""
        return inside(self.root, "predictions", f"{slide_id}.parquet")

    def heatmap(self, slide_id: str) -> Path:
        """Folder of a predicted slide's heatmap and exports."""
        return inside(self.root, "heatmaps", slide_id)

    def run(self, name: str) -> Path:
        """Folder of a training run."""
        return inside(self.root, "runs", name)

    def model(self, run: str) -> Path:
        """Model bundle of a training run."""
        return inside(self.root, "runs", run, "model")

    def evaluation(self, run: str) -> Path:
        """Folder of a training run's evaluation."""
        return inside(self.root, "runs", run, "evaluation")

    def fold(self, number: int) -> Path:
        """Work folder of one fold of a cross-validation, ``folds/<number>``."""
        return inside(self.root, FOLDS, str(number))

    def repetition(self, seed: int) -> Path:
        """Work folder of another assignment of patients to folds, ``repetitions/s<seed>``."""
        return inside(self.root, REPETITIONS, f"s{seed}")

    def assignment_of(self, run: str) -> Path:
        """Work folder in whose folds a run was trained: this one, or a repetition."""
        folders = [*self.root.glob(f"{FOLDS}/*/runs/{run}"), *self.root.glob(f"{REPETITIONS}/*/{FOLDS}/*/runs/{run}")]
        return folders[0].parents[3] if folders else self.root

    @property
    def tiled(self) -> WorkFolder:
        """The folder of slides and patches: this one, or for a fold or a repetition that of the whole cohort."""
        is_part = self.root.parent.name in (FOLDS, REPETITIONS) and not (self.root / "slides").exists()
        return WorkFolder(self.root.parent.parent).tiled if is_part else self
