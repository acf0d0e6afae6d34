"""Certificates stay valid: issues the CA and the serving certificates, publishes the trust, replaces both in time."""

__version__ = "0.1.0"
