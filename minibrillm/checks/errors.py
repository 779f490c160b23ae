"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in input that the reader can mend: the message says what came and what to do.

    The command line prints it as one line and exits with code 2; in a notebook it is an
    ordinary ``ValueError``.
    """


class Diverged(UserError):
    """A loss or a gradient that is not finite any more."""
