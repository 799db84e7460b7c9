"""``python -m cbam_lightning`` is the command ``cbam-lightning``."""

import sys

from cbam_lightning.cli.main import main

sys.exit(main())
