"""torch's random streams in NumPy, and the lecture's scripts drawn from them."""
