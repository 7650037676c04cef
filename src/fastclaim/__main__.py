"""`python -m fastclaim`: the same as the command `fastclaim`."""

import sys

from .cli import main

sys.exit(main())
