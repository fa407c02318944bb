"""One command per job: what is asked is read, what was found is put into words. Heavy imports wait until a command needs
them."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback

from distgen.cli import build, info, motifs, stores, sweep, training  # noqa: F401 - importing them registers the commands
from distgen.cli.app import app, say_error
from distgen.errors import DistgenError

__all__ = ["app", "main", "run"]


def main() -> None:
    """Run a command and leave the process with its status."""
    status = run(sys.argv[1:])
    # Everything is written. Native threads of the libraries have been seen to abort a process that goes down after
    # a training of minutes ("terminate called without an active exception"): leave before their destructors run.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(arguments: list[str]) -> int:
    """Run a command; an error is one line and an exit status: 2 asked wrongly, 1 failed."""
    debug = "--debug" in arguments
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.WARNING)
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (DistgenError, OSError) as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, DistgenError):
            say_error(error)
            return error.exit_status
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0
