"""The store format, and nothing else: schema, shards, opening, writing, examining."""
