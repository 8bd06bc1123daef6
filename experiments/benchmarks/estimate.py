"""What sampling and learning would take on machines that nobody ran it on: arithmetic from counted FLOPs and bytes.

    python -m experiments.benchmarks.estimate            # the tables of experiments/scaling.md
    python -m experiments.benchmarks.estimate --count    # count FLOPs, bytes and collectives anew

A call of the network on ``b`` images takes as long as its arithmetic at a share of the chip's peak, or as reading the
weights from its memory, whichever is longer. A collective takes a latency, and its bytes over one axis of links.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxsamplers as js
from experiments import dit

SHARE, SHARES = 0.4, (0.25, 0.55)  # of the peak that a network reaches: assumed, with what it may be
REGISTERS = 3  # float32 states of UniPC-3: the sample and two estimates
CALLS, STEPS = 10, 1000  # of the sampler that is learned, and gradient steps
ROWS = 50  # of DDIM, in parallel
MEASURED = Path(__file__).parents[2] / "docs" / "parallel.json"  # sweeps


@dataclasses.dataclass(frozen=True)
class Network:
    """What was counted.

    Attributes:
        parameters: kept in bfloat16.
        flops: of one image's forward pass, two for each multiplication.
        values: numbers in one image.
        kept: bytes that a gradient with respect to the image keeps of one image's forward pass, in bfloat16.
        fused: the same without the matrices of attention, as a fused kernel does.
        batch: images on a chip, while sampling and while learning.
    """

    parameters: int
    flops: float
    values: int
    kept: float
    fused: float
    batch: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Machine:
    """Public specifications, but for the latency.

    Attributes:
        chips: how many.
        hosts: how many processes.
        peak: bfloat16 FLOP/s of a chip, dense.
        memory: bytes of a chip.
        bandwidth: of that memory, bytes a second.
        link: bytes a second that a chip sends along one axis of the mesh, in one direction.
        latency: seconds of a small collective over all chips, assumed.
        window: rows in parallel, one a chip; the other chips have other images.
    """

    chips: int
    hosts: int
    peak: float
    memory: float
    bandwidth: float
    link: float
    latency: float
    window: int


NETWORKS = {
    "DiT-XL/2": Network(674_834_720, 2.0 * dit.sizes["DiT-XL/2"].products, 32 * 32 * 4, 0.624e9, 0.464e9, (32, 8)),
    "SDXL": Network(2_567_463_684, 6.761e12, 128 * 128 * 4, 17.6e9, 5.32e9, (4, 1)),
}
MACHINES = {
    "v5e-16": Machine(16, 4, 197e12, 16e9, 819e9, 50e9, 20e-6, 16),
    "v5p-128": Machine(64, 16, 459e12, 95e9, 2765e9, 100e9, 30e-6, 16),
    "8 x H100": Machine(8, 1, 989e12, 80e9, 3350e9, 450e9, 20e-6, 8),
}
SCALARS = 22  # in the one all-reduce of each row's gradient, see ``count_collectives``


def call(network: Network, machine: Machine, images: float, share: float = SHARE) -> float:
    """Seconds of one call on one chip."""
    return max(images * network.flops / (share * machine.peak), 2 * network.parameters / machine.bandwidth)


def sampling(network: Network, machine: Machine) -> dict[str, str]:
    """The batch over all chips, and nothing sent."""
    images, one = network.batch[0], call(network, machine, network.batch[0])
    own = (2 * REGISTERS + 1) * 4 * network.values * images / machine.bandwidth  # read and written in each row
    rate = lambda steps, share=SHARE: machine.chips * images / (steps * call(network, machine, images, share))
    slow, fast = (50_000 / rate(50, share) / 60 for share in SHARES)
    return {
        "images a chip": f"{images}",
        "weights to each, GB": number(2e-9 * network.parameters),
        "a call, ms": number(1e3 * one),
        "reading weights, ms": number(2e3 * network.parameters / machine.bandwidth),
        "images/s, 10 steps": number(rate(10)),
        "50 steps": number(rate(50)),
        "50,000 images of 50 steps, min": f"{number(50_000 / rate(50) / 60)} ({number(fast)} - {number(slow)})",
        "sampler's own traffic": f"{100 * own / one:.3f} %",
    }


def learning(network: Network, machine: Machine) -> dict[str, str]:
    """Forward, once more, and back to the image, which costs as much as forward: weights have no gradient."""
    images = network.batch[1]
    one = call(network, machine, images)
    weights, states = 2 * network.parameters, CALLS * REGISTERS * 4 * network.values * images
    sent = (CALLS + 1) * machine.latency + all_reduced() * 2 / machine.link
    fits = lambda size: f"{number(size / 1e9)}{'' if size < 0.9 * machine.memory else ' (too much)'}"
    return {
        "images a chip": f"{images}",
        "a gradient, s": number(3 * CALLS * one),
        f"{STEPS} gradients, min": number(STEPS * 3 * CALLS * one / 60),
        "memory, GB": fits(weights + states + images * network.kept),
        "fused attention": fits(weights + states + images * network.fused),
        "`remat=False`": fits(weights + CALLS * images * network.fused),
        "sent a gradient, ms": number(1e3 * sent),
        "share": f"{100 * sent / (3 * CALLS * one + sent):.3f} %",
    }


def in_parallel(network: Network, machine: Machine) -> dict[str, str]:
    """One image, a window of rows over as many chips; all answers are gathered in each sweep."""
    window, one = machine.window, call(network, machine, 1)
    gathered = 4 * network.values * (window - 1)
    sent = machine.latency + gathered / machine.link
    depth = sweeps(window)
    together = depth * (one + sent)
    return {
        "window": f"{window}",
        "sweeps": f"{depth}",
        "a call, ms": number(1e3 * one),
        "gathered a sweep, MB": number(gathered / 1e6),
        "ms": number(1e3 * sent),
        f"{ROWS} rows one after another, s": number(ROWS * one),
        "in parallel, s": number(together),
        "times as fast": number(ROWS * one / together),
    }


def all_reduced() -> int:
    """Bytes of one gradient: each row's scalars, and the loss."""
    return 4 * (SCALARS * CALLS + 1)


