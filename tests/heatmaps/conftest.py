"""What the tests of heatmaps share: readers that are not ours, in plain modules beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # so that tests can say `import qupath_rules`
