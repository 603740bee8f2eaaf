"""Learning rate, weight decay and batch size: what is worth a look for every net and data set.

Three numbers without conditions, so that every sampler can draw them, CMA-ES too.

Cost: a trial trains the config's own net and is about as long as any training of it; small batches make more steps.

Found here: on hippocampi (benchmarks/quality/sweep_hippocampus.py, 30 trials of six epochs, TPE and ASHA) the learning
rate decides (84 % of the importance), then the batch (11 %); weight decay hardly does. Best were 0.0026 and batch 8,
where the defaults have 0.001 and 16: on 36 cases that took no part in the search Dice 0.8657 against 0.8589 (95 % of
the difference 0.0032 to 0.0108). In so few epochs a higher rate and more steps are what one expects; longer trainings
were not searched, so the defaults stay.
"""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial


def space(trial: BaseTrial) -> dict[str, Any]:
    """Settings of a trial."""
    return {
        "optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True),
        "optim.weight_decay": trial.suggest_float("optim.weight_decay", 1e-4, 1e-1, log=True),
        "train.batch_size": trial.suggest_int("train.batch_size", 4, 32, step=4),
    }
