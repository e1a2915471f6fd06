"""DICOM itself: files, attributes, matching, media types. Pure: bytes and values in, values out, no framework."""
