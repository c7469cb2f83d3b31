"""
Which of three request and reply forms a chat model of Segmind speaks.

Segmind hands the provider's own JSON through, so the body depends on who made the model. The family is read from the
model's name (Segmind calls it the slug), because nothing on the wire says it; ``api_format=`` overrides the guess, as
names appear and retire without notice.

=========  ==========================================  =====================================================
family     request                                     source
=========  ==========================================  =====================================================
gemini     ``messages`` is an object: system_          model page of gemini-3.1-flash-lite
           instruction, contents with parts
openai     ``messages`` is a list of role and content  model page of o1-preview; Segmind SDK 1.3.0 ``chat.py``
anthropic  the same list, the system text in           model pages of claude-*
           ``instruction``
=========  ==========================================  =====================================================
"""

from __future__ import annotations

import re
from enum import StrEnum

from airflow_provider_segmind.exceptions import SegmindConfigError


class ApiFormat(StrEnum):
    """The request and reply form a chat model speaks."""

    GEMINI = "gemini"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


# Embedding, image and speech models share their makers' prefixes and take no chat at all.
_NOT_CHAT = re.compile(r"(^|-)(embedding|image|tts|transcript|audio)(-|$)")

_PREFIXES: tuple[tuple[str, ApiFormat], ...] = (
    ("gemini-", ApiFormat.GEMINI),
    ("gemma-", ApiFormat.GEMINI),
    ("claude-", ApiFormat.ANTHROPIC),
    ("gpt-", ApiFormat.OPENAI),
    ("chatgpt-", ApiFormat.OPENAI),
    ("o1", ApiFormat.OPENAI),
    ("o3", ApiFormat.OPENAI),
    ("o4", ApiFormat.OPENAI),
    # Served under OpenAI's conventions by their own makers; that Segmind keeps the form is inferred, hence api_format=.
    ("deepseek-", ApiFormat.OPENAI),
    ("kimi-", ApiFormat.OPENAI),
    ("glm-", ApiFormat.OPENAI),
    ("minimax-m", ApiFormat.OPENAI),
    ("nemotron-", ApiFormat.OPENAI),
    ("llama-", ApiFormat.OPENAI),
    ("llama4-", ApiFormat.OPENAI),
    ("mixtral-", ApiFormat.OPENAI),
    ("qwen-", ApiFormat.OPENAI),
    ("qwen2", ApiFormat.OPENAI),
    ("qwen3", ApiFormat.OPENAI),
    ("qwq-", ApiFormat.OPENAI),
    ("qvq-", ApiFormat.OPENAI),
)


def known_family(model: str) -> ApiFormat | None:
    """
    Say which form a model's name stands for, None when the name tells nothing.

    :param model: the model to run (Segmind calls it the slug).
    """
    name = model.strip().lower()
    if _NOT_CHAT.search(name):
        return None
    return next((family for prefix, family in _PREFIXES if name.startswith(prefix)), None)


_MAKES_FILES = re.compile(
    r"image|video|audio|speech|music|diffusion|sdxl|seedream|seedance|ideogram|recraft|upscale|esrgan|face-?swap|inpaint|"
    r"lipsync|controlnet|txt2img|img2img|i2v|t2v|"
    r"(^|[-_.])(tts|flux|sd[0-9.-]|veo|kling|wan[0-9-]|hailuo|sora|runway|ltx|luma|pika|banana|whisper|bark|background)",
    re.IGNORECASE,
)


def makes_files(model: str) -> bool:
    """
    Tell whether a model is known by its name to make images, video or audio.

    :param model: the model to run.
    """
    return known_family(model) is None and _MAKES_FILES.search(model) is not None


def family_of(model: str, api_format: ApiFormat | str | None = None) -> ApiFormat:
    """
    Say which form to speak with a model.

    :param model: the model to run (Segmind calls it the slug).
    :param api_format: ``gemini``, ``openai`` or ``anthropic``; wins over the name.
    :raises SegmindConfigError: the name tells nothing and ``api_format`` is not given, or is no format.
    """
    if api_format is not None:
        try:
            return ApiFormat(api_format)
        except ValueError:
            choices = ", ".join(repr(str(one)) for one in ApiFormat)
            raise SegmindConfigError(f"api_format={api_format!r} is no chat format: choose one of {choices}.") from None
    if not isinstance(model, str) or not model.strip():
        raise SegmindConfigError(f"model={model!r} is empty: name the chat model to run.")
    family = known_family(model)
    if family is None:
        raise SegmindConfigError(
            f"model={model!r} is not a chat model known by name, so the form of its messages is unknown. "
            "If it takes chat messages, say api_format='gemini', 'openai' or 'anthropic'."
        )
    return family
