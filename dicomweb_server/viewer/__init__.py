"""The OHIF viewer that `serve` hosts: fetched, unpacked, found again. No framework, no settings."""
