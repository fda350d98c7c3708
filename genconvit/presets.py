"""What an architecture and its presets change of the network's settings."""

from __future__ import annotations

from typing import Any

V2_ONLY = (
    "attention",
    "residual",
    "fusion",
    "backbone_fusion",
    "backbone_input",
    "backbone_stride",
    "pooling",
    "seam_branch",
    "ae_latent",
    "vae_latent",
    "dropout_rate",
    "token_dim",
    "attention_heads",
    "aux_heads",
    "embedder",
    "embedder_kwargs",
)
"""What only the network `v2` has."""

_NANO_CONVNEXT: dict[str, Any] = {
    "drop_path_rate": 0.0,
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 128], "ls_init_value": 0.1},
}

_V2_PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "nano": {
        **_NANO_CONVNEXT,
        "image_size": 64,
        "ae_latent": 64,
        "vae_latent": 64,
        "autoencoder_channels": [8, 16, 32, 48, 48],
        "token_dim": 128,
        "attention_heads": 4,
        "embedder_kwargs": {
            "embed_dim": 16,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 4, 8],
            "window_size": 4,
        },
    },
}

_ORIGINAL: dict[str, Any] = {
    "net": "genconvit",
    "autoencoder_channels": [16, 32, 64, 128, 256],
    "drop_path_rate": 0.0,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "v2": _V2_PRESETS,
    "original": {
        "base": _ORIGINAL,
        "nano": {
            **_ORIGINAL,
            **_NANO_CONVNEXT,
            "image_size": 64,
            "autoencoder_channels": [4, 8, 16, 32, 64],
        },
    },
}
"""What each preset of an architecture changes in `model`; the rest keeps its default."""
