"""Debiasing: train without relying on an attribute that only happens to predict the label.

Usable alone on any PyTorch data set: it needs labels, attributes and per-sample losses. It imports nothing of this
package but its errors and the names of methods. The first open implementation of GERNE [1]_ that we know of.

- `gerne`: the arithmetic of the method (group shares, extrapolated shares, bounds of beta);
- `samplers`: which samples make up each step;
- `objectives`: one loss from a step's per-sample losses; it needs torch and is imported by its own name;
- `pseudo`: attributes guessed from a biased model, if none are known;
- `interventions`: training patches composed to another tissue area; it needs OpenCV and is imported by its own name;
- `methods`: the methods by name, from ``erm`` to ``auto``, and `methods.register_method` for further ones.

References
----------
.. [1] Asaad, Shadaydeh, Denzler, "Gradient Extrapolation for Debiased Representation Learning", ICCV 2025,
   arXiv:2503.13236.

Examples
--------
A training loop with both halves of a GERNE batch in one forward pass::

    sampler = samplers.GerneBatchSampler(label, attribute, batch_per_class=32, c=0.5, steps=1000, seed=0)
    objective = objectives.GradientExtrapolation(beta=1.0)
    gerne.check_beta(gerne.alpha(label, attribute), 0.5, 1.0)
    for x, y, group in DataLoader(dataset, batch_sampler=sampler):
        loss = cross_entropy(network(x), y, reduction="none")  # (B,)
        optimizer.zero_grad()
        objective(loss, group).backward()
        optimizer.step()
"""

from pathopatch.debias import gerne, methods, pseudo, samplers

__all__ = ["gerne", "methods", "pseudo", "samplers"]
