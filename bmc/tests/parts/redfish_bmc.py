"""sushy-emulator, whose simulated machines take 1 to 11 seconds to switch, with machines that always take the least."""

import random
import sys

random.randint = lambda low, high: low

from sushy_tools.emulator.main import main  # noqa: E402

sys.exit(main())
