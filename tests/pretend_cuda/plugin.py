"""pytest plugin (`-p pretend_cuda.plugin`) that runs tests on the pretend GPU, with exact compositing.

`tests/` has to be on PYTHONPATH. The device exists until the process ends.
"""

from pretend_cuda.installation import install

install(exact=True)
