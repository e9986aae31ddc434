"""Targets a second of RecTools' SASRec; run by `bench_sequence` in an environment of its own.

    python rectools_peer.py events.csv '{"dim": 64, "blocks": 2, "length": 200, "batch": 128}'

The last line is one JSON object. The first epoch is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

SECONDS: list[float] = []  # of each epoch; RecTools copies its callbacks


class Clock(Callback):
    """Times each epoch."""

    began = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        SECONDS.append(time.perf_counter() - self.began)


def main() -> None:
    """Trains and prints."""
    size = json.loads(sys.argv[2])
    torch.set_num_threads(size["threads"])
    events = pd.read_csv(sys.argv[1])
    table = pd.DataFrame(
        {
            Columns.User: events["user_id"],
            Columns.Item: events["item_id"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(events["position"], unit="s"),
        }
    )

    def trainer() -> Trainer:
        return Trainer(
            accelerator="cpu",
            max_epochs=size["epochs"] + 1,
            callbacks=[Clock()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_factors=size["dim"],
        n_blocks=size["blocks"],
        n_heads=size["heads"],
        session_max_len=size["length"],
        batch_size=size["batch"],
        loss=size["loss"],
        n_negatives=size["negatives"],
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(table))
    each = events.groupby("user_id").size().clip(upper=size["length"] + 1) - 1
    best = min(SECONDS[1:])
    print(json.dumps({"targets": int(each.sum()), "targets_per_s": each.sum() / best}))


if __name__ == "__main__":
    main()
