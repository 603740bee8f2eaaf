"""The command for who holds the key of pseudonyms."""

from __future__ import annotations

import os
from typing import Annotated

import typer

PrivacySet = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as --set privacy.key_file=FILE.")
]


def add_commands(app: typer.Typer) -> None:
    """Add the command to those of segray."""
    app.command()(pseudonyms)


def pseudonyms(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Shards, a run, predictions, or the folder of cases itself.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the table there, for you alone; else to stdout.")
    ] = None,
    config: Annotated[str | None, typer.Option("--config", metavar="FILE", help="A YAML config.")] = None,
    overrides: PrivacySet = None,
) -> None:
    """Which case, patient or file is meant by a pseudonym of the logs (privacy.hash_ids): a table, for who has the key.

    The key is the one that the settings name, else the one in FOLDER.

    Example: `segray pseudonyms runs/one --out names.csv`
    """
    from segray.config import load_config
    from segray.pipelines.pseudonym_table import csv_of, pseudonym_table

    rows = pseudonym_table(folder, load_config(config, overrides or []))
    if out is None:
        typer.echo(csv_of(rows), nl=False)
        return
    with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(csv_of(rows))

    from segray.cli_display import print_paths

    print_paths(table=f"{out}  ({len(rows)} names)")
