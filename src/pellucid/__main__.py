"""`python -m pellucid`, for `torchrun -m pellucid` and where the `pellucid` script is not on the path."""

import sys

from pellucid.cli import main

if __name__ == "__main__":
    sys.exit(main())
