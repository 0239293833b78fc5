"""The command line: one command per stage; the only place that prints, catches broadly and exits.

Results go to standard output, progress to standard error. Exit codes: 0 all well; 1 nothing succeeded, or the manifest
or configuration is wrong; 2 wrong usage; 3 finished, some slides failed; 130 interrupted; 143 terminated.
"""

from pathopatch.cli.program import app, main

__all__ = ["app", "main"]
