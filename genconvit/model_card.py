"""The model card that lies beside every detector."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined

from genconvit.config import DecisionSettings
from genconvit.evaluate.pages import facts

_HUB_NAMES = {"CC BY-NC 4.0": "cc-by-nc-4.0"}
"""Licences as model hubs write them."""
_CARD = """\
---
license: {{ license }}
library_name: genconvit
tags: [deepfake-detection, video]
---
# {{ id }}

A deepfake-video detector of the GenConViT family: network `{{ info.model.net }}` of architecture
`{{ info.model.arch }}` (preset `{{ info.model.preset }}`), {{ info.model.image_size }} px, {{
backbones }}.

## Licence

{% if info.licence %}
The weights are under **{{ info.licence }}**; whoever passes them on passes this on too.
{% else %}
The weights' licence is that of whoever trained them; the training clips' terms may bind it.
{% endif %}

## Use

    genconvit predict --model . CLIP

```python
from genconvit import load_detector
verdict = load_detector(".").judge("clip.mp4")
```

{% if info.decision.aggregation == "original" %}
It answers FAKE or REAL as the published program does, from the mean sigmoids of the face crops of a
clip; without a face it says FAKE.
{% else %}
It answers FAKE, REAL or UNDECIDED with P(fake), from the face crops of a clip (aggregation {{
info.decision.aggregation }}).
{% endif %}
{% if fit and fit.method == "isotonic" %}
P(fake) is calibrated: clip scores go through an isotonic map. {{ fitted_on }}
{% elif fit and fit.method == "temperature" %}
P(fake) is calibrated: logits are divided by {{ info.calibration.temperature }}. {{ fitted_on }}
{% elif info.calibration and not fit %}
P(fake) is calibrated: logits are divided by {{ info.calibration.temperature }}.
{% else %}
P(fake) is not calibrated: it orders clips, and is no probability of being right.
{% endif %}
{% if fit %}

P(fake) from {{ "%.3f" % band[0] }} to {{ "%.3f" % band[1] }} is UNDECIDED. Of new clips like those
of the val split (shards `{{ fit.data_digest }}`, {{ fit.clips.fake }} fake and {{
fit.clips.real }} real clips), at most {{ "%.1f" % (100 * fit.error_rate) }} % of the fake ones are
judged REAL and as many of the real ones FAKE, on average over such splits. For clips of other
sources, methods or compression nothing is promised.
{% endif %}

## Training

{% for name, value in training %}
- {{ name }}: {{ value }}
{% endfor %}

## Validation

{% if metrics %}
| figure | value |
|---|---|
{% for name, value in metrics %}
| {{ name }} | {{ "%.4f" % value }} |
{% endfor %}

These figures come from the clips by which this checkpoint was chosen, so they flatter it. Measure
it on clips of your own that it has never seen: `genconvit evaluate`.
{% elif info.training.get("train_on_val") %}
Not validated: it was trained on the val split, too, and is of the last epoch. Measure it on clips
of your own that it has never seen: `genconvit evaluate`.
{% else %}
Not validated here.
{% endif %}
{% if info.evaluation %}

## Evaluation

On {{ info.evaluation.fake }} fake and {{ info.evaluation.real }} real clips:
`{{ info.evaluation.command }}`

{% for sentence in info.evaluation.sentences %}
{{ sentence }}

{% endfor %}
| figure | value, 95 % interval |
|---|---|
{% for name, value in info.evaluation.figures.items() %}
| {{ name }} | {{ value }} |
{% endfor %}
{% endif %}

## Limits

A verdict is evidence, not proof. A detector finds manipulations like those it was trained on; it
can be wrong on others, on strong compression, on small or turned faces, and on people unlike those
in its training clips. It must not be the only ground for a decision about a person.

Preprocessing `{{ info.preprocess_fingerprint }}`: face detector `{{ info.preprocess.detector }}`,
{{ info.preprocess.shape }} crops with margin {{ info.preprocess.margin }}, {{
info.preprocess.size }} px, JPEG quality {{ info.preprocess.jpeg_quality }}.
Class order of the logits: {{ info.classes|join(", ") }}. Made with {{ libraries }}.
"""


def model_card(info: dict[str, Any], id: str) -> str:
    """Markdown for a detector's README.md.

    Args:
        info: A `DetectorInfo` as plain data.
        id: The detector's name.
    """
    environment = Environment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    training = info["training"] | {"data_digest": info["data_digest"] or "unknown"}
    model = info["model"]
    names = [model["backbone"]] + ([model["embedder"]] if model["arch"] == "v2" else [])
    fit = (info["calibration"] or {}).get("fit")
    return environment.from_string(_CARD).render(
        info=info,
        fit=fit,
        fitted_on=_fitted_on(fit) if fit else "",
        band=DecisionSettings.model_validate(info["decision"]).band,
        id=id,
        license=_HUB_NAMES.get(info["licence"], "other"),
        backbones="backbone " + " and ".join(f"`{name}`" for name in names),
        libraries=", ".join(f"{name} {number}" for name, number in info["libraries"].items()),
        training=facts(training),
        metrics=[(k, v) for k, v in info["metrics"].items() if v is not None],
    )


def _fitted_on(fit: dict[str, Any]) -> str:
    """What the calibrated scores mean, and how good they are."""
    text = f"It is right where {100 * fit['prevalence']:g} % of the clips are fake."
    if fit["after"]:
        before, after = fit["before"]["ece"], fit["after"]["ece"]
        text += f"\nExpected calibration error {before:.3f} before, {after:.3f} cross-validated."
    return text
