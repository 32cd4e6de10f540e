"""`python -m launch …` is `dist-advss launch …`."""

import sys

from dist_advss.cli import main

sys.exit(main(["launch", *sys.argv[1:]]))
