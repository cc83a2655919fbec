"""One cube -> one degraded twin.

`seeds` gives every operation on every cube its own counter-based random stream, `recipes` says which
degradations are drawn how often and how large, `flip`, `shuffle`, `nonlinear` and `paint` are the kernels,
`compose` strings them into one pair, and `pairs` runs that over a whole cube store. The trainer calls the
same `compose` when it degrades on the fly, so both ways give the same bits.
"""
