"""`python -m vqaudio`: the same as `vqaudio`."""

import sys

from vqaudio.cli.main import main

sys.exit(main())
