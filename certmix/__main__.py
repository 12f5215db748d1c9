"""The command line: certmix COMMAND …

Exit 0 done, 1 a claim refuted or rejected, 2 bad input, 3 too few certified, 4 a run about other files than given.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Generator
from typing import Any

import certmix
from certmix.commands import COMMANDS
from certmix.errors import UsageError


def usage() -> str:
    rows = "\n".join(f"  {name:17s} {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: certmix COMMAND [options]\n\n{rows}\n\ncertmix COMMAND --help says more; certmix --version."


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, what is done is kept, and other processes of the run end too."""


@contextlib.contextmanager
def _terminable() -> Generator[None]:
    def terminated(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # the system gives signals to no other
        yield
        return
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0 if given else 2
    if given == ["--version"]:
        print(f"certmix {certmix.__version__}")
        return 0
    try:
        with _terminable():
            code = _run(given[0], given[1:])
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"certmix: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read this has left: nothing more is said, also not at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(
            f"certmix: {error.strerror or error}{where}; what was finished is kept, run again to go on", file=sys.stderr
        )
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("certmix", "verifiers", "proofs_check"):
            raise
        print(f"certmix: {error.name} is not installed: pip install certmix brings all it needs", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("certmix: interrupted; what was finished is kept, run the same command again to go on", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def _run(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}; known are {', '.join(COMMANDS)}")
    # here and not above: help, and the answer to a mistyped command, come at once
    from certmix.commands.parsing import Parser, parse

    module = importlib.import_module(COMMANDS[command][0])
    parser = Parser(prog=f"certmix {command}", description=module.__doc__, allow_abbrev=False)
    module.add_arguments(parser)
    return module.run(parse(parser, arguments))


if __name__ == "__main__":
    sys.exit(main())
