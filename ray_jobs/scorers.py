"""How many actors run the network, where, and on how many crops at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from genconvit.errors import UserError
from genconvit.predict import CROPS_A_PASS

CROPS_A_GPU_PASS = 128
CPUS_A_SCORER = 8
"""Without GPUs: decoding and finding faces take so many times as long as a small network."""


@dataclass(frozen=True)
class Scorers:
    """The actors that score crops on the cluster that is connected: one a GPU.

    Attributes:
        device: `cpu` or `cuda`.
        crops_a_pass: Crops a pass through the network.
        count: How many there are.
    """

    device: str
    crops_a_pass: int
    count: int

    @classmethod
    def on_cluster(cls, device: str = "auto", crops_a_pass: int | None = None) -> Scorers:
        """What fits the cluster.

        Args:
            device: `auto`, `cpu` or `cuda`.
            crops_a_pass: None is a usual number for the device.

        Raises:
            UserError: There is no such device, or the cluster has none.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {device}: on a cluster give auto, cpu or cuda.")
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise UserError("--device cuda: this cluster has no GPU; use cpu or auto.")
        if device == "cpu" or not gpus:
            return cls("cpu", crops_a_pass or CROPS_A_PASS, max(1, cpus // CPUS_A_SCORER))
        return cls("cuda", crops_a_pass or CROPS_A_GPU_PASS, gpus)

    @property
    def resources(self) -> dict[str, Any]:
        """Of each, as `map_batches` takes it."""
        return {
            # On the CPU it mostly waits for crops: it takes no CPU from those who make them.
            "num_cpus": 0,
            "num_gpus": 1 if self.device == "cuda" else 0,
            "concurrency": self.count,
        }
