"""The alarm goes off for a policy that stops looking, and for no other."""

from types import SimpleNamespace

import pytest

from rl.collapse import LAST_GOOD, CollapseCallback


def logged(callback, rows, folder, *, save_at=()):
    """Feeds logs, one a step, and saves checkpoints after some steps; whether training was to stop, and when."""
    args, control = SimpleNamespace(output_dir=str(folder)), SimpleNamespace(should_training_stop=False)
    for step, row in enumerate(rows, start=1):
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        callback.on_log(args, state, control, logs=row)
        if step in save_at:
            checkpoint = folder / f"checkpoint-{step}"
            checkpoint.mkdir()
            (checkpoint / "weights").write_text(str(step))
            (checkpoint / "whole").touch()
            callback.on_save(args, state, control)
        if control.should_training_stop:
            return step
    return None


HEALTHY = {"zooms/rate": 0.6, "entropy": 0.3, "stops/answered": 0.95}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"zooms/rate": 0.0}, "never zooms"),
        ({"zooms/rate": 1.0}, "always zooms"),
        ({"entropy": 0.001}, "no alternatives"),
        ({"stops/answered": 0.0}, "hardly answers"),
        ({"eval_crop_dependence": -0.02}, "does not look"),
    ],
)
@pytest.mark.parametrize("action", ["warn", "stop"])
def test_each_collapse_is_named_and_stops_only_if_asked(tmp_path, caplog, row, said, action):
    stopped = logged(CollapseCallback(action), [HEALTHY | row] * 8, tmp_path)
    assert said in caplog.text and caplog.text.count("collapse at step") == 1
    assert (stopped is None) == (action == "warn")


def test_a_healthy_run_and_a_short_dip_raise_no_alarm(tmp_path, caplog):
    rows = [HEALTHY, *[HEALTHY | {"zooms/rate": 0.0}] * 4, *[HEALTHY] * 5, {"loss": 0.1}]
    assert logged(CollapseCallback("stop"), rows, tmp_path) is None and not caplog.text


def test_an_environment_without_zooms_raises_no_alarm_about_them(tmp_path, caplog):
    rows = [HEALTHY | {"zooms/rate": 0.0}] * 8
    assert logged(CollapseCallback("stop", can_zoom=False), rows, tmp_path) is None and not caplog.text


def test_the_last_good_checkpoint_is_kept_even_when_its_own_is_rotated_away(tmp_path, caplog):
    rows = [HEALTHY] * 4 + [HEALTHY | {"zooms/rate": 0.0}] * 8
    assert logged(CollapseCallback("keep"), rows, tmp_path, save_at=(2, 4, 6, 8)) == 9
    (tmp_path / "checkpoint-4" / "weights").unlink()
    assert (tmp_path / LAST_GOOD / "weights").read_text() == "4" and str(tmp_path / LAST_GOOD) in caplog.text
