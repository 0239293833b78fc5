"""What `python -m pathopatch.cli` does."""

from pathopatch.cli.program import main

if __name__ == "__main__":
    main()
