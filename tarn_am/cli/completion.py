"""`tarn completion SHELL`: the script that makes a shell complete `tarn`'s verbs and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tarn_am.cli.words import Word


@click.command(
    "completion",
    short_help="Print a completion script.",
    epilog='\b\nExamples:\n  eval "$(tarn completion bash)"          (in ~/.bashrc)\n  tarn completion fish > ~/.config/fish/completions/tarn.fish',
)
@click.argument("shell", type=Word(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL."""
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(ctx.find_root().command, {}, "tarn", "_TARN_COMPLETE").source())
