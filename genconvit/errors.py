"""The kinds of failure that a user can mend, and of a run's end before its time."""


class UserError(Exception):
    """Bad input. The message is one sentence: what is wrong, where, and what to do.

    The commands print it and exit with 2; the HTTP endpoint answers with it and a 4xx status.
    """


class ClipError(UserError):
    """One clip or image cannot be read. In a folder the others go on.

    Attributes:
        kind: The reason in a word or two, for counting: `missing`, `empty`, `not a clip`,
            `damaged`, `too large`.
    """

    def __init__(self, message: str, kind: str = "damaged") -> None:
        super().__init__(message)
        self.kind = kind


class RunEndedError(UserError):
    """The run cannot or shall not go on. All workers raise it together."""


class RunStoppedError(RunEndedError):
    """The run was asked to stop, and has saved its state."""
