from __future__ import annotations

import traceback

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from segray.errors import SegrayError, UsageError
from segray.pipelines.failures import stopped, words_of_ray

MEMORY = """Training failed due to controller error:
6 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 27da6b) was
22.37GB used / 23.54GB limit (0.950351)
OOM kill reason: Memory usage 24012840960B exceeded threshold of 24012685312B (95.0% of 25276510208B limit)
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/"""


def test_memory_that_ran_out_is_said_in_words_of_our_own() -> None:
    words = words_of_ray(RuntimeError(MEMORY))
    assert words.startswith("the memory of the node 192.0.2.2 ran out, and Ray ended 6 of its processes.")
    assert "docs.ray.io" not in words


def test_else_it_is_the_last_line_of_what_a_worker_raised() -> None:
    assert words_of_ray(RuntimeError("Traceback ...\n\nValueError: no such column\n")) == "ValueError: no such column"
    assert words_of_ray(KeyboardInterrupt()) == "KeyboardInterrupt"


def of_worker(error: Exception) -> RayTaskError:
    """What Ray makes of an error in a worker."""
    try:
        raise error
    except Exception:
        return RayTaskError("MapWorker(MapBatches(PredictStage)).__init__", traceback.format_exc(), error)


@pytest.mark.parametrize("known", [False, True])
def test_what_an_actor_raises_at_its_start_is_one_sentence(known: bool) -> None:
    error = (
        UsageError("/only/here is no bundle.", mend="Give another.")
        if known
        else RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation.")
    )
    told = stopped(ActorDiedError(of_worker(error)), "The prediction", mend="Go on.")
    words = (
        "/only/here is no bundle. Give another."
        if known
        else "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB."
    )
    assert str(told) == f"The prediction stopped: {words} Go on."


def test_an_error_of_ours_comes_out_of_rays_wrapping_as_it_was() -> None:
    error = UsageError("/only/here is no bundle.", mend="Give another.")
    wrapped = of_worker(error).as_instanceof_cause()
    assert isinstance(wrapped, SegrayError), "so its text, a traceback, would be told"
    assert stopped(wrapped, "The prediction", mend="Go on.") is error
    assert stopped(error, "The prediction", mend="Go on.") is error
