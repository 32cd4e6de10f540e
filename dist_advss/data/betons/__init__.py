"""Images in .beton files, read by FFCV."""