def sweeps(window: int) -> int:
    """What DDIM took on the digits, to 0.003 noise levels (docs/parallel.md)."""
    for run in json.loads(MEASURED.read_text()):
        wanted = run["sampler"] == "DDIM" and run["kept"].startswith("rest") and run["tolerance"] == 0.003
        if wanted and run["window"] == window:
            return int(run["depth"])
    raise ValueError(f"no run with a window of {window} in {MEASURED}")


def tables() -> str:
    """Markdown."""
    parts = {"Sampling": sampling, "Learning": learning, "In parallel": in_parallel}
    return "\n\n".join("\n".join([f"### {title}", "", *rows(function)]) for title, function in parts.items())


def rows(function: Any) -> Iterator[str]:
    """Of one table: every network on every machine."""
    head = False
    for name, network in NETWORKS.items():
        for where, machine in MACHINES.items():
            cells = {"network": name, "machine": where, **function(network, machine)}
            if not head:
                yield "| " + " | ".join(cells) + " |"
                yield "|---" * len(cells) + "|"
                head = True
            yield "| " + " | ".join(cells.values()) + " |"


def number(value: float) -> str:
    """Three digits, which is more than is known."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count_dit(settings: dit.DiTSettings, fused: bool) -> float:
    """Bytes that a gradient of DiT keeps for each image; nothing is allocated."""
    plain = jax.nn.dot_product_attention

    @jax.custom_vjp
    def attention(q: Any, k: Any, v: Any) -> Any:
        return plain(q, k, v)

    attention.defvjp(lambda q, k, v: (plain(q, k, v), (q, k, v, plain(q, k, v))), lambda kept, _: kept[:3])

    def kept(batch: int) -> int:
        x = jax.ShapeDtypeStruct((batch, *settings.shape), jnp.float32)
        label = jax.ShapeDtypeStruct((batch,), jnp.int32)
        back = lambda w, x, label: jax.vjp(lambda x: dit.noise(settings, w)(x, 500.0, label=label), x)[1]
        leaves = jax.tree.leaves(jax.eval_shape(back, dit.shapes(settings), x, label))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    try:
        jax.nn.dot_product_attention = attention if fused else plain
        return kept(2) - kept(1)
    finally:
        jax.nn.dot_product_attention = plain


def count_sdxl(fused: bool) -> tuple[int, float, float]:
    """Parameters, FLOPs and kept bytes for each image of SDXL's network at 1024 x 1024, on PyTorch's meta device."""
    import torch
    from diffusers import UNet2DConditionModel
    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).to(torch.bfloat16)
    network.requires_grad_(False)
    parameters = sum(p.numel() for p in network.parameters())

    def run(batch: int, needs: bool) -> Any:
        empty = lambda *shape: torch.empty(shape, device="meta", dtype=torch.bfloat16)
        x, text = empty(batch, 4, 128, 128).requires_grad_(needs), empty(batch, 77, 2048)
        extra = {"text_embeds": empty(batch, 1280), "time_ids": empty(batch, 6)}
        return network(x, torch.empty((), device="meta"), text, added_cond_kwargs=extra).sample

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(1, False)
    plain = functional.scaled_dot_product_attention

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            answer = torch.empty_like(q)
            ctx.save_for_backward(q, k, v, answer)
            return answer

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise NotImplementedError

    def kept(batch: int) -> int:
        sizes, held = {}, []

        def pack(tensor: Any) -> Any:
            held.append(tensor)  # a freed one's place might be another's
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(batch, True)
        return sum(sizes.values())

    try:
        if fused:
            functional.scaled_dot_product_attention = lambda q, k, v, **_: Fused.apply(q, k, v)
        return parameters, float(counter.get_total_flops()), kept(2) - kept(1)
    finally:
        functional.scaled_dot_product_attention = plain


def count_collectives() -> list[str]:
    """What is sent in one gradient of ``gaps`` and ``coefficients``, from the program compiled for all devices here."""
    process = js.processes.vp_linear()
    build = js.learn.builder(js.solvers.unipc, process, order=3)
    objective = js.learn.endpoint(build, lambda x, t: jnp.tanh(x) * t)
    mesh = js.distributed.mesh()
    x = jnp.ones((2 * mesh.size, 6))
    given = js.learn.teach(js.solvers.ddim(process, js.schedules.half_log_snr(process, 4)), lambda x, t: x * t, x)
    parameters = js.distributed.replicate(js.learn.parameters(process, CALLS, coefficients=True), mesh)

    def gradient(learned: Any, parameters: Any, given: Any) -> Any:
        return jax.grad(lambda part: objective(dataclasses.replace(parameters, learned=part), given, None))(learned)

    arguments = parameters.learned, parameters, js.distributed.spread(given, mesh)
    text: Any = jax.jit(gradient).lower(*arguments).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    return [f"{len(re.findall(r'f32', shape))} scalars" for shape in re.findall(rf"= (.*?) (?:{kinds})\(", text)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or count."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.estimate", description="Nothing is run.")
    parser.add_argument("--count", action="store_true", help="count what the tables start from; needs diffusers")
    if not parser.parse_args(arguments).count:
        print(tables())
        return
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        print("one device: collectives are seen with JAX_NUM_CPU_DEVICES=8")
    print("one all-reduce or the like each, of a row or of all:", *count_collectives())
    for fused in (False, True):
        kind = "fused attention" if fused else "plain attention"
        print(f"DiT-XL/2, {kind}: keeps {count_dit(dit.sizes['DiT-XL/2'], fused) / 1e9:.3f} GB an image")
        parameters, flops, kept = count_sdxl(fused)
        print(f"SDXL, {kind}: {parameters} parameters, {flops / 1e12:.3f} TFLOPs, keeps {kept / 1e9:.3f} GB an image")


if __name__ == "__main__":
    main()
