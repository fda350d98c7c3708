"""A program: an elastic run on a cluster of three nodes that loses one and is told of another.

Run as `python lost_nodes.py FOLDER`. Prints each event of the run as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Ray has already given the lost node's place to a new worker; this is how long it waits for it.
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.5"

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from genconvit.data.synthetic import write_synthetic_shards
from ray_jobs.mailbox import Event
from ray_jobs.output import Output
from ray_jobs.train import train
from ray_jobs.train_display import TrainDisplay
from tests.conftest import small_settings

SECONDS_OF_NOTICE = 8


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    lost, drained = (cluster.add_node(num_cpus=2) for _ in range(2))
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    settings = small_settings(
        "train.num_workers=1:3",
        "train.epochs=4",
        "train.batch_size=8",
        "train.checkpoint_minutes=0.0001",
        "train.log_to=none",
    )
    write_synthetic_shards(folder / "shards", 360, settings)
    events: list[Event] = []

    def steps(workers: int) -> Callable[[], bool]:
        return lambda: any(e["event"] == "step" and e["workers"] == workers for e in events)

    def lose_nodes() -> None:
        wait_for(steps(workers=3))
        cluster.remove_node(lost, allow_graceful=False)
        wait_for(steps(workers=2))
        GcsClient(address=cluster.address).drain_node(
            drained.node_id,
            DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
            "taken back",
            int(1000 * (time.time() + SECONDS_OF_NOTICE)),
        )
        time.sleep(SECONDS_OF_NOTICE)
        cluster.remove_node(drained, allow_graceful=False)

    threading.Thread(target=lose_nodes, daemon=True).start()
    show = TrainDisplay.handle

    def handle(display: TrainDisplay, event: Event) -> None:
        events.append(event)
        print(json.dumps(event), flush=True)
        show(display, event)

    TrainDisplay.handle = handle  # type: ignore[method-assign]
    train([folder / "shards"], settings, folder / "run", Output(as_json=True))
    ray.shutdown()
    cluster.shutdown()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
