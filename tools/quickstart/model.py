"""The Llama architecture, as small as it goes, and the settings of the quickstart's base."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Shape:
    vocab: int = 1280
    hidden: int = 160
    layers: int = 4
    heads: int = 5
    kv_heads: int = 1
    head_dim: int = 32
    feed_forward: int = 416
    context: int = 512
    theta: float = 10_000.0
    eps: float = 1e-5


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q, self.k, self.v = (linear(shape.hidden, n) for n in (queries, keys, keys))
        self.o = linear(queries, shape.hidden)

    def forward(self, x, rope):
        batch, length, _ = x.shape
        split = lambda y: y.view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
        q, k, v = rotate(split(self.q(x)), rope), rotate(split(self.k(x)), rope), split(self.v(x))
        group = self.shape.heads // self.shape.kv_heads
        k, v = (y.repeat_interleave(group, dim=1) for y in (k, v))
        # Padding stands on the right, where causal attention never looks.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.hidden, eps=shape.eps)
        self.attention = Attention(shape)
        self.mlp_norm = nn.RMSNorm(shape.hidden, eps=shape.eps)
        self.gate = linear(shape.hidden, shape.feed_forward)
        self.up = linear(shape.hidden, shape.feed_forward)
        self.down = linear(shape.feed_forward, shape.hidden)

    def forward(self, x, rope):
        x = x + self.attention(self.attention_norm(x), rope)
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """Embedding and head are one matrix."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.eps)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                late = name.endswith(("o.weight", "down.weight"))
                scale = (2 * shape.layers) ** -0.5 if late else 1.0
                nn.init.normal_(weight, std=0.05 * scale)

    def forward(self, ids, asked=None):
        """Logits, `[batch, length, vocab]`, or `[asked, vocab]` where a mask says which rows count."""
        x, rope = self.embedding(ids), angles(self.shape, ids.shape[1])
        for block in self.blocks:
            x = block(x, rope)
        x = x if asked is None else x[asked]
        return self.norm(x) @ self.embedding.weight.T


def angles(shape, length):
    """Cosines and sines of rotary positions, in the order of Hugging Face: halves, not pairs."""
    at = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
    turns = torch.outer(torch.arange(length).float(), shape.theta**-at)
    turns = torch.cat((turns, turns), dim=-1)
    return turns.cos(), turns.sin()


def rotate(x, rope):
    cos, sin = rope
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin
