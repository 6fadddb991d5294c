"""How a platform computes what the layers say: each way with the measured reason for it."""
