"""`python -m vqaudio`: the same as `vqaudio`."""

import sys

from vqaudio.cli import main

sys.exit(main())
