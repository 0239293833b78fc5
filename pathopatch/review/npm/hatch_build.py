"""Fetch the review page's viewer with npm, by the lock file, while the package is built.

Without npm or a network the package is built without it: all but the review page works, and `pathopatch doctor` says
how to get it.
"""

from __future__ import annotations

import sys
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ViewerHook(BuildHookInterface[BuilderConfig]):
    """Fetches the viewer before files are collected, for a wheel and for an editable install alike."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the viewer where the list of artifacts in pyproject.toml finds it."""
        sys.path.insert(0, self.root)
        try:
            from pathopatch.core.errors import PathopatchError
            from pathopatch.review.viewer import fetch

            try:
                fetch()
            except PathopatchError as error:
                self.app.display_warning(f"the review page stays without its viewer: {error}")
        finally:
            sys.path.remove(self.root)
