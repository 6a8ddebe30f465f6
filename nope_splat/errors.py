"""The one exception for mistakes that the user can mend."""


class NopeSplatError(SystemExit):
    """Bad input, told in one sentence that names the file or the setting and says what to do.

    As a `SystemExit` it ends `ns-train` and `nope-splat` alike with that sentence on stderr and exit
    status 1, without a traceback.

    Args:
        message: The sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"nope-splat: {message}")
