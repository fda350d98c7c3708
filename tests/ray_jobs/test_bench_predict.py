from __future__ import annotations

import time
from pathlib import Path

from genconvit.data.catalog import Clip
from genconvit.predict import load_detector
from ray_jobs.bench_predict import STEPS, time_process


def test_the_steps_add_up_to_the_time_of_a_verdict(
    clips: Path, detector: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader")
    film = sorted(clips.parent.glob("test/real/*"))[0]
    judge = load_detector(detector)
    settings = judge.info.settings()
    judge.judge(film)
    started = time.perf_counter()
    timed = time_process(
        judge, [Clip(film, "film"), Clip(tmp_path / "letter.mp4", "letter")], settings, rounds=3
    )
    passed = time.perf_counter() - started
    assert (timed["clips"], timed["frames"], timed["crops"]) == (1, 4, 4)
    assert list(timed["seconds"]) == list(STEPS)
    assert all(value > 0 for value in timed["seconds"].values())
    assert 3 * sum(timed["fastest"].values()) < passed
    assert sum(timed["fastest"].values()) <= sum(timed["seconds"].values())
