"""A slide classifier finds what few patches show, and depends on nothing but the slides and the seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_bags import DIM, made_bag, made_bags

from pathopatch.core.config import SlideLevelConfig
from pathopatch.core.errors import GroupEmptyError, NoTissueError
from pathopatch.features.bags import Bag
from pathopatch.metrics import auroc
from pathopatch.training.slide_level import FittedSlideClassifier, fit_slide_classifier, predict_logits, predict_slide

SMALL = SlideLevelConfig(hidden=16, epochs=3, bag_patches=32, threads=1)


def fit(train: list[Bag], val: list[Bag], *, is_gated: bool = True, seed: int = 0, **changes: object):
    return fit_slide_classifier(train, val, SMALL.model_copy(update=changes), is_gated=is_gated, seed=seed)


def weights(fitted: FittedSlideClassifier) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in fitted.network.state_dict().items()}


@pytest.mark.slow
def test_attention_finds_one_patch_in_a_hundred_where_the_mean_fails() -> None:
    slides = made_bags(120, witnesses=1, height=5.0)
    train, val, test = slides[:60], slides[60:80], slides[80:]
    label = np.array([bag.label for bag in test])
    of_test = {}
    for is_gated in (True, False):
        fitted = fit(train, val, is_gated=is_gated, epochs=40, bag_patches=2048, learning_rate=2e-3)
        of_test[is_gated] = auroc(predict_logits(fitted.network, test), label)
        if is_gated:
            _, attention = predict_slide(fitted.network, test[1])
            witness = int(np.argmax(test[1].read(np.arange(120))[:, 0]))
            assert int(np.argmax(attention)) == witness
    assert of_test[True] > 0.95
    assert of_test[False] < 0.75


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    slides = made_bags(12, witnesses=3)
    once, again, other = (weights(fit(slides[:8], slides[8:], seed=seed)) for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_the_order_of_the_slides_changes_no_bit() -> None:
    slides = made_bags(12, witnesses=3)
    one, two = (fit(slides[:8], slides[8:]), fit(slides[:8][::-1], slides[8:][::-1]))
    assert weights(one) == weights(two)
    assert one.decision_threshold == two.decision_threshold


def test_validation_and_test_slides_leave_no_trace_in_the_weights_of_an_epoch() -> None:
    slides = made_bags(16, witnesses=3)
    one, two = fit(slides[:8], slides[8:12], epochs=1), fit(slides[:8], slides[12:], epochs=1)
    assert weights(one) == weights(two)


def test_training_ends_once_validation_has_not_improved_for_long() -> None:
    slides = made_bags(8, witnesses=40)
    epochs: list[int] = []
    fitted = fit_slide_classifier(
        slides,
        # No slide can be told from another: the first epoch stays the best.
        [replace(slides[0], slide_id=name, label=label) for name, label in (("a", 0), ("b", 1))],
        SMALL.model_copy(update={"epochs": 20, "patience": 2, "learning_rate": 1e-9}),
        is_gated=True,
        seed=0,
        progress=lambda done, total: epochs.append(done),
    )
    assert fitted.validation_auroc == 0.5
    assert len(epochs) <= fitted.epoch + 2 < 20


def test_training_ends_soon_after_every_validation_slide_is_in_its_place() -> None:
    slides = made_bags(12, witnesses=60)
    epochs: list[int] = []
    config = SMALL.model_copy(update={"epochs": 40, "patience": 2, "learning_rate": 2e-3})
    fitted = fit_slide_classifier(
        slides[:8], slides[8:], config, is_gated=True, seed=0, progress=lambda done, total: epochs.append(done)
    )
    assert fitted.validation_auroc == 1
    assert len(epochs) < 20
    assert fitted.epoch == len(epochs)  # the loss was still falling


def test_the_scale_of_the_features_does_not_matter() -> None:
    def scaled(bag: Bag) -> Bag:
        return replace(bag, read=lambda rows: bag.read(rows) * np.float32(1024) + np.float32(0))

    slides = made_bags(12, witnesses=3)
    one = fit(slides[:8], slides[8:])
    two = fit([scaled(bag) for bag in slides[:8]], [scaled(bag) for bag in slides[8:]])
    np.testing.assert_allclose(
        predict_logits(two.network, [scaled(bag) for bag in slides]), predict_logits(one.network, slides), rtol=1e-4
    )


def test_a_constant_feature_gives_finite_logits() -> None:
    def constant(bag: Bag) -> Bag:
        return replace(bag, read=lambda rows: np.full((len(rows), DIM), 0.1, np.float32))

    slides = [constant(bag) for bag in made_bags(8)]
    assert np.isfinite(predict_logits(fit(slides[:4], slides[4:]).network, slides)).all()


def test_one_label_in_training_or_validation_is_refused() -> None:
    slides, positive = made_bags(8), [made_bag(number, label=1) for number in range(20, 24)]
    with pytest.raises(GroupEmptyError, match="training slides"):
        fit(positive, slides)
    with pytest.raises(GroupEmptyError, match="validation slides"):
        fit(slides, positive)


def test_an_empty_bag_is_refused_by_name() -> None:
    slides = made_bags(8)
    with pytest.raises(NoTissueError, match="slide900"):
        fit([*slides, made_bag(900, label=0, patches=0)], slides)
