"""Networks made of the layers below."""

from graphattn.models.contextual_encoder import ContextualEncoder

__all__ = ["ContextualEncoder"]
