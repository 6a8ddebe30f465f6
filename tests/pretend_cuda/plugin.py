"""pytest -p pretend_cuda.plugin: run tests on the pretend GPU, with gsplat's exact compositing.

`tests/` has to be on PYTHONPATH. The device lasts as long as the process.
"""

from pretend_cuda.installation import install

install(exact=True)
