"""Entry point for `python -m mem.cli`."""

import sys

from mem.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
