"""Steps of closed form: weights and biases that make up for what quantization takes, without training."""

from vitq.compensate.match import MatchChannels
from vitq.compensate.step import Gptaq

__all__ = ["Gptaq", "MatchChannels"]
