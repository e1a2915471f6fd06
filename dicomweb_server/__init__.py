"""A lightweight medical image archive: DICOMweb over plain WSGI."""

__version__ = "0.1.0"
