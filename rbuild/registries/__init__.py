"""Registries: asked what tags mean, with credentials as Docker has them; what they said."""
