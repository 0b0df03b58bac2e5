"""What tiny_vision.py's models are: a family of mlx-vlm's each, as small as it can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SPECIAL = [
    *("<end>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<image>"),
    *("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<start_of_image>", "<end_of_image>"),
    *("<image_soft_token>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<|image_start|>", "<|image_end|>"),
    *("<img>", "</img>", "<IMG_CONTEXT>", "<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|video|>"),
    *("<|begin_of_box|>", "<|end_of_box|>"),
]
IDS = {text: 127 + number for number, text in enumerate(SPECIAL)}
VOCAB_SIZE = 192

_TEXT: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Family:
    """``mark`` is what a chat template writes for an image; ``files`` are JSON files besides config.json."""

    mark: str
    config: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


_QWEN_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 28 * 28,
    "max_pixels": 168 * 168,
}

_CLIP = {
    "do_resize": True,
    "do_center_crop": False,
    "size": {"height": 56, "width": 56},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
    "resample": 3,
}
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_QWEN = {
    **_TEXT,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
_QWEN_IDS = {name: value for name, value in _QWEN.items() if name not in _TEXT or name == "vocab_size"}
_QWEN3_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "num_heads": 2,
    "patch_size": 16,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [],
}
_DEEP = {"depth": 3, "deepstack_visual_indexes": [0, 1]}
_QWEN3_FILES = {
    "preprocessor_config.json": {**_QWEN_PROCESSOR, "patch_size": 16, "processor_class": "Qwen3VLProcessor"}
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def _qwen3_5(name: str, text: dict[str, Any]) -> dict[str, Any]:
    """Recurrent layers between those with attention."""
    return {
        **_QWEN_IDS,
        "model_type": name,
        "text_config": {
            **text,
            "model_type": f"{name}_text",
            "num_hidden_layers": 4,
            "full_attention_interval": 2,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_conv_kernel_dim": 4,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [1, 1, 2],
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
            },
        },
        "vision_config": {**_QWEN3_TOWER, "model_type": name},
    }


GLM_MARK = "<|begin_of_image|><|image|><|end_of_image|>"
_GLM_FILES = {
    "preprocessor_config.json": {
        "image_processor_type": "Glm4vImageProcessor",
        "processor_class": "Glm4vProcessor",
        "size": {"shortest_edge": 28 * 28, "longest_edge": 168 * 168 * 2},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    },
    "processor_config.json": {"processor_class": "Glm4vProcessor"},
}


def _glm(name: str, text: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": name,
        "text_config": {**_TEXT, "model_type": f"{name}_text", **text},
        "vision_config": {
            "model_type": name,
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": 14,
            "image_size": 112,
        },
        "image_token_id": IDS["<|image|>"],
        "image_token_index": IDS["<|image|>"],
        "video_token_id": IDS["<|video|>"],
        "video_token_index": IDS["<|video|>"],
        "vision_start_token_id": IDS["<|begin_of_image|>"],
        "vision_end_token_id": IDS["<|end_of_image|>"],
    }


_IDEFICS = {
    "text_config": {**_TEXT, "model_type": "llama"},
    "vision_config": {**_TOWER, "model_type": "idefics3", "patch_size": 14, "image_size": 56},
    "scale_factor": 2,
    "image_token_id": IDS["<image>"],
    "vocab_size": VOCAB_SIZE,
}
_IDEFICS_FILES = {
    "preprocessor_config.json": {
        **_CLIP,
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "size": {"longest_edge": 112},
        "max_image_size": {"longest_edge": 56},
        "do_image_splitting": True,
        "do_pad": True,
    },
    "processor_config.json": {"image_seq_len": 4, "processor_class": "Idefics3Processor"},
}

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(
        mark=QWEN_MARK,
        config={
            **_QWEN,
            "model_type": "qwen2_vl",
            "vision_config": {
                "model_type": "qwen2_vl",
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 2,
                "patch_size": 14,
                "spatial_patch_size": 14,
                "mlp_ratio": 2,
            },
        },
        files={"preprocessor_config.json": _QWEN_PROCESSOR},
    ),
    "qwen2_5_vl": Family(
        mark=QWEN_MARK,
        config={
            **_QWEN,
            "model_type": "qwen2_5_vl",
            "vision_config": {
                "model_type": "qwen2_5_vl",
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "out_hidden_size": 32,
                "num_heads": 2,
                "patch_size": 14,
                "window_size": 56,
                "fullatt_block_indexes": [1],
            },
        },
        files={"preprocessor_config.json": _QWEN_PROCESSOR},
    ),
    "qwen3_vl": Family(
        QWEN_MARK,
        {
            **_QWEN_IDS,
            "model_type": "qwen3_vl",
            "text_config": {**_TEXT, "model_type": "qwen3_vl_text", "rope_scaling": _QWEN["rope_scaling"]},
            "vision_config": {**_QWEN3_TOWER, **_DEEP, "model_type": "qwen3_vl"},
        },
        _QWEN3_FILES,
    ),
    "qwen3_5": Family(QWEN_MARK, _qwen3_5("qwen3_5", _TEXT), _QWEN3_FILES),
    "qwen3_5_moe": Family(QWEN_MARK, _qwen3_5("qwen3_5_moe", {**_TEXT, **_EXPERTS}), _QWEN3_FILES),
    "qwen3_vl_moe": Family(
        QWEN_MARK,
        {
            **_QWEN_IDS,
            "model_type": "qwen3_vl_moe",
            "text_config": {
                **_TEXT,
                **_EXPERTS,
                "model_type": "qwen3_vl_moe_text",
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
                "rope_scaling": _QWEN["rope_scaling"],
            },
            "vision_config": {**_QWEN3_TOWER, **_DEEP, "model_type": "qwen3_vl_moe"},
        },
        _QWEN3_FILES,
    ),
    "glm4v": Family(
        GLM_MARK,
        _glm(
            "glm4v",
            {
                "eos_token_id": [IDS["<end>"]],
                "partial_rotary_factor": 1.0,
                "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            },
        ),
        _GLM_FILES,
    ),
    "glm4v_moe": Family(
        GLM_MARK,
        _glm(
            "glm4v_moe",
            {
                "moe_intermediate_size": 32,
                "norm_topk_prob": True,
                "n_group": 1,
                "topk_group": 1,
                "n_shared_experts": 1,
                "n_routed_experts": 4,
                "routed_scaling_factor": 1.0,
                "num_experts_per_tok": 2,
                "first_k_dense_replace": 1,
                "use_qk_norm": True,
                "attention_bias": False,
                "partial_rotary_factor": 1.0,
                "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]},
            },
        ),
        _GLM_FILES,
    ),
    "idefics3": Family("<image>", {**_IDEFICS, "model_type": "idefics3"}, _IDEFICS_FILES),
    "smolvlm": Family(
        "<image>",
        {**_IDEFICS, "model_type": "smolvlm"},
        {
            "preprocessor_config.json": {
                **_IDEFICS_FILES["preprocessor_config.json"],
                "image_processor_type": "SmolVLMImageProcessor",
                "processor_class": "SmolVLMProcessor",
            },
            "processor_config.json": {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
        },
    ),
    "llava": Family(
        "<image>",
        {
            "model_type": "llava",
            "text_config": {**_TEXT, "model_type": "llama"},
            "vision_config": {
                **_TOWER,
                "model_type": "clip_vision_model",
                "patch_size": 14,
                "image_size": 56,
                "projection_dim": 32,
            },
            "image_token_index": IDS["<image>"],
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        },
        {
            "preprocessor_config.json": {
                **_CLIP,
                "image_processor_type": "CLIPImageProcessor",
                "processor_class": "LlavaProcessor",
            },
            "processor_config.json": {
                "patch_size": 14,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
                "processor_class": "LlavaProcessor",
            },
        },
    ),
    "llava_next": Family(
        "<image>",
        {
            "model_type": "llava_next",
            "text_config": {**_TEXT, "model_type": "llama"},
            "vision_config": {
                **_TOWER,
                "model_type": "clip_vision_model",
                "patch_size": 14,
                "image_size": 56,
                "projection_dim": 32,
            },
            "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
            "image_token_index": IDS["<image>"],
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        },
        {
            "preprocessor_config.json": {
                **_CLIP,
                "image_processor_type": "LlavaNextImageProcessor",
                "processor_class": "LlavaNextProcessor",
                "size": {"shortest_edge": 56},
                "crop_size": {"height": 56, "width": 56},
                "do_center_crop": True,
                "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
            },
            "processor_config.json": {
                "patch_size": 14,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
                "processor_class": "LlavaNextProcessor",
            },
        },
    ),
    "llava_onevision": Family(
        "<image>",
        {
            "model_type": "llava_onevision",
            "text_config": {**_TEXT, "model_type": "qwen2"},
            "vision_config": {**_TOWER, "model_type": "siglip_vision_model", "patch_size": 14, "image_size": 56},
            "image_token_index": IDS["<image>"],
            "video_token_index": IDS["<|video|>"],
            "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
            "vocab_size": VOCAB_SIZE,
        },
        {
            "preprocessor_config.json": {
                **_CLIP,
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "processor_class": "LlavaOnevisionProcessor",
                "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
            },
            "processor_config.json": {
                "num_image_tokens": 16,
                "vision_feature_select_strategy": "full",
                "processor_class": "LlavaOnevisionProcessor",
                "image_token": "<image>",
                "video_token": "<|video|>",
            },
            "video_preprocessor_config.json": {"size": {"height": 56, "width": 56}},
        },
    ),
    "gemma3": Family(
        "<start_of_image>",
        {
            "model_type": "gemma3",
            "text_config": {
                **_TEXT,
                "model_type": "gemma3_text",
                "num_hidden_layers": 4,
                "sliding_window": 16,
                "sliding_window_pattern": 2,
                "query_pre_attn_scalar": 8,
                "mm_tokens_per_image": 4,
            },
            "vision_config": {**_TOWER, "model_type": "siglip_vision_model", "patch_size": 14, "image_size": 56},
            "hidden_size": 32,
            "image_token_index": IDS["<image_soft_token>"],
            "pad_token_id": 0,
            "mm_tokens_per_image": 4,
        },
        {
            "preprocessor_config.json": {
                **_CLIP,
                "image_processor_type": "Gemma3ImageProcessor",
                "processor_class": "Gemma3Processor",
                "image_seq_length": 4,
            },
            "processor_config.json": {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
            "tokenizer_config.json": {
                "boi_token": "<start_of_image>",
                "eoi_token": "<end_of_image>",
                "image_token": "<image_soft_token>",
            },
        },
    ),
    "pixtral": Family(
        "[IMG]",
        {
            "model_type": "pixtral",
            "text_config": {**_TEXT, "model_type": "mistral"},
            "vision_config": {
                **_TOWER,
                "model_type": "pixtral",
                "head_dim": 16,
                "patch_size": 14,
                "image_size": 112,
            },
            "image_token_index": IDS["[IMG]"],
        },
        {
            "preprocessor_config.json": {
                **_CLIP,
                "image_processor_type": "PixtralImageProcessor",
                "processor_class": "PixtralProcessor",
                "size": {"longest_edge": 112},
                "patch_size": {"height": 14, "width": 14},
            },
            "processor_config.json": {"patch_size": 14, "processor_class": "PixtralProcessor"},
        },
    ),
    "mistral3": Family(
        "[IMG]",
        {
            "model_type": "mistral3",
            "text_config": {**_TEXT, "model_type": "mistral"},
            "vision_config": {
                **_TOWER,
                "model_type": "pixtral",
                "head_dim": 16,
                "patch_size": 14,
                "image_size": 112,
            },
            "spatial_merge_size": 2,
            "image_token_index": IDS["[IMG]"],
        },
        {
            "preprocessor_config.json": {
                **_CLIP,
                "image_processor_type": "PixtralImageProcessor",
                "processor_class": "PixtralProcessor",
                "size": {"longest_edge": 112},
                "patch_size": {"height": 14, "width": 14},
            },
            "processor_config.json": {"patch_size": 14, "spatial_merge_size": 2, "processor_class": "PixtralProcessor"},
        },
    ),
    "internvl_chat": Family(
        "<image>",
        {
            "model_type": "internvl_chat",
            "text_config": {**_TEXT, "model_type": "qwen2"},
            "vision_config": {**_TOWER, "model_type": "intern_vit_6b", "patch_size": 14, "image_size": 56},
            "image_token_index": IDS["<IMG_CONTEXT>"],
            "downsample_ratio": 0.5,
        },
        {"preprocessor_config.json": {**_CLIP, "image_processor_type": "CLIPImageProcessor"}},
    ),
    "internvl": Family(
        "<IMG_CONTEXT>",
        {
            "model_type": "internvl",
            "text_config": {**_TEXT, "model_type": "qwen3"},
            "vision_config": {
                **_TOWER,
                "model_type": "internvl_vision",
                "patch_size": [14, 14],
                "image_size": [56, 56],
            },
            "image_token_id": IDS["<IMG_CONTEXT>"],
            "downsample_ratio": 0.5,
        },
        {
            "preprocessor_config.json": {
                **_CLIP,
                "image_processor_type": "GotOcr2ImageProcessor",
                "processor_class": "InternVLProcessor",
            },
            "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
        },
    ),
    "lfm2_vl": Family(
        "<image>",
        {
            "model_type": "lfm2_vl",
            "text_config": {
                **_TEXT,
                "model_type": "lfm2",
                "num_hidden_layers": 4,
                "conv_L_cache": 3,
                "block_dim": 32,
                "conv_dim": 32,
                "conv_dim_out": 32,
                "block_ff_dim": 64,
                "block_multiple_of": 8,
                "block_auto_adjust_ff_dim": False,
                "full_attn_idxs": [1, 3],
                "num_heads": 4,
                "tie_word_embeddings": True,
            },
            "vision_config": {**_TOWER, "model_type": "siglip2_vision_model", "patch_size": 16, "num_patches": 16},
            "image_token_id": IDS["<image>"],
            "projector_hidden_size": 32,
            "encoder_patch_size": 16,
            "downsample_factor": 2,
        },
        {
            "preprocessor_config.json": {
                "image_processor_type": "Lfm2VlImageProcessorFast",
                "processor_class": "Lfm2VlProcessor",
                "tile_size": 64,
                "encoder_patch_size": 16,
                "downsample_factor": 2,
                "min_image_tokens": 2,
                "max_image_tokens": 8,
                "max_num_patches": 64,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            },
            "processor_config.json": {"processor_class": "Lfm2VlProcessor"},
            "tokenizer_config.json": {
                "image_token": "<image>",
                "image_start_token": "<|image_start|>",
                "image_end_token": "<|image_end|>",
                "image_thumbnail": "<|img_thumbnail|>",
            },
        },
    ),
}
