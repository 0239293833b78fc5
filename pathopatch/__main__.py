"""Run the command line: `python -m pathopatch`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pathopatch.cli", run_name="__main__", alter_sys=True)
