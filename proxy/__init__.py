"""mobula-proxy: a reverse proxy that gives every Mobula API call a current short-lived token."""

from importlib.metadata import version

__version__ = version("mobula-proxy")
