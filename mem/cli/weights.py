"""Commands for pretrained weights: their names, what their publishers state about them, and their download."""

from __future__ import annotations

import argparse
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the command `weights` with its actions `list`, `show` and `get`."""
    weights = commands.add_parser("weights", help="list, describe or download pretrained weights")
    actions = weights.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list official weights, and stored weights of the hub")
    listing.add_argument(
        "pattern", metavar="PATTERN", nargs="?", help="list the names that contain this text, and also timm tags"
    )
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="describe weights, and print the lines to add to a study")
    get = actions.add_parser("get", help="download weights and verify them")
    for action, function in ((show, _show), (get, _get)):
        action.add_argument(
            "name",
            type=_name,
            metavar="NAME",
            help="official name (see `mem weights list`), hf-hub:OWNER/REPOSITORY, or timm tag",
        )
        action.add_argument(
            "--revision", metavar="COMMIT", help="commit of the hub's repository; default: the newest commit"
        )
        action.set_defaults(command=function)
    get.add_argument(
        "--from", dest="source", metavar="FILE", help="use a local file or another address for official weights"
    )


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of weights, found an empty text; see `mem weights list`")
    return text


def _list(options: argparse.Namespace) -> int:
    from mem.models.weights.listing import list_weights

    print(list_weights(options.pattern))
    return 0


def _show(options: argparse.Namespace) -> int:
    from mem.models.weights.listing import show_weights

    print(show_weights(options.name, options.revision))
    return 0


def _get(options: argparse.Namespace) -> int:
    from mem.models.weights.prepare import get_weights

    get_weights(options.name, options.revision, options.source, print)
    return 0
