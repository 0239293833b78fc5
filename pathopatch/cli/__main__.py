"""Run the command line: `python -m pathopatch.cli`."""

from pathopatch.cli.program import main

if __name__ == "__main__":
    main()
