"""The one exception for bad input from outside: files, options, data sets."""


class UserError(ValueError):
    """What was wrong, what was expected and what to do, in one sentence; command lines print it without a traceback."""

    def __init__(self, sentence: str):
        # A data-loading worker hands over its whole traceback; the sentence is at its end.
        super().__init__(sentence.rsplit("UserError: ", 1)[-1].strip())
