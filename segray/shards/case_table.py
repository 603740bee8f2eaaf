"""Tables of the user's that say something of cases, by their ids: CSV files in UTF-8."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence

from segray import privacy, storage
from segray.errors import UsageError

NAMED = 5
"""Ids of a table that a note names."""


def read_case_table(path: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows, with ``case_id`` and ``columns`` stripped of blanks; a column that is not there is empty.

    Raises:
        UsageError: no CSV in UTF-8, no column ``case_id`` or none of ``columns``, a line that is longer than the first,
            or a case stands there twice.
    """
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV file in UTF-8 ({error}).") from error
    if not rows or "case_id" not in rows[0] or not set(columns) & rows[0].keys():
        one_of = "one of " if columns[1:] else ""
        raise UsageError(f"{path} needs the column case_id and {one_of}{', '.join(columns)}.")
    for row in rows:
        # DictReader keeps under None what is behind the last column.
        if any(row.get(None) or ()):
            raise UsageError(
                f"{path} has more values than columns at the case {row['case_id']}.",
                mend='Put a value that holds a comma into quotes, such as "liver, left".',
            )
    cells = [{name: (row.get(name) or "").strip() for name in ("case_id", *columns)} for row in rows]
    twice = [case for case, lines in Counter(row["case_id"] for row in cells).items() if case and lines > 1]
    if twice:
        raise UsageError(f"{path} names the case {twice[0]} twice.", mend="Give each case one line.")
    return cells


def match_ids(path: str, named: Sequence[str], known: Iterable[str]) -> list[str]:
    """What is to be said of the ids in a table that are no case.

    Args:
        path: the table.
        named: the ids in it.
        known: the ids of all cases, in order, also of those that cannot be used: for these the table is right.

    Raises:
        UsageError: it names no case, or none of those that are there.
    """
    if not named:
        raise UsageError(f"{path} names no case.", mend="Write the case ids into its column case_id.")
    there = dict.fromkeys(known)
    strays = [case for case in named if case not in there]
    privacy.know(strays, "case")
    if there and len(strays) == len(named):
        raise UsageError(
            f"{path} names none of the cases, such as {next(iter(there))}; its ids are such as {named[0]}.",
            mend="Write the ids of the cases into its column case_id, as they are.",
        )
    if not strays:
        return []
    more = ", ..." if len(strays) > NAMED else ""
    words = f"cases ({', '.join(strays[:NAMED])}{more}) that are" if strays[1:] else f"case ({strays[0]}) that is"
    return [f"{path} names {len(strays)} {words} not here."]
