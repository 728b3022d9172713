"""What ``vitq demo`` runs on, without a network: a small trained vision transformer and handwritten digits."""

from vitq.demo.digits import digits_images, digits_model

__all__ = ["digits_images", "digits_model"]
