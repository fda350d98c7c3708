from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve import hostile
from tests.serve.decoding.bench import FACES, SIZE, Bench, limits

IMAGES = [hostile.image(suffix, SIZE, SIZE) for suffix in ("jpg", "png", "webp", "bmp")]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    formats = [("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "mp4v"), ("webm", "VP80"), ("ts", "mpg2")]
    formats += [("flv", "FLV1"), ("wmv", "WMV2")]
    folder = tmp_path_factory.mktemp("seeds")
    videos = [hostile.video(folder, *names) for names in formats]
    return [*videos, hostile.gif(), *IMAGES]


def test_mutated_files_give_a_result_or_a_sentence(bench: Bench, seeds: list[bytes]) -> None:
    quick = limits(time_s=5.0)
    files, _ = usage()
    outcomes: Counter[str] = Counter()

    def judge(content: bytes, as_crop: bool) -> None:
        outcome = bench.outcome(content, as_crop=as_crop, preprocess=FACES, limits=quick)
        outcomes[outcome] += 1
        assert outcome == "a result" or outcome[:3] in ("413", "415", "422")

    examples = int(os.environ.get("GENCONVIT_FUZZ", "200"))
    for share, files_of, as_crop in ((0.8, seeds, False), (0.2, IMAGES, True)):
        mutated = given(hostile.mutations(files_of), st.just(as_crop))(judge)
        settings(max_examples=int(share * examples), database=None)(mutated)()
    sys.stdout.write(f"{outcomes}\n")  # seen with pytest -rP
    assert usage()[0] <= files + 2
    assert bench.parts(seeds[0])[-1].last


def test_nothing_piles_up_in_the_parent(bench: Bench, seeds: list[bytes]) -> None:
    def a_round() -> tuple[int, float]:
        for content in [*seeds, hostile.png(20_000, 20_000), hostile.NO_MEDIA["svg"]]:
            bench.outcome(content)
        return usage()

    files, memory_mb = [a_round() for _ in range(3)][-1]
    for _ in range(8):
        files_now, memory_now_mb = a_round()
    assert files_now <= files + 2
    assert memory_now_mb < memory_mb + 20


def usage() -> tuple[int, float]:
    """Open files and resident memory, MB, of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), pages * os.sysconf("SC_PAGE_SIZE") / 1e6
