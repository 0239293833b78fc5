"""Fixtures of the review page's tests: work folders that were predicted once."""

from __future__ import annotations

import pytest
from made_review import Folders, write_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Predicted slides; nothing may be written into them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathopatch.heatmaps.overlay._MIN_VIEW_PX", 1000)  # thumbnails are cut out of pictures for users
        return write_folders(tmp_path_factory.mktemp("reviewed"))
