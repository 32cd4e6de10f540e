"""`python -m dist_advss`, the same as `dist-advss`."""

import sys

from .cli import main

sys.exit(main())
