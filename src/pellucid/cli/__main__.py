"""`python -m pellucid.cli` for where the `pellucid` script is not on the path."""

import sys

from pellucid.cli import main

if __name__ == "__main__":
    sys.exit(main())
