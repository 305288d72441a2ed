"""Floating-point operations of an mT5, counted from its shape: what MFU and planning are measured against.

A matrix product [m, k] @ [k, n] counts 2 m k n; element-wise work, norms, softmax and the optimizer count nothing, and
neither does what a remat policy computes again: a slow policy lowers the MFU, not the FLOPs. With S input and T target
tokens, d = emb_dim, a = num_heads * head_dim, f = mlp_dim, V = vocab_size, Le and Ld layers, forward, one example:

    encoder       2 S Le (4 d a + 3 d f)  +  4 S^2 a Le             projections and gated MLP; scores and their use
    cross keys    2 S Ld 2 d a                                      keys and values of the encoder's output
    decoder       2 T Ld (6 d a + 3 d f)  +  4 T^2 a Ld + 4 S T a Ld
    vocabulary    2 T d V
    adapters      2 n r (k + m) a layer, for each kernel [k, m] with LoRA of rank r that multiplies n tokens

A train step is three times the forward pass: the backward pass makes two products of each, the gradient of what it
multiplied and that of the parameter. A frozen parameter has none of its own, and a stack with nothing trained in it or
below it none at all. The decoder's causal half is counted whole, as Chowdhery et al. 2022 (PaLM, appendix B) do.
"""

from __future__ import annotations

from medmt5.model import lora
from medmt5.model.mt5 import OUTPUT_KERNEL, MT5Config


def forward_flops(config: MT5Config, inputs: int, targets: int) -> int:
    """Returns the floating-point operations of one example's forward pass, vocabulary included.

    Args:
      inputs, targets: tokens, padding counted like any other.
    """
    return sum(_products(config, inputs, targets).values()) + sum(_attention(config, inputs, targets).values())


def train_step_flops(
    config: MT5Config, batch_size: int, inputs: int, targets: int, trained: frozenset[str] | None = None
) -> int:
    """Returns the floating-point operations of one train step on a global batch.

    `trained`: paths of the trained parameters, None = all: three forward passes.
    """
    products, attention = _products(config, inputs, targets), _attention(config, inputs, targets)
    forward = sum(products.values()) + sum(attention.values())
    if trained is None:
        return 3 * batch_size * forward
    # How far down gradients go: of the encoder's products and the cross keys', of the decoder's, of the vocabulary's.
    encoder = any(name.startswith(("encoder/", "token_embedder/")) for name in trained)
    decoder = encoder or any(name.startswith("decoder/") and name != OUTPUT_KERNEL for name in trained)

    def passed(name: str) -> bool:
        reads_encoded = name.startswith("encoder/") or any(f"decoder_attention/{k}/" in name for k in ("key", "value"))
        return encoder if reads_encoded else decoder

    of_data = sum(n for name, n in products.items() if passed(name))
    of_data += sum(2 * n for name, n in attention.items() if passed(f"{name}/"))
    of_parameters = sum(n for name, n in products.items() if name in trained)
    return batch_size * (forward + of_data + of_parameters)


def _products(config: MT5Config, inputs: int, targets: int) -> dict[str, int]:
    """Returns path -> FLOPs of one example's products with that parameter, in all layers."""
    c = config
    attention = c.num_heads * c.head_dim
    flops = {OUTPUT_KERNEL: 2 * targets * c.emb_dim * c.vocab_size}

    def add(path: str, tokens: int, layers: int, features_in: int, features_out: int) -> None:
        flops[f"{path}/kernel"] = 2 * tokens * layers * features_in * features_out
        if c.lora.adapts(path.rpartition("/")[2]):
            flops[f"{path}/{lora.A}"] = 2 * tokens * layers * features_in * c.lora.rank
            flops[f"{path}/{lora.B}"] = 2 * tokens * layers * c.lora.rank * features_out

    stacks = [("encoder/layers", "attention", inputs, inputs, c.num_encoder_layers)]
    for name, keys in (("self_attention", targets), ("encoder_decoder_attention", inputs)):
        stacks.append(("decoder/layers", name, targets, keys, c.num_decoder_layers))
    for stack, name, queries, keys, layers in stacks:
        for kernel, tokens in (("query", queries), ("key", keys), ("value", keys)):
            add(f"{stack}/{name}/{kernel}", tokens, layers, c.emb_dim, attention)
        add(f"{stack}/{name}/out", queries, layers, attention, c.emb_dim)
    for stack, tokens, layers in (
        ("encoder/layers", inputs, c.num_encoder_layers),
        ("decoder/layers", targets, c.num_decoder_layers),
    ):
        for kernel in ("wi_0", "wi_1"):
            add(f"{stack}/mlp/{kernel}", tokens, layers, c.emb_dim, c.mlp_dim)
        add(f"{stack}/mlp/wo", tokens, layers, c.mlp_dim, c.emb_dim)
    return flops


def _attention(config: MT5Config, inputs: int, targets: int) -> dict[str, int]:
    """Returns stack -> FLOPs of one example's scores and their use, in all layers."""
    attention = config.num_heads * config.head_dim
    return {
        "encoder": 4 * inputs**2 * attention * config.num_encoder_layers,
        "decoder": 4 * (targets**2 + inputs * targets) * attention * config.num_decoder_layers,
    }
