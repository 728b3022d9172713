"""What ``vitq demo`` runs on, offline: a small trained vision transformer and handwritten digits."""

from vitq.demo.digits_vit import digits, digits_images, digits_model

__all__ = ["digits", "digits_images", "digits_model"]
