"""Captioners and text-to-image pipelines, and the catalog that names them."""
