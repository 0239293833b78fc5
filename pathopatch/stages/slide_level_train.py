"""Train slide classifiers, and write what they say of tested slides: the tables and pictures of the command `mil`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core import artefacts
from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import SlideLevelConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.progress import Progress
from pathopatch.features.bags import Bag, BagSource
from pathopatch.groups.slide_splits import Division

if TYPE_CHECKING:
    from pathopatch.models.attention_pooling import SlideClassifier
    from pathopatch.models.slide_bundle import SlideModelSpec
    from pathopatch.training.slide_level import FittedSlideClassifier

TRAINED = {"attention": True, "mean": False}
"""Poolings that are trained, and whether the weights of each are gated attention."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedSlideModels:
    """What training gave: lists with an item per pooling and fold, and of attention one per tested slide."""

    tables: list[pd.DataFrame] = field(default_factory=list)  # of predictions
    attention: list[pd.DataFrame] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)
    models: list[tuple[str, SlideClassifier, SlideModelSpec]] = field(default_factory=list)  # by name

    def write_models(self, folder: Path) -> None:
        """Write each model into a folder of its name."""
        for name, network, spec in self.models:
            from pathopatch.models.slide_bundle import save_slide_model

            save_slide_model(folder / name, network, spec)


def train_and_test(
    bags: Sequence[Bag],
    divisions: Sequence[Division],
    source: BagSource,
    config: SlideLevelConfig,
    stamp: Stamp,
    *,
    progress: Progress | None,
) -> TrainedSlideModels:
    """Return what each trained pooling learnt in each fold, and what it says of the tested slides."""
    poolings = [name for name in config.pooling if name in TRAINED]
    trained = TrainedSlideModels()
    if not poolings:
        return trained
    from pathopatch.training.slide_level import fit_slide_classifier, predict_slide

    for division in divisions:
        for pooling in poolings:
            report = None if progress is None else partial(progress, f"{division.place}{pooling}")
            train, val, test = (bags_of(bags, division, split) for split in ("train", "val", "test"))
            fitted = fit_slide_classifier(
                train,
                val,
                config,
                is_gated=TRAINED[pooling],
                seed=config.seed,
                progress=report,
            )
            outputs = [predict_slide(fitted.network, bag) for bag in test]
            # Each less the threshold of its own model, so that the models of several folds can be pooled.
            margin = np.array([logit for logit, _ in outputs]) - fitted.decision_threshold
            fold = division.fold
            trained.tables.append(prediction_table(pooling, "", test, margin_probability(margin), fold=fold))
            summary = _training_summary(pooling, division, fitted, sizes=(len(train), len(val), len(test)))
            trained.summaries.append(summary)
            model_name = pooling if fold is None else f"{pooling}-{fold}"
            trained.models.append((model_name, fitted.network, _model_spec(summary, source, config, stamp)))
            if pooling == "attention":
                weights = [weight for _, weight in outputs]
                trained.attention.extend(map(attention_table, test, weights))
    return trained


def margin_probability(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability (S,) of logits less their decision threshold; 0.5 is the threshold."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * margin)), np.float64)  # the logistic function; no exponential overflows


def _model_spec(
    summary: Mapping[str, Any], source: BagSource, config: SlideLevelConfig, stamp: Stamp
) -> SlideModelSpec:
    from pathopatch.models.slide_bundle import SlideModelSpec

    sizes = ("train_slides", "val_slides", "test_slides")
    known = {name: value for name, value in summary.items() if name not in sizes}
    return SlideModelSpec(
        **known,
        encoder=dict(source.encoder),
        dim=source.encoder["dim"],
        hidden=config.hidden,
        dropout=config.dropout,
        data={name: summary[name] for name in sizes},
        training=dict(stamp.inputs),
    )


def bags_of(bags: Sequence[Bag], division: Division, split: str) -> list[Bag]:
    """Return the bags whose patients are in a split."""
    return [bag for bag in bags if division.split[bag.patient_id] == split]


def prediction_table(
    pooling: str, run: str, bags: Sequence[Bag], probability: Any, *, fold: int | None = None, split: str = "test"
) -> pd.DataFrame:
    """Return the rows of ``predictions.csv`` for slides with these probabilities (S,)."""
    return pd.DataFrame(
        {
            "pooling": pooling,
            "run": run,
            "slide_id": [bag.slide_id for bag in bags],
            "patient_id": [bag.patient_id for bag in bags],
            "split": split,
            "fold": fold or 0,
            "label": np.array([bag.label for bag in bags], dtype=np.int64),
            "probability": np.asarray(probability, dtype=np.float64),
        }
    )


def attention_table(bag: Bag, weight: Any) -> pd.DataFrame:
    """Return the weight (N,) of each patch of a slide, with its place."""
    places = {"slide_id": bag.slide_id, "feature_row": bag.feature_row, "x": bag.x, "y": bag.y}
    return pd.DataFrame({**places, "attention": weight})


def write_attention(folder: Path, tables: Sequence[pd.DataFrame], source: BagSource, stamp: Stamp) -> None:
    """Write ``attention.parquet`` of slides, and ``attention/<slide>.png`` of those whose patches have places."""
    if not tables:
        return
    from pathopatch.heatmaps.attention import draw_attention
    from pathopatch.patches.picture import write_png

    artefacts.write_tables(folder / "attention.parquet", tables, stamp)
    (folder / "attention").mkdir()
    for table in tables:
        x, y, weight = (table[name].to_numpy(np.float64) for name in ("x", "y", "attention"))
        if not np.isfinite(x).all():
            continue
        slide_id = str(table["slide_id"].iloc[0])
        with suppress(InputUnsupportedError):  # a single patch whose side is not known has no size to be drawn in
            write_png(folder / "attention" / f"{slide_id}.png", draw_attention(source.placed(slide_id, x, y), weight))


def _training_summary(
    pooling: str, division: Division, fitted: FittedSlideClassifier, *, sizes: tuple[int, int, int]
) -> dict[str, Any]:
    return {
        "pooling": pooling,
        "fold": division.fold,
        **dict(zip(("train_slides", "val_slides", "test_slides"), sizes, strict=True)),
        "epoch": fitted.epoch,
        "validation_auroc": fitted.validation_auroc,
        "decision_threshold": fitted.decision_threshold,
    }
