"""Entry of `python -m mine_core`."""

import sys

from mine_core.cli import main

sys.exit(main())
