"""Lanes, a prototype: one process trains K variants of one architecture as one batched computation.

They differ in learning rate, weight decay, dropout, gradient clipping and seed, so in weights and
sequences too. `python -m benchmarks.lanes` measures training sequences per second, all lanes
together, beside separate processes of the engine.

Shapes: `K` lanes, `P` parameters of one network; `B` sequences of a lane's batch, `N` its real
images, `C` channels, `D` features, `H` width of a GRU. Lengths take turns (`data.training_table`),
so the batches of all lanes have the same shape.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.circumstances import circumstances
from benchmarks.work import MAX_DIGITS, NETWORKS
from crnn_search import engine, mnist
from crnn_search.config import TrialConfig
from crnn_search.data import Batch, Digits, split_images, training_table
from crnn_search.engine import TrainingData
from crnn_search.model import CRNN

RESULTS = Path(__file__).parent / "results" / "lanes.json"
CONVOLUTIONS = ("grouped", "matmul", "loop")
STATISTICS = ("running_mean", "running_var")


class Lanes:
    """K networks and their optimizers.

    weights: `(K, P)`, each lane's parameters end to end; what layers read are views of it, so that
    an optimizer's step is one operation on all parameters of all lanes.
    """

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        seeds: Sequence[int],
        *,
        epochs: int,
        device: torch.device,
        convolutions: str = "grouped",
    ) -> None:
        self.specs = [config.training for config in configs]
        self.model = configs[0].model
        self.seeds, self.epochs, self.epoch, self.device = seeds, epochs, 0, device
        self.convolutions = convolutions
        self.precision = engine.resolve_precision(self.specs[0].precision, device)
        networks = [
            engine.start(config, seed=seed, epochs=1, device=device).model
            for config, seed in zip(configs, seeds, strict=True)
        ]
        self.shapes = {name: value.shape for name, value in networks[0].named_parameters()}
        rows = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in networks]
        self.weights = torch.stack(rows).requires_grad_()
        self.statistics = {
            name: torch.cat([dict(net.named_buffers())[name] for net in networks])
            for name, _ in networks[0].named_buffers()
            if name.endswith(STATISTICS)
        }
        self.first, self.second = torch.zeros(2, *self.weights.shape, device=device)
        self.dropout = self._by_lane("dropout", configs)
        self.clip = self._by_lane("gradient_clip", configs)
        self.decay = self._by_lane("weight_decay", configs)
        self.step = 0

    def _by_lane(self, name: str, configs: Sequence[TrialConfig]) -> Tensor:
        return torch.tensor([[config.to_dict()[name]] for config in configs], device=self.device)

    def lane(self, k: int) -> CRNN:
        """One lane's network, for evaluation and checkpoints."""
        network = CRNN(self.model).to(self.device)
        parts = self.weights[k].detach().split([shape.numel() for shape in self.shapes.values()])
        state = {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}
        state |= {n: v.chunk(len(self.specs))[k] for n, v in self.statistics.items()}
        network.load_state_dict(state, strict=False)  # batches are not counted
        return network

    def train_epoch(self, digits: Digits, pool: Tensor, sequences: int) -> list[float]:
        """Train one epoch; each lane's mean squared error in training."""
        labels = digits.labels.cpu()
        tables = [
            training_table(pool, labels, sequences, MAX_DIGITS, seed, self.epoch)
            for seed in self.seeds
        ]
        size = self.specs[0].batch_size
        steps = -(-sequences // size)
        total = torch.zeros(len(self.seeds), device=self.device)
        for step, batches in enumerate(zip(*(t.batches(size) for t in tables), strict=True)):
            progress = (self.epoch + step / steps) / self.epochs
            total += self._train_batch(digits, batches, progress) * len(batches[0].targets)
        self.epoch += 1
        return [value / sequences for value in total.tolist()]

    def _train_batch(self, digits: Digits, batches: Sequence[Batch], progress: float) -> Tensor:
        alive = batches[0].batch_sizes
        assert all(torch.equal(alive, batch.batch_sizes) for batch in batches)
        rows = torch.stack([batch.images for batch in batches]).to(self.device)
        targets = torch.stack([batch.targets for batch in batches]).to(self.device)
        losses = (self._sums(digits.images[rows], alive) - targets).square().mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), self.weights)
        rates = [engine.learning_rate_at(spec, progress) for spec in self.specs]
        with torch.no_grad():
            self._update(gradient, torch.tensor(rates, device=self.device).unsqueeze(1))
        return losses.detach()

    def _sums(self, images: Tensor, alive: Tensor) -> Tensor:
        """Predicted sums, float32 `(K, B)`, of uint8 images `(K, N, 28, 28)`."""
        parts = self.weights.split([shape.numel() for shape in self.shapes.values()], dim=1)
        views = {
            name: part.unflatten(1, shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            states = self._encode(images, views)
        states = states.float()
        for place in range(len(self.model.gru_sizes)):
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            weights = [views[f"grus.{place}.{name}"] for name in names]
            states, last = _gru(states, weights, alive)
        if self.dropout.any():
            share = self.dropout.unsqueeze(2)
            last = last * (torch.rand_like(last) >= share) / (1 - share)
        weight, bias = views["output.weight"], views["output.bias"]
        return torch.baddbmm(bias.unsqueeze(1), last, weight.transpose(1, 2)).squeeze(2)

    def _encode(self, images: Tensor, views: dict[str, Tensor]) -> Tensor:
        """Features `(K, N, D)`: lanes lie side by side as groups of channels, `(N, K·C, ...)`."""
        lanes = len(images)
        if self.convolutions == "loop" and lanes > 1:
            return torch.cat([
                self._layers(images[k : k + 1], {n: v[k : k + 1] for n, v in views.items()}, k)
                for k in range(lanes)
            ])  # fmt: skip
        return self._layers(images, views, None)

    def _layers(self, images: Tensor, views: dict[str, Tensor], lane: int | None) -> Tensor:
        lanes, place = len(images), 0
        maps = images.transpose(0, 1).float().div_(255)
        maps = maps.contiguous(memory_format=torch.channels_last)
        for _, _, pool in self.model.layers():
            bias = views.get(f"encoder.{place}.bias")
            weight = views[f"encoder.{place}.weight"]
            maps = self._convolve(maps, weight, None if bias is None else bias.flatten())
            place += 1
            if self.model.batch_norm:
                maps = self._normalise(maps, views, place, lane)
                place += 1
            maps = F.relu(F.max_pool2d(maps, pool) if pool > 1 else maps)
            place += 2 if pool > 1 else 1
        features: Tensor = maps.contiguous().unflatten(1, (lanes, -1)).transpose(0, 1).flatten(2)
        return features

    def _convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        lanes, padding = len(weight), self.model.padding
        if self.convolutions != "matmul":
            return F.conv2d(maps, weight.flatten(0, 1), bias, padding=padding, groups=lanes)
        kernel = weight.shape[-1]
        before, after = ((kernel - 1) // 2, kernel // 2) if padding == "same" else (0, 0)
        maps = F.pad(maps, (before, after) * 2)
        side = maps.shape[-1] - kernel + 1
        columns = F.unfold(maps, kernel).unflatten(1, (lanes, -1))  # (N, K, C·k², side²)
        result: Tensor = (weight.flatten(2) @ columns).flatten(1, 2).unflatten(2, (side, side))
        return result if bias is None else result + bias[:, None, None]

    def _normalise(
        self, maps: Tensor, views: dict[str, Tensor], place: int, lane: int | None
    ) -> Tensor:
        mean, variance = (self.statistics[f"encoder.{place}.{name}"] for name in STATISTICS)
        if lane is not None:
            mean, variance = (v.chunk(len(self.specs))[lane] for v in (mean, variance))
        gain, bias = (views[f"encoder.{place}.{name}"].flatten() for name in ("weight", "bias"))
        return F.batch_norm(maps, mean, variance, gain, bias, training=True)

    def _update(self, gradient: Tensor, rate: Tensor) -> None:
        """AdamW or RMSprop as PyTorch has them; `rate`, decay and clipping differ by lane."""
        self.step += 1
        norm = gradient.norm(dim=1, keepdim=True)
        shrink = (self.clip / (norm + 1e-6)).clamp(max=1.0)
        gradient = gradient * torch.where(self.clip > 0, shrink, 1.0)
        if self.specs[0].optimizer == "adamw":
            self.weights *= 1 - rate * self.decay
            self.first.lerp_(gradient, 0.1)
            self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            mean = self.first / (1 - 0.9**self.step)
            scale = (self.second / (1 - 0.999**self.step)).sqrt_().add_(1e-8)
        else:
            mean = gradient + self.decay * self.weights
            self.second.mul_(0.9).addcmul_(mean, mean, value=0.1)
            scale = self.second.sqrt().add_(1e-7)
        self.weights -= rate * mean / scale


def _gru(inputs: Tensor, weights: Sequence[Tensor], alive: Tensor) -> tuple[Tensor, Tensor]:
    """States of all steps, `(K, N, H)`, and the last of each sequence, `(K, B, H)`."""
    of_input, of_state, bias, bias_state = weights
    gates = torch.baddbmm(bias.unsqueeze(1), inputs, of_input.transpose(1, 2))
    turned, width = of_state.transpose(1, 2), of_state.shape[2]
    state = gates.new_zeros(len(gates), int(alive[0]), width)
    states, ended = [], []
    for step in gates.split(alive.tolist(), dim=1):
        if step.shape[1] < state.shape[1]:
            ended.append(state[:, step.shape[1] :])
            state = state[:, : step.shape[1]]
        hidden = torch.baddbmm(bias_state.unsqueeze(1), state, turned)
        both = torch.sigmoid(step[..., : 2 * width] + hidden[..., : 2 * width])
        reset, update = both.chunk(2, dim=2)
        new = torch.tanh(torch.addcmul(step[..., 2 * width :], reset, hidden[..., 2 * width :]))
        state = torch.lerp(new, state, update)
        states.append(state)
    return torch.cat(states, dim=1), torch.cat([state, *ended[::-1]], dim=1)


def variants(config: dict[str, Any], count: int) -> list[TrialConfig]:
    """Configurations that share a network and differ in learning rate and weight decay."""
    base = TrialConfig.from_dict(config).to_dict()
    return [
        TrialConfig.from_dict(
            base | {"learning_rate": base["learning_rate"] * 1.1**k, "weight_decay": 0.01 * k}
        )
        for k in range(count)
    ]


def lanes_rate(
    network: str, count: int, convolutions: str, threads: int, first: int, options: dict[str, Any]
) -> float:
    """Training sequences per second of one process, all its lanes together."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    device = torch.device(options["device"])
    digits = mnist.load(options["data_dir"]).to(device)
    pool, _ = split_images(digits.labels.cpu())
    lanes = Lanes(
        variants(NETWORKS[network], count), range(first, first + count), epochs=4, device=device,
        convolutions=convolutions,
    )  # fmt: skip
    seconds: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        lanes.train_epoch(digits, pool, options["sequences"])
        seconds.append(time.perf_counter() - began)
    return float(count * options["sequences"] / statistics.fmean(seconds[1:]))


def lone_rate(network: str, seed: int, options: dict[str, Any]) -> float:
    """Training sequences per second of one process of the engine, one thread."""
    torch.set_num_threads(1)
    device = torch.device(options["device"])
    digits = mnist.load(options["data_dir"]).to(device)
    pool, _ = split_images(digits.labels.cpu())
    config = TrialConfig.from_dict(NETWORKS[network])
    state = engine.start(config, seed=seed, epochs=4, device=device)
    data = TrainingData(digits, pool, None, options["sequences"], MAX_DIGITS)
    found = engine.train(state, data)
    return statistics.fmean([next(found).sequences_per_s for _ in range(3)][1:])


def measure(
    options: dict[str, Any], counts: Sequence[int], convolutions: Sequence[str]
) -> dict[str, Any]:
    """All figures of one repeat: lanes in one process with two threads, in two with one each."""
    rows: dict[str, Any] = {}
    for network in NETWORKS:
        rates = {"separate": _processes(lone_rate, [(network, s, options) for s in (0, 1)])}
        for kind in convolutions:
            for count in counts:
                name = f"{kind} {count}"
                one = [(network, count, kind, 2, 0, options)]
                rates[f"{name} together"] = _processes(lanes_rate, one)
                if count > 1:
                    half = count // 2
                    two = [(network, half, kind, 1, f, options) for f in (0, half)]
                    rates[f"{name} in two"] = _processes(lanes_rate, two)
        print(network, json.dumps(rates), flush=True)
        rows[network] = rates
    return rows


def _processes(work: Any, calls: Sequence[tuple[Any, ...]]) -> float:
    """What several fresh processes reach at the same time, added up."""
    with ProcessPoolExecutor(len(calls), get_context("spawn")) as pool:
        return float(sum(pool.map(work, *zip(*calls, strict=True))))


def main() -> None:
    """Measure in turn and write `results/lanes.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=1024, help="of a lane, an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--convolutions", nargs="+", choices=CONVOLUTIONS, default=["grouped"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("sequences", "device", "data_dir")}
    settings = (options, arguments.lanes, arguments.convolutions)
    repeats = [measure(*settings) for _ in range(arguments.repeats)]
    results = circumstances() | {
        "device": arguments.device,
        "sequences": arguments.sequences,
        "sequences_per_s": {
            network: {name: [row[network][name] for row in repeats] for name in repeats[0][network]}
            for network in NETWORKS
        },
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
