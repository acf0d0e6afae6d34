"""Certificates stay valid: issues the CA and the serving certificates."""
