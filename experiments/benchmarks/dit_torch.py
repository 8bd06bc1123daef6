"""The network of ``experiments.dit`` in PyTorch, from the same weights; imported only where PyTorch is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from experiments.dit import FREQUENCIES, DiTSettings, positions


class DiT(torch.nn.Module):
    """``(x, t, label) -> noise``: images ``[batch, height, width, channels]``, a scalar time, the first half of the
    answer."""

    def __init__(self, settings: DiTSettings, weights: Mapping[str, Any], device: str) -> None:
        super().__init__()
        self.settings, self.dtype = settings, getattr(torch, settings.dtype)
        place = lambda value: torch.from_numpy(np.array(value, np.float32)).to(device, self.dtype)
        for name, value in weights.items():
            for part, leaf in value.items() if isinstance(value, Mapping) else [("table", value)]:
                leaf = place(leaf).T.contiguous() if part == "kernel" else place(leaf)
                self.register_buffer(f"{name}_{part}", leaf)
        self.register_buffer("positions", place(positions(settings)))
        frequencies = np.exp(-np.log(10000.0) * np.arange(FREQUENCIES // 2) / (FREQUENCIES // 2))
        self.register_buffer("frequencies", torch.tensor(frequencies, dtype=torch.float32, device=device))

    def dense(self, name: str, x: Any) -> Any:
        """A linear layer by its Flax name."""
        return functional.linear(x, getattr(self, f"{name}_kernel"), getattr(self, f"{name}_bias"))

    def forward(self, x: Any, t: Any, label: Any) -> Any:
        """Line by line as in Flax."""
        s = self.settings
        angles = t.to(torch.float32).reshape(-1, 1) * self.frequencies
        time = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1).to(self.dtype)
        time = self.dense("time_out", functional.silu(self.dense("time_in", time)))
        given = functional.silu(time + self.labels_table[label])
        side = s.size // s.patch
        cut = x.to(self.dtype).reshape(-1, side, s.patch, side, s.patch, s.channels).transpose(2, 3)
        h = self.dense("embed", cut.reshape(len(x), s.tokens, -1)) + self.positions
        for i in range(s.depth):
            h = self.block(h, given, f"block_{i}")
        shift, scale = self.dense("modulate", given)[:, None].chunk(2, dim=-1)
        out = self.dense("project", modulate(h, shift, scale))
        out = out.reshape(-1, side, side, s.patch, s.patch, 2 * s.channels).transpose(2, 3)
        return out.reshape(*x.shape[:3], 2 * s.channels)[..., : s.channels].to(x.dtype)

    def block(self, h: Any, given: Any, name: str) -> Any:
        """Attention, then channels."""
        parts = self.dense(f"{name}_modulate", given)[:, None].chunk(6, dim=-1)
        heads = lambda part: part.unflatten(-1, (self.settings.heads, -1)).transpose(1, 2)
        asked = self.dense(f"{name}_ask", modulate(h, *parts[:2])).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(*map(heads, asked)).transpose(1, 2).reshape(h.shape)
        h = h + parts[2] * self.dense(f"{name}_answer", mixed)
        hidden = functional.gelu(self.dense(f"{name}_in", modulate(h, *parts[3:5])), approximate="tanh")
        return h + parts[5] * self.dense(f"{name}_out", hidden)


def modulate(h: Any, shift: Any, scale: Any) -> Any:
    """Layer normalisation, then scale and shift."""
    return (1 + scale) * functional.layer_norm(h, h.shape[-1:], eps=1e-6) + shift
