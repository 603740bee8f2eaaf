"""A training in the process of the test, as a trial of a sweep has it: the session is that of every training.

A group of Ray Train takes a dozen seconds to start and to end, which tests of what a training learns need not wait for.
"""

from __future__ import annotations

import torch

from segray.config import Config, dump_config, load_config
from segray.pipelines.run_folder import CONFIG, RunFolder
from segray.pipelines.seat import LoneSeat
from segray.pipelines.session import Session
from segray.pipelines.train import TrainSummary, check_config, summarise
from segray.pipelines.train_start import with_net_of_start
from segray.pipelines.trial import LoneTraining


def train_unrated(config: Config) -> TrainSummary:
    """Train the config to its end without asking for a validation Dice, as a trial would."""
    run = RunFolder(str(config.train.run))
    session = Session(config, LoneSeat(run, torch.device("cpu")))
    session.restore()
    try:
        for _ in session.train():
            pass
    finally:
        session.close(failed=False)
    return summarise(run)


def train_here(config: Config) -> TrainSummary:
    """Train the config to its end, on one thread."""
    config = with_net_of_start(config)[0]
    check_config(config)
    run = RunFolder(str(config.train.run))
    run.begin(dump_config(config))
    threads = torch.get_num_threads()
    training = LoneTraining(run, load_config(run.file(CONFIG)), 1, on_gpu=False)
    try:
        while not training.epoch()["done"]:
            pass
    finally:
        training.close()
        torch.set_num_threads(threads)
    return summarise(run)
