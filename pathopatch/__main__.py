"""Run the command line: `python -m pathopatch`."""

from pathopatch.cli import main

if __name__ == "__main__":
    main()
