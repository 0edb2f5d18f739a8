"""Run the command line: ``python -m services.cli``."""

import sys

from services.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
