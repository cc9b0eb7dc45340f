"""`python -m segmentarium` is the command line."""

from segmentarium.cli.main import main

raise SystemExit(main())
