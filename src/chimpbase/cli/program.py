"""The program: the commands by name, and the way from words to an exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from difflib import get_close_matches

from cyclopts import App, CycloptsError, UnknownCommandError

from chimpbase._app.admin import version
from chimpbase.cli.failures import FAILURE, USAGE, report, say
from chimpbase.cli.help import ABOUT, COMMANDS, EPILOGUE, Help


def run(words: Sequence[str]) -> int:
    """Run the command that the words name; its exit code."""
    words, debug = _debug(words)
    try:
        # dev reports the errors of its children, which it has to tell
        return _dispatch([*words[:1], "--debug", *words[1:]] if debug and words[:1] == ["dev"] else words)
    except CycloptsError as error:
        say(f"chimpbase: {_complaint(error)}")
        return USAGE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return FAILURE
    except Exception as error:
        return report(error, debug=debug)


def program() -> App:
    """The commands as one program. Their modules are imported when they are run."""
    app = App(
        name="chimpbase",
        help=ABOUT,
        help_epilogue=f"{COMMANDS['dev'].epilogue}\n{EPILOGUE}",
        help_format="plaintext",
        version=version,
        version_flags=["--version"],
        end_of_options_delimiter="--",
    )
    for rank, (name, page) in enumerate(COMMANDS.items()):
        if page.verbs:
            app.command(_group(name, page, rank=rank))
            continue
        app.command(
            f"chimpbase.cli.commands.{name}:{name}",
            name=name,
            help=page.text,
            help_epilogue=page.epilogue,
            sort_key=rank,
        )
    return app


def _group(name: str, page: Help, *, rank: int) -> App:
    """The verbs of one command, which are functions of its module."""
    group = App(
        name=name,
        help=page.text,
        help_epilogue=page.epilogue,
        help_format="plaintext",
        version_flags=[],
        sort_key=rank,
    )
    for place, (verb, line) in enumerate(page.verbs.items()):
        group.command(f"chimpbase.cli.commands.{name}:{verb}", name=verb, help=line, sort_key=place)
    return group


def _dispatch(words: Sequence[str]) -> int:
    code = program()(words, exit_on_error=False, print_error=False, result_action="return_value")
    return code if isinstance(code, int) else 0


def _debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words without `--debug`, and whether it was asked for. What follows `--` belongs to others."""
    # popped: it is no setting, and a CHIMPBASE_ variable that is none is refused
    wanted = os.environ.pop("CHIMPBASE_DEBUG", "").strip().lower() not in ("", "0", "false", "no", "off")
    end = words.index("--") if "--" in words else len(words)
    options = [word for word in words[:end] if word != "--debug"]
    return [*options, *words[end:]], wanted or len(options) < end


def _complaint(error: CycloptsError) -> str:
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        word, group = error.unused_tokens[0], " ".join(error.command_chain or ())
        known = COMMANDS[group].verbs if group in COMMANDS else COMMANDS
        close = get_close_matches(word, known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}?" if close else f"The commands are: {', '.join(known)}."
        return f"There is no command {f'{group} {word}'.strip()!r}. {hint} See `{f'chimpbase {group}'.strip()} --help`."
    command = " ".join(["chimpbase", *(error.command_chain or ())])
    return f"{' '.join(str(error).split())} See `{command} --help`."
