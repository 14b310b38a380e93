"""The one error that a user, rather than a programmer, has to act on."""


class UserError(Exception):
    """Bad input: names the field, its value, what is allowed and the cure, in one line.

    The command line prints it as `flash-ray: ...` on stderr and exits with code 2.
    """
