"""The one exception for bad input from outside: files, options, data sets."""


class UserError(ValueError):
    """What was wrong, what was expected and what to do, in one sentence; command lines print it without a traceback."""
