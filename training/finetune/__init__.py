"""Fine-tuning on the target tasks, and segmenting whole scans."""
