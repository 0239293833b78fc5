"""Student's t agrees with SciPy's, from heavy tails to a normal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pathopatch.metrics.student_t import t_quantile, t_share_below

SHARES = np.array([0.0005, 0.025, 0.2, 0.5, 0.7, 0.975, 0.9995])


@pytest.mark.parametrize("df", [0.1, 0.5, 1, 1.7, 2, 3, 11, 57.3, 1000, 1e5, 1e7])
def test_quantiles_and_shares_are_scipys(df: float) -> None:
    due = stats.t.ppf(SHARES, df)
    np.testing.assert_allclose(t_quantile(SHARES, df), due, rtol=5e-5, atol=1e-9)
    np.testing.assert_allclose(t_share_below(due, df), SHARES, rtol=5e-4 if df == 1e5 else 5e-5)
    if df < 1e5:
        np.testing.assert_allclose(t_quantile(0.975, df), stats.t.ppf(0.975, df), rtol=1e-6)


def test_nan_stays_nan_and_the_ends_are_infinite() -> None:
    assert np.isnan(t_share_below(np.nan, 3))
    assert t_quantile([0.0, 1.0], 3).tolist() == [-np.inf, np.inf]
