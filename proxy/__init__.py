"""mobula-proxy: a reverse proxy that gives every Mobula API call a current short-lived token."""

__version__ = "0.1.0"
