"""Makes cube stores from scans and X-ray images."""
