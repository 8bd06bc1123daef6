"""``python -m jaxsamplers``."""

import sys

from jaxsamplers.cli import main

sys.exit(main())
