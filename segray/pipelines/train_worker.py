"""What every worker of Ray Train runs."""

from __future__ import annotations

import os
import socket
import traceback
from typing import Any

import torch

from segray import privacy
from segray.config import parse_config
from segray.errors import SegrayError, StoreError
from segray.outage import be_patient
from segray.pipelines.failures import reason_for
from segray.pipelines.live import hide_names
from segray.pipelines.run_folder import RunFolder
from segray.pipelines.seat import GroupSeat
from segray.pipelines.session import Session

FATAL = (SegrayError, AttributeError, TypeError, NameError, LookupError, ValueError, ImportError)
"""Errors that would come again: such a run is not replayed from its last checkpoint, it ends."""


def train_worker(loop: dict[str, Any]) -> None:
    """The train function of Ray Train; ``loop`` holds the config as a dictionary and the threads to use."""
    config = parse_config(loop["config"])
    hide_names(config)
    run = RunFolder(str(config.train.run))
    be_patient()
    if run.history().get("fatal"):
        return
    torch.set_num_threads(int(loop["threads"]))
    try:
        session = Session(config, GroupSeat())
        session.restore()
        try:
            for _ in session.train(int(loop["stop_after"])):
                pass
        except BaseException:
            session.close(failed=True)
            raise
        session.close(failed=False)
    except Exception as error:
        run.log(f"worker {socket.gethostname()}:{os.getpid()} failed:\n{traceback.format_exc().rstrip()}", "error")
        if isinstance(error, FATAL) and not isinstance(error, StoreError):
            run.write_history(fatal=privacy.hide(reason_for(error)))
        if privacy.is_hiding():
            # Ray Train writes what a worker raises into logs of its own.
            raise privacy.hidden_error(error) from None
        raise
