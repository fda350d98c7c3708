"""The layouts of datasets as they are distributed."""

from __future__ import annotations

from genconvit.data.layout_rules import Layout, Rule
from genconvit.data.official_lists import celeb_df, dfdc, dfdc_preview, faceforensics

_KIND = r"(?P<c>raw|c0|c23|c40)/(?:videos|frames|images)"
_METHODS = "Deepfakes|Face2Face|FaceSwap|NeuralTextures|FaceShifter"
_PAIR = r"(?P<a>\d{3})_(?P<b>\d{3})"
_ACTORS = r"(?P<a>\d\d)_\d\d__.+"

FACEFORENSICS = Layout(
    "faceforensics++",
    # The second is how copies without the two outer folders look.
    rf"(?=(?:original|manipulated)_sequences/|(?:{_METHODS}|DeepFakeDetection)/)",
    (
        Rule(
            rf"original_sequences/(?:youtube/)?{_KIND}/(?P<a>\d{{3}})",
            "real",
            ("{a}",),
            source="faceforensics++_{c}",
        ),
        Rule(
            rf"manipulated_sequences/(?P<method>[^/]+)/{_KIND}/{_PAIR}",
            "fake",
            ("{a}", "{b}"),
            "{method}",
            "faceforensics++_{c}",
        ),
        Rule(
            rf"original_sequences/actors/{_KIND}/(?P<a>\d\d)__.+",
            "real",
            ("actor_{a}",),
            source="deepfakedetection_{c}",
        ),
        Rule(
            rf"manipulated_sequences/(?P<method>DeepFakeDetection)/{_KIND}/{_ACTORS}",
            "fake",
            ("actor_{a}",),
            "{method}",
            "deepfakedetection_{c}",
        ),
        Rule(r"original/(?P<a>\d{3})", "real", ("{a}",), source="faceforensics++"),
        Rule(
            rf"(?P<method>{_METHODS})/{_PAIR}",
            "fake",
            ("{a}", "{b}"),
            "{method}",
            "faceforensics++",
        ),
        Rule(
            rf"(?P<method>DeepFakeDetection)/{_ACTORS}",
            "fake",
            ("actor_{a}",),
            "{method}",
            "deepfakedetection",
        ),
    ),
    faceforensics,
)

_COPY = "(?:(?:videos|frames)/)?"  # some copies have one folder more

CELEB_DF = Layout(
    "celeb-df",
    "(?=(?:Celeb-real|Celeb-synthesis|YouTube-real)/)",
    (
        Rule(rf"Celeb-real/{_COPY}(?P<film>id\d+_\d+)", "real", ("{film}",), source="celeb-df"),
        Rule(
            rf"(?P<method>Celeb-synthesis)/{_COPY}(?P<id>id\d+)_id\d+_(?P<film>\d+)",
            "fake",
            ("{id}_{film}",),
            "{method}",
            "celeb-df",
        ),
        Rule(rf"YouTube-real/{_COPY}(?P<film>\d+)", "real", ("youtube_{film}",), source="celeb-df"),
    ),
    celeb_df,
    (
        "Celeb-DF: the same people are in the official training and test videos, so its test set "
        "does not tell how a detector does on new people.",
    ),
)

DFDC = Layout("dfdc", r"(?=metadata\.json$)", lists=dfdc)

DFDC_PREVIEW = Layout(
    "dfdc-preview",
    r"(?=dataset\.json$)",
    lists=dfdc_preview,
    notes=(
        "DFDC preview: groups are the target actors; the actors that are swapped in appear in "
        "other groups too.",
    ),
)

_PERSON = r"[fm][a-z]{3}\d"

DEEPFAKETIMIT = Layout(
    "deepfaketimit",
    "(?=(?:lower|higher)_quality/|VidTIMIT[^/]*/)",
    (
        Rule(
            rf"(?P<q>lower|higher)_quality/(?P<a>{_PERSON})/.+-video-(?P<b>{_PERSON})",
            "fake",
            ("{a}", "{b}"),
            "faceswap-gan",
            "deepfaketimit_{q}",
        ),
        Rule(
            rf"(?P<q>lower|higher)_quality/(?P<a>{_PERSON})-(?P<b>{_PERSON})/.+",
            "fake",
            ("{a}", "{b}"),
            "faceswap-gan",
            "deepfaketimit_{q}",
        ),
        Rule(rf"VidTIMIT[^/]*/(?P<a>{_PERSON})/.+", "real", ("{a}",), source="vidtimit"),
    ),
)

_WILD = "(?P<label>real|fake)_(?P<split>train|test)/(?:extracted/)?(?P<film>[^/]+)"

WILDDEEPFAKE = Layout(
    "wilddeepfake",
    "(?=(?:real|fake)_(?:train|test)/)",
    (
        Rule(
            f"{_WILD}(?:/(?:real|fake))?(?:/[^/]+)?",
            "{label}",
            ("{label}_{split}/{film}",),
            source="wilddeepfake",
            split="{split}",
        ),
    ),
    notes=(
        "WildDeepfake does not say who is in its films, so the same person may be in several "
        "groups.",
    ),
)

_FORGED = r"(?P<method>[^/]+)"

DF40 = Layout(
    "df40",
    r"(?=[^/]+/(?:ff|cdf)/(?:frames/)?(?:\d{3}(?:_\d{3})?|id\d+_(?:id\d+_)?\d{4}|\d{5})/"
    r"|[^/]+/frames/\d{3}_\d{3}/)",
    (
        Rule(
            rf"{_FORGED}/(?:ff/)?(?:frames/)?{_PAIR}", "fake", ("{a}", "{b}"), "{method}", "df40_ff"
        ),
        Rule(
            rf"{_FORGED}/(?:ff/)?(?:frames/)?(?P<a>\d{{3}})",
            "fake",
            ("{a}",),
            "{method}",
            "df40_ff",
        ),
        Rule(
            rf"{_FORGED}/cdf/(?:frames/)?(?P<id>id\d+)_(?:id\d+_)?(?P<film>\d{{4}})",
            "fake",
            ("{id}_{film}",),
            "{method}",
            "df40_cdf",
        ),
        Rule(
            rf"{_FORGED}/cdf/(?:frames/)?(?P<film>\d{{5}})",
            "fake",
            ("youtube_{film}",),
            "{method}",
            "df40_cdf",
        ),
        Rule(
            rf"{_FORGED}/(?P<label>real|fake)/(?:frames/)?(?P<film>[^/]+)",
            "{label}",
            ("{method}/{film}",),
            "{method}",
            "df40",
        ),
        Rule(
            rf"{_FORGED}/(?P<label>real|fake)/(?P<film>[^/]+)",
            "{label}",
            ("{method}/{film}",),
            "{method}",
            "df40",
            stills=True,
        ),
    ),
    notes=(
        "DF40: the folders do not say which clips are for training and which for tests; use "
        "DF40_train and the test folder apart, or the split files of FaceForensics++.",
    ),
)

LAYOUTS = (FACEFORENSICS, CELEB_DF, DFDC, DFDC_PREVIEW, DEEPFAKETIMIT, WILDDEEPFAKE, DF40)
"""In the order in which they are tried: a clip is that of the first that knows it."""
