"""One process of a detector, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from genconvit.config import ServeSettings
from serve.scoring.scorer import Crops, Scorer, Scores


def test_crops_that_come_while_a_pass_is_computed_share_the_next_one(
    served: Path, tmp_path: Path
) -> None:
    scorer = Scorer(
        str(served),
        ServeSettings(models={"default": str(served)}, state=str(tmp_path), batch_crops=8),
    )
    side = scorer._loaded.info.model.image_size
    crops_RNHWC = np.random.default_rng(0).integers(0, 256, (9, 2, side, side, 3), np.uint8)
    asked = [Crops(crops_NHWC, None, None) for crops_NHWC in crops_RNHWC]

    async def load() -> list[Scores]:
        with scorer._turn:  # the pass before them
            tasks = []
            for each in asked:
                tasks.append(asyncio.create_task(scorer.score(each)))
                await asyncio.sleep(0)  # one after another, as requests come
        return await asyncio.gather(*tasks)

    async def alone() -> list[Scores]:
        return [await scorer.score(each) for each in asked]

    loaded, lone = asyncio.run(load()), asyncio.run(alone())
    assert {scores.batch_crops for scores in lone} == {2}
    # Two are under way by then; the other seven fit into two passes.
    assert [scores.batch_crops for scores in loaded] == [2, 2, 8, 8, 8, 8, 6, 6, 6]
    for together, own in zip(loaded, lone, strict=True):
        assert together.logits is not None and own.logits is not None
        np.testing.assert_allclose(together.logits, own.logits, atol=1e-4)
