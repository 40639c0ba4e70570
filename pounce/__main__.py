"""`python -m pounce`."""

import sys

from pounce.cli import main

if __name__ == "__main__":
    sys.exit(main())
