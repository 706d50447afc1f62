"""One-token steps of multi-head latent attention (DeepSeek-V3, GigaChat3), computed on the latents themselves.

transformers (5.23) expands the latents of the whole context to the keys and values of all heads, at every step: for
GigaChat3, 12 million multiplications per layer and token of context. But ``q · (W latent)`` is ``(W' q) · latent``:
with ``kv_b_proj`` taken into the query and out of the result, as vLLM does it too, the latents are read as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_interleave,
)


def attend_to_latents(model: PreTrainedModel) -> None:
    """Replace the forward pass of the model's latent attention, if it has any."""
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return  # other implementations have masks of another form
    for module in model.modules():
        if type(module) is DeepseekV3Attention:
            module.forward = partial(_forward, module, module.forward)


def _forward(
    attention: Any,
    original: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    is_one_token = hidden_states.shape[1] == 1 and past_key_values is not None
    if not is_one_token or type(attention.kv_b_proj) is not nn.Linear:  # LoRA's, or quantized
        return original(  # type: ignore[no-any-return]
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
    q_pass, q_rot = _queries(attention, hidden_states)
    latent, k_rot = _latents(attention, hidden_states)
    rotate = apply_rotary_pos_emb_interleave if attention.config.rope_interleave else apply_rotary_pos_emb
    q_rot, k_rot = rotate(q_rot, k_rot, *position_embeddings)
    latents, k_rots = past_key_values.update(latent, k_rot, attention.layer_idx)
    mixed = _attend(attention, q_pass, q_rot, latents, k_rots, attention_mask)
    return attention.o_proj(mixed), None


def _queries(attention: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Without and with position, [rows, heads, 1, size]."""
    if attention.q_lora_rank is None:
        queries = attention.q_proj(hidden_states)
    else:
        queries = attention.q_b_proj(attention.q_a_layernorm(attention.q_a_proj(hidden_states)))
    heads = queries.view(len(queries), 1, attention.num_heads, -1).transpose(1, 2)
    return tuple(heads.split([attention.qk_nope_head_dim, attention.qk_rope_head_dim], dim=-1))


def _latents(attention: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The new token's, [rows, 1, 1, size]."""
    compressed = attention.kv_a_proj_with_mqa(hidden_states)
    latent, k_rot = compressed.split([attention.kv_lora_rank, attention.qk_rope_head_dim], dim=-1)
    return attention.kv_a_layernorm(latent)[:, None], k_rot[:, None]


def _attend(
    attention: Any,
    q_pass: torch.Tensor,
    q_rot: torch.Tensor,
    latents: torch.Tensor,
    k_rots: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """[rows, 1, heads * size]. All heads are rows of one matrix, because they read the same latents."""
    expand = attention.kv_b_proj.weight.view(attention.num_heads, -1, attention.kv_lora_rank)
    to_keys, to_values = expand.split([attention.qk_nope_head_dim, attention.v_head_dim], dim=1)
    q_latent = torch.einsum("bhqn,hnr->bqhr", q_pass, to_keys)
    scores = q_latent @ latents.transpose(2, 3) + q_rot.transpose(1, 2) @ k_rots.transpose(2, 3)
    scores = scores.float() * attention.scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    mixed = scores.softmax(-1).to(latents.dtype) @ latents
    return torch.einsum("bqhr,hvr->bqhv", mixed, to_values).flatten(2)
