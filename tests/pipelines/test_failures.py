from __future__ import annotations

from segray.pipelines.failures import words_of_ray

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
