"""The model card that lies beside every detector."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined

_CARD = """\
---
license: other
library_name: genconvit
tags: [deepfake-detection, video]
---
# {{ id }}

A deepfake-video detector of the GenConViT family: network `{{ info.model.net }}` of architecture
`{{ info.model.arch }}` (preset `{{ info.model.preset }}`), {{ info.model.image_size }} px,
backbones
`{{ info.model.backbone }}` and `{{ info.model.embedder }}`.

## Use

    genconvit predict --model . CLIP

```python
from genconvit import load_detector
verdict = load_detector(".").judge("clip.mp4")
```

It answers FAKE, REAL or UNDECIDED with P(fake), the mean over the face crops of a clip. P(fake) is
not calibrated:
it orders clips, and is no probability of being right.

## Training
{% for name, value in training %}
- {{ name }}: {{ value }}
{%- endfor %}

## Validation
{% if metrics %}
| figure | value |
|---|---|
{%- for name, value in metrics %}
| {{ name }} | {{ "%.4f" % value }} |
{%- endfor %}

These figures come from the clips by which this checkpoint was chosen, so they flatter it. Measure
it on
clips of your own that it has never seen: `genconvit evaluate`.
{% else %}
Not validated.
{% endif %}
## Limits

A verdict is evidence, not proof. A detector finds manipulations like those it was trained on; it
can be wrong on
others, on strong compression, on small or turned faces, and on people unlike those in its training
clips. It must not be
the only ground for a decision about a person.

Preprocessing `{{ info.preprocess_fingerprint }}`: face detector `{{ info.preprocess.detector }}`,
margin
{{ info.preprocess.margin }}, {{ info.preprocess.size }} px, JPEG quality {{
info.preprocess.jpeg_quality }}. The weights' licence is that of whoever
trained them; the training clips' terms may bind it.
"""


def model_card(info: dict[str, Any], id: str) -> str:
    """Markdown for a detector's README.md.

    Args:
        info: A `DetectorInfo` as plain data.
        id: The detector's name.
    """
    training = dict(info["training"])
    metrics = {k: v for k, v in training.pop("validation", {}).items() if isinstance(v, float)}
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(_CARD)
    return template.render(
        info=info, id=id, training=list(training.items()), metrics=list(metrics.items())
    )
