"""Where models come from: timm, Hugging Face, or a module of the user's own."""

from vitq.models.load import load_model, load_whole
from vitq.models.loaded import LoadedModel
from vitq.models.outputs import settle
from vitq.models.preprocessing import Preprocessing
from vitq.models.timm_models import list_models

__all__ = ["LoadedModel", "Preprocessing", "list_models", "load_model", "load_whole", "settle"]
