"""Floating-point operations of an mT5, counted from its shape: what MFU and planning are measured against.

A matrix product [m, k] @ [k, n] counts 2 m k n; element-wise work, norms, softmax and the optimizer count nothing, and
neither does what a remat policy computes again: a slow policy lowers the MFU, not the FLOPs. With S input and T target
tokens, d = emb_dim, a = num_heads * head_dim, f = mlp_dim, V = vocab_size, Le and Ld layers, forward, one example:

    encoder       2 S Le (4 d a + 3 d f)  +  4 S^2 a Le             projections and gated MLP; scores and their use
    cross keys    2 S Ld 2 d a                                      keys and values of the encoder's output
    decoder       2 T Ld (6 d a + 3 d f)  +  4 T^2 a Ld + 4 S T a Ld
    vocabulary    2 T d V

A train step is three times the forward pass: the backward pass makes two products of each. The decoder's causal half
is counted whole, as Chowdhery et al. 2022 (PaLM, appendix B) do.
"""

from __future__ import annotations

from medmt5.model.mt5 import MT5Config


def forward_flops(config: MT5Config, inputs: int, targets: int) -> int:
    """Returns the floating-point operations of one example's forward pass, vocabulary included.

    Args:
      inputs, targets: tokens, padding counted like any other.
    """
    c = config
    attention = c.num_heads * c.head_dim
    projection, mlp = c.emb_dim * attention, 3 * c.emb_dim * c.mlp_dim
    encoder = c.num_encoder_layers * (2 * inputs * (4 * projection + mlp) + 4 * inputs**2 * attention)
    cross_keys = c.num_decoder_layers * 2 * inputs * 2 * projection
    decoder = c.num_decoder_layers * (
        2 * targets * (6 * projection + mlp) + 4 * targets**2 * attention + 4 * inputs * targets * attention
    )
    vocabulary = 2 * targets * c.emb_dim * c.vocab_size
    return encoder + cross_keys + decoder + vocabulary


def train_step_flops(config: MT5Config, batch_size: int, inputs: int, targets: int) -> int:
    """Returns the floating-point operations of one train step on a global batch: three forward passes."""
    return 3 * batch_size * forward_flops(config, inputs, targets)
