"""Deepfake-video detectors: `load_detector` to judge clips, `build_network` for bare networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genconvit.models.registry import build_network
    from genconvit.predict import load_detector

__all__ = ["build_network", "load_detector"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `genconvit --help` and a wrong option need not wait for it.
    if name == "load_detector":
        from genconvit.predict import load_detector

        return load_detector
    if name == "build_network":
        from genconvit.models.registry import build_network

        return build_network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
