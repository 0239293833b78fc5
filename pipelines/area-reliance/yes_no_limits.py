"""Where the limits of eta and adj lie once simulated margins are cut to yes and no; see README.md."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from pathopatch.debias.interventions import AREAS
from pathopatch.metrics.area_response import MARGINS, adj, adj_of_answers, eta

N = 20_000
SLOPES = np.linspace(0, 2.5, 26)


def main() -> None:
    """Print eta and adj of the answers where those of the margins are at their limits."""
    rows = []
    for shape, tumour, noise in product(("one hump", "two humps"), (0.15, 0.3, 0.5, 0.7, 0.85), (0.05, 0.15, 0.3, 0.6)):
        measured = pd.DataFrame([_measures(shape, tumour, noise, slope) for slope in SLOPES])
        about = {"margins": shape, "tumour": tumour, "noise": noise}
        for limit, value in (("eta", MARGINS.least_eta), ("adj", MARGINS.least_adj)):
            about |= {
                f"{name} at the limit of {limit}": np.interp(value, measured[limit], measured[name])
                for name in ("eta of answers", "adj of answers")
            }
        rows.append(about)
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    print(table.groupby("margins").median(numeric_only=True).round(3).to_string())


def _measures(shape: str, tumour: float, noise: float, slope: float) -> dict[str, float]:
    """Return the measures of simulated patches: evidence grows with the area, which adds `slope` times itself."""
    rng, area = np.random.default_rng(0), np.array(AREAS) - 0.5
    evidence = rng.normal(size=N)
    if shape == "two humps":
        evidence = np.where(rng.random(N) < tumour, 1.5, -1.5) + 0.6 * evidence
    z = evidence[:, None] * (1 + 0.4 * area) + slope * area + noise * evidence.std() * rng.normal(size=(N, len(AREAS)))
    if shape == "one hump":
        z -= np.quantile(z, 1 - tumour)
    answers = np.where(z > 0, 1.0, -1.0)
    return {"eta": eta(z), "adj": adj(z), "eta of answers": eta(answers), "adj of answers": adj_of_answers(answers)}


if __name__ == "__main__":
    main()
