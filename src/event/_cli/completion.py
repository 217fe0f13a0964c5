"""``e3-event completion``: print a script that completes command lines in a shell."""

from __future__ import annotations

from event._cli._support import terminal
from event._cli._support.parser import build_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

DESCRIPTION = """\
Print a script that completes the commands and options of e3-event in a shell.

Add the line for your shell to its start-up file:
  bash   eval "$(e3-event completion bash)"        in ~/.bashrc
  zsh    eval "$(e3-event completion zsh)"         in ~/.zshrc, after compinit
  fish   e3-event completion fish | source         in ~/.config/fish/config.fish
"""
EPILOG = """\
exit status:
  0  done
  2  the command line is wrong

examples:
  e3-event completion bash
"""


def add_options(parser: Any) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=[*_SCRIPTS], help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    terminal.print_out(_SCRIPTS[args.shell](words_by_command(build_parser())).rstrip())
    return 0


def words_by_command(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Return the subcommands and options of each command, such as ``outbox list``; of e3-event itself for ``""``."""
    words: dict[str, list[str]] = {"": []}
    for action in parser._actions:  # noqa: SLF001  # argparse has no public way to list them
        words[""] += [option for option in action.option_strings if option.startswith("--")]
        if action.choices and not action.option_strings:
            words[""] += [str(choice) for choice in action.choices]
            below: Any = action.choices if isinstance(action.choices, dict) else {}
            for name, command in below.items():
                for path, more in words_by_command(command).items():
                    words[f"{name} {path}".strip()] = more
    return words


def _bash(words: dict[str, list[str]]) -> str:
    cases = "\n".join(f'    "{path}") words="{" ".join(more)}" ;;' for path, more in words.items())
    return f"""\
_e3_event() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" path="" word words=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in
      --) COMPREPLY=(); return ;;
      -*) ;;
      {"|".join(sorted({name for path in words for name in path.split()}))}) path="${{path:+$path }}$word" ;;
    esac
  done
  case "$path" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _e3_event e3-event
"""


def _zsh(words: dict[str, list[str]]) -> str:
    return f"autoload -Uz bashcompinit && bashcompinit\n{_bash(words)}"


def _fish(words: dict[str, list[str]]) -> str:
    lines = []
    for path, more in words.items():
        names = path.split()
        seen = " ".join(f"; and __fish_seen_subcommand_from {name}" for name in names)
        condition = seen.removeprefix("; and ") if names else "__fish_use_subcommand"
        lines += [
            f"complete -c e3-event -n '{condition}' " + (f"-l {word[2:]}" if word.startswith("--") else f"-a {word}")
            for word in more
        ]
    return "\n".join(lines)


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
