"""python -m homer: the command line."""

import sys

from homer.cli import main

sys.exit(main())
