"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A shared machine may stall anywhere: how long an example takes says nothing about the product.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
