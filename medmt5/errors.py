"""The one error that means: what the user gave is wrong, not the program."""


class InputError(ValueError):
    """Wrong input: a file, a macro, a label, a size. The message states the rule, the values received and the fix.

    The command line prints the message alone and exits with 2; `--debug` adds the traceback. Everything else
    that escapes is a bug and keeps its traceback.
    """
