"""Command line, see `launcher`."""

from pretend_cuda.launcher import main

main()
