"""See `launcher`."""

from pretend_cuda.launcher import main

main()
