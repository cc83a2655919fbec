"""The store format, and nothing but the format: schema, shards, opening, writing, examining."""
