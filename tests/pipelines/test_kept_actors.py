from __future__ import annotations

from ray.tune.execution import tune_controller

from segray.pipelines.kept_actors import KeptActors, keeping_actors


def test_every_process_is_kept_and_given_again_until_the_end() -> None:
    cache = KeptActors(may_keep_one=True)
    assert all(cache.cache_object("cpu", number) for number in range(3))
    assert list(cache.flush_cached_objects()) == []
    assert cache.pop_cached_object("cpu") == 0
    assert list(cache.flush_cached_objects(force_all=True)) == [1, 2]
    assert cache.num_cached_objects == 0


def test_ray_tune_has_its_own_cache_again_after_a_sweep() -> None:
    theirs = tune_controller._ObjectCache
    with keeping_actors():
        assert tune_controller._ObjectCache is KeptActors
    assert tune_controller._ObjectCache is theirs
