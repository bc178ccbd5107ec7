"""The `tarn` command: one group, one file a verb. A verb's module is imported only when it is used, so that `tarn status`
does not wait for the Application Master's libraries.

Whatever happens, a person sees one line that names the thing, the value and the fix, and a script one of the exit codes of
`tarn_am.cli.outcome`. A traceback is a defect.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from tarn_am.cli import outcome
from tarn_am.cli.client import clean
from tarn_am.cli.options import connection, merged
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_common import __version__

_VERBS = {
    "local": "Run an application on this machine: the AM in the foreground, real Tritons under it.",
    "submit": "Run an application on YARN.",
    "list": "List the applications on YARN.",
    "status": "Show the fleet: what serves, what does not, and why.",
    "instances": "List the instances that serve, with their addresses and models.",
    "scale": "Set the number of instances.",
    "drain": "Take one instance out without losing a request; it is replaced.",
    "logs": "Show the log of Triton, the agent or supervisord of an instance.",
    "model": "Load, unload or reload one model in one instance.",
    "config": "Show the settings of the Application Master, secrets blanked.",
    "stop": "Drain everything and end the application.",
    "kill": "End an application on YARN at once, without draining.",
    "archive": "Build the archive that carries TARN to a cluster's nodes.",
    "completion": "Print the completion script of a shell.",
}

_EPILOG = f"""\b
Examples:
  tarn local --model-repository examples/models --min-instances 2
  tarn status
  tarn scale 3 --wait
  tarn --am http://am.example.com:8888 --token-file token instances --json

The options above say which Application Master a verb speaks to, and may stand behind the verb as well: --am, else
--zk-ensemble (and --application), else the state directory of `tarn local` (--state-dir, or --name below $TARN_HOME,
which is ~/.local/state/tarn where it is not set), else YARN (--application, or --name where HADOOP_CONF_DIR is set).
The words in brackets are the variables of the environment.

\b
Exit codes:
{outcome.table()}
"""


class Verbs(click.Group):
    """A group that knows its verbs' one-line helps and imports the rest on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        # On demand: see the module's docstring.
        found = importlib.import_module(f"tarn_am.cli.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `tarn logs | head`: the reader has had enough, and that is no error
            _nobody_reads()
            return Outcome.OK

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(_VERBS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, _VERBS, n=1)
            raise click.UsageError(
                f"{name!r} is no verb" + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_VERBS)}"), ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    "tarn",
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120, "auto_envvar_prefix": None},
    epilog=_EPILOG,
    subcommand_metavar="VERB …",
)
@click.version_option(__version__, message="tarn %(version)s")
@connection
@click.pass_context
def group(ctx: click.Context, /, **given: Any) -> None:
    """Run NVIDIA Triton as an elastic, self-healing fleet.

    `tarn VERB --help` has the options and examples of each verb.
    """
    ctx.obj = merged(ctx, given)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs one verb and exits with its Outcome."""
    _open_closed_streams()
    status = run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_flush(status))


def run(arguments: Sequence[str]) -> int:
    """Runs one verb; returns the exit status, having said on stderr what went wrong."""
    verb = next((word for word in arguments if word in _VERBS), "")
    name = f"tarn {verb}".rstrip()
    try:
        result = group.main(list(arguments), prog_name="tarn", standalone_mode=False)
        return result if isinstance(result, int) else Outcome.OK
    except CommandError as error:
        return _complain(name, error.line, error.outcome)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Outcome.USAGE
    except click.UsageError as error:
        return _complain(error.ctx.command_path if error.ctx else name, _usage(error), Outcome.USAGE)
    except click.ClickException as error:
        return _complain(name, error.format_message(), Outcome.FAILED)
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return Outcome.INTERRUPTED
    except OSError as error:
        # A full disk behind stdout, a directory that may not be searched: whatever no verb has better words for.
        if os.environ.get("TARN_TRACEBACK"):
            raise
        return _complain(name, _system(error), Outcome.FAILED)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # The answer of a strange server, or of another version of TARN, lacks what a verb reads. A traceback tells no user more.
        if os.environ.get("TARN_TRACEBACK"):
            raise
        return _complain(
            name, f"cannot make sense of the answer ({type(error).__name__}: {error}); is it of another version?", Outcome.FAILED
        )


def _complain(name: str, line: str, status: Outcome) -> int:
    with contextlib.suppress(OSError):  # stderr may be on the same full disk
        click.echo(f"{name}: {clean(line)}", err=True)
    return status


def _system(error: OSError) -> str:
    return f"{error.filename or 'the output cannot be written'}: {error.strerror or error}"


def _usage(error: click.UsageError) -> str:
    """One line: what was wrong, what was meant, where the rest is."""
    text = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        known = [name for parameter in (error.ctx.command.params if error.ctx else ()) for name in parameter.opts]
        near = difflib.get_close_matches(error.option_name, known, n=1)
        if error.option_name[1:2].isdigit():
            return f"{error.option_name!r} is no number that can be given here: give a whole number from 0 on, such as 3"
        text = f"{error.option_name!r} is no option of this verb" + (f"; did you mean {near[0]!r}?" if near else "")
    elif isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param is not None:
        name = f"{max(error.param.opts, key=len)}=" if isinstance(error.param, click.Option) else ""
        return name + error.message
    return f"{text} (see {error.ctx.command_path} --help)" if error.ctx and not text.endswith("--help)") else text


def _open_closed_streams() -> None:
    """A stream that the caller closed (`tarn status >&-`) is written to nowhere: no file or socket may get its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open for as long as the process lives


def _flush(status: int) -> int:
    """The exit status, which is a failure where what was said did not arrive."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _nobody_reads()
    except OSError as error:
        _nobody_reads()
        return _complain("tarn", _system(error), Outcome.FAILED) if status == Outcome.OK else status
    return status


def _nobody_reads() -> None:
    """Lets the interpreter's own last flush go nowhere, instead of into an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
