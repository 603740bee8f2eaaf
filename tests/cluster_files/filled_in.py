"""cluster.yaml with the lines to edit filled in, as a user would: for tests that bring up hosts of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

END = "    SETTINGS"
"""The line that ends the settings."""


def filled_in(text: str, addresses: Sequence[str], *, user: str, key: str, settings: Mapping[str, str]) -> str:
    """The text of cluster.yaml for these hosts.

    Args:
        text: the file as it is.
        addresses: of the head, then of the workers.
        user: the user on every host.
        key: the private key.
        settings: values of ``~/segray/node.env``; one that the file does not have is added at its end.

    Raises:
        ValueError: the file lacks a line to edit.
    """
    written = {name: f"    {name}={value}" for name, value in settings.items()}
    known = {name for name in written if re.search(rf"^    {name}=", text, re.MULTILINE)}
    lines = {
        r"  head_ip: .*": f"  head_ip: {addresses[0]}",
        r"  worker_ips: .*": f"  worker_ips: {json.dumps(list(addresses[1:]))}",
        r"  ssh_user: .*": f"  ssh_user: {user}",
        r"  ssh_private_key: .*": f"  ssh_private_key: {key}",
        **{rf"    {name}=.*": written[name] for name in sorted(known)},
        END: "\n".join([*(line for name, line in written.items() if name not in known), END]),
    }
    for pattern, line in lines.items():
        text, count = re.subn(rf"^{pattern}$", line.replace("\\", r"\\"), text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{pattern} stands {count} times in the file")
    return text
