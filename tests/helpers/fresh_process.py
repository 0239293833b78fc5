"""Processes that tests start and kill by the dozen, forked from a server that has loaded the libraries."""

import multiprocessing

FRESH = multiprocessing.get_context("forkserver")
"""Its children have no threads of the tests' process, and start in a tenth of the time that imports would take."""
# One list for all tests: there is one server, which keeps the list that it was started with.
FRESH.set_forkserver_preload(
    [
        "pytest",
        "matplotlib.font_manager",
        "openvino",
        "torch._dynamo",  # torch.optim asks for it
        "pathopatch.heatmaps.prediction_files",
        "pathopatch.heatmaps.overlay",
        "pathopatch.models.networks",
        "pathopatch.models.runtime.openvino_runtime",
        "pathopatch.stages.predict",
        "pathopatch.stages.tile",
        "pathopatch.training.fit",
        "pathopatch.training.tune",
    ]
)
