from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.errors import UserError
from ray_jobs.options import Given, parse_seeds
from ray_jobs.variants import check_variant, parse_variant


def test_a_variant_is_an_architecture_with_settings() -> None:
    kwargs = "{depths: [1,1,2,1], dims: [16,32,64,128]}"
    variant = parse_variant(f"v2,attention=false,loss.aux_weight=0,backbone_kwargs={kwargs}")
    assert [(item.name, item.value) for item in variant.assignments] == [
        ("model.arch", "v2"),
        ("model.attention", "false"),
        ("loss.aux_weight", "0"),
        ("model.backbone_kwargs", kwargs),
    ]
    assert variant.detector is None


def test_a_variant_is_a_detector_a_run_or_a_url(detector: Path) -> None:
    for text in (str(detector), str(detector.parent)):
        assert parse_variant(text).detector == str(detector.resolve())
    assert parse_variant("s3://bucket/a").detector == "s3://bucket/a"


@given(st.lists(st.sampled_from(["attention=false", "net=ed", "token_dim=8"]), unique=True))
def test_names_of_files_tell_variants_apart(switches: list[str]) -> None:
    slug = parse_variant(",".join(["v2", *switches])).slug
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert slug == "-".join(["v2", *(s.replace("=", "-").replace("_", "-") for s in switches)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet", "neither such an architecture"),
        ("v2,attention", "write setting=value"),
        ("v2,seed=3", "seed is the same for all"),
        ("v2,train.num_workers=3", "train.num_workers is the same for all"),
        ("v2,decision.threshold=0.4", "is the same for all"),
        ("v2,sampling.frames=8", "is the same for all"),
    ],
)
def test_what_is_no_variant_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_variant(text)


def test_a_variant_to_train_needs_data() -> None:
    with pytest.raises(UserError, match="variant v2 must be trained; give --data"):
        check_variant(parse_variant("v2"), Given(None, []), None)


def test_what_does_not_fit_is_told_before_any_data_is_read() -> None:
    with pytest.raises(UserError, match=r"variant v2,atention=false: .*model\.attention"):
        check_variant(parse_variant("v2,atention=false"), Given(None, []), Path("nowhere"))
    with pytest.raises(UserError, match="variant original,attention=false: model: attention"):
        check_variant(parse_variant("original,attention=false"), Given(None, []), Path("nowhere"))


def test_seeds_are_whole_numbers() -> None:
    assert parse_seeds("0,1, 7") == [0, 1, 7]
    for text in ("", "a", "1,-2", "1.5"):
        with pytest.raises(UserError, match="such as 0,1,2"):
            parse_seeds(text)
