"""The slugs that exist and the kind of each model.

Sources: the vendor's model directory (August 2026); ``mock-inference`` from the official SDK's changelog.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

#: kinds that reply with text, named after the provider whose format they use
LLM_KINDS = ("gemini", "openai", "anthropic")
_SLUGS = {
    "gemini": (
        "gemini-3.1-flash-lite gemini-3.1-pro gemini-3-flash gemini-3-pro gemini-2.5-flash gemini-2.5-flash-lite "
        "gemini-2.5-pro"
    ),
    "anthropic": "claude-opus-4.7 claude-4.5-sonnet claude-4-sonnet claude-3.5-sonnet claude-3-haiku",
    "openai": (
        "gpt-5.5 gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.2 gpt-5.1 gpt-5 gpt-5-mini gpt-5-nano gpt-4o gpt-4-turbo "
        "gpt-4 o3 o3-mini o4-mini deepseek-chat deepseek-reasoner kimi-k2-instruct-0905 glm-5.2 minimax-m3 "
        "nemotron-3-ultra llama-v3p1-70b-instruct llama-v3p1-8b-instruct llama4-maverick-instruct-basic "
        "llama4-scout-instruct-basic mixtral-8x22b-instruct qwen-plus qwen-flash qwen3-max qwen-3.8-max qwen3.5-plus "
        "qwen3.5-flash qwen3-coder-plus qwen3-coder-flash qwen3-vl-plus qwen3-vl-flash qwq-plus qvq-max"
    ),
    "embedding": "gemini-embedding-001 gemini-embedding-2 text-embedding-3-large text-embedding-3-small",
    "image": (
        "seedream-4.5 seedream-5-pro seedream-v5-lite-text-to-image nano-banana nano-banana-2 nano-banana-2-lite "
        "nano-banana-pro gpt-image-2 gpt-image-1.5 flux-2-pro flux-1.1-pro fast-flux-schnell imagen-4 ideogram-4 "
        "qwen-image z-image-turbo faceswap-v5 bg-removal-v2 clarity-upscaler image-compress video-thumbnail"
    ),
    "video": (
        "seedance-2.5 seedance-2.0 seedance-2.0-fast seedance-2.0-mini veo-3.1 veo-3.1-fast kling-3-pro-text2video "
        "kling-2.6 wan2.7-t2v sora-2 hailuo-2.3 ltx-2.5-fast p-video-avatar timeline video-split video-gif-extract "
        "video-format-convert"
    ),
    "audio": "tts-eleven-labs gemini-3.1-flash-tts grok-tts myshell-tts ace-step-music lyria-2 sound-generation",
    "transcript": "eleven-labs-transcript",
    "mock": "mock-inference",
}
BUILT_IN: dict[str, str] = {slug: kind for kind, slugs in _SLUGS.items() for slug in slugs.split()}
#: for slugs that a user adds without a kind; the first match counts
_PREFIXES = (
    ("*-tts*", "audio"),
    ("*embedding*", "embedding"),
    ("*-image*", "image"),
    ("gemini-*", "gemini"),
    ("claude-*", "anthropic"),
    *(
        (f"{prefix}*", "openai")
        for prefix in ("gpt-", "o1", "o3", "o4", "deepseek", "kimi", "glm", "minimax", "nemotron")
    ),
    *((f"{prefix}*", "openai") for prefix in ("llama", "mixtral", "mistral", "qwen", "qwq", "qvq", "grok")),
    *((f"{prefix}*", "video") for prefix in ("seedance", "veo", "kling", "wan", "sora", "hailuo", "ltx")),
    *((f"{prefix}*", "audio") for prefix in ("tts", "lyria", "sound", "ace-step")),
)
#: misspelt as the live list spells them
_LIST_TYPES = {
    **dict.fromkeys((*LLM_KINDS, "mock"), "textToText"),
    "image": "textToImage",
    "video": "textToVideo",
    "audio": "textToAudio",
    "transcript": "audioToText",
    "embedding": "textToEmbedding",
}


def guess_kind(slug: str) -> str:
    """Return the kind that a slug suggests; ``image`` if it suggests none."""
    return next((kind for pattern, kind in _PREFIXES if fnmatchcase(slug, pattern)), "image")


def kind_of(slug: str, extra: dict[str, str]) -> str | None:
    """Return the kind of a slug, None if it does not exist.

    :param extra: slugs that the user added; an empty kind is guessed from the slug.
    """
    if slug in extra:
        return extra[slug] or guess_kind(slug)
    return BUILT_IN.get(slug)


def listing(extra: dict[str, str], retired: list[str]) -> list[dict[str, object]]:
    """Return the rows of the model list, with the field names of the live list."""
    slugs = {**BUILT_IN, **{slug: kind or guess_kind(slug) for slug, kind in extra.items()}}
    rows = [(slug, kind, False) for slug, kind in slugs.items()] + [(slug, guess_kind(slug), True) for slug in retired]
    return [
        {
            "slug": slug,
            "title": slug.replace("-", " ").title(),
            "type": _LIST_TYPES[kind],
            "description": f"Emulated {kind} model",
            "parameters": _parameters(kind),
            "is_depreciated": gone,
            "model_id": f"model-{number:04d}",
        }
        for number, (slug, kind, gone) in enumerate(rows)
    ]


def _parameters(kind: str) -> dict[str, object]:
    if kind in LLM_KINDS:
        return {"type": "object", "properties": {"messages": {}, "prompt": {"type": "string"}}}
    return {
        "type": "object",
        "properties": {"prompt": {"type": "string"}, "seed": {"type": "integer"}},
        "required": ["prompt"],
    }
