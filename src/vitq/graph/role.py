"""Roles: what a site's tensor carries, as far as the graph knows."""

from enum import StrEnum


class Role(StrEnum):
    """What a site carries: an operand of a product or, by the last four, what other operations read."""

    WEIGHT = "weight"
    IMAGE = "image"
    POST_NORM = "post_norm"
    POST_ACTIVATION = "post_activation"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    PROBABILITIES = "probabilities"
    OTHER = "other"
    NORM_INPUT = "norm_input"
    SOFTMAX_INPUT = "softmax_input"
    ACTIVATION_INPUT = "activation_input"
    RESIDUAL = "residual"
