"""One process of a training run whose weights `fully_shard` shares out: `python sharded_process.py KIND OUTPUT`.

Each of two processes has two of the four clips, a single one has all. The first writes the losses of three steps.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).resolve().parent))

from models import build_model, make_features


def main() -> None:
    torch.set_num_threads(1)
    num_processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    model = build_model(
        sys.argv[1], conv_norm_type="layer_norm", dropout=0.0, activation_dropout=0.0, attention_dropout=0.0,
        dropout_pre_encoder=0.0, **({} if sys.argv[1] == "ctc" else {"decoder_dropout": 0.0, "joint_dropout": 0.0}),
    ).train()  # fmt: skip
    if num_processes > 1:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (num_processes,))
        for layer in model.encoder.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    lengths = torch.tensor([64, 48, 56, 40])
    features = make_features(lengths.tolist())
    labels = torch.tensor([[1, 2, 3], [4, 5, -100], [6, 7, 8], [9, -100, -100]])
    own = slice(rank * 4 // num_processes, (rank + 1) * 4 // num_processes)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    model.config.omega = 0.0  # each process would draw for itself whether a batch has the plain RNN-T loss
    for _ in range(3):
        loss = model(features[own], input_lengths=lengths[own], labels=labels[own]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.detach() / num_processes
        if num_processes > 1:
            dist.all_reduce(loss)
        losses.append(float(loss))
    if rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(losses))
    if num_processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
