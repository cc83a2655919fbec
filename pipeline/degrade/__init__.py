"""One cube -> one degraded cube. Pure: arrays in, arrays out."""
