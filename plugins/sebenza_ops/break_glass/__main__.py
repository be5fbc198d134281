import sys

from sebenza_ops.break_glass.command import main

sys.exit(main())
