"""What the fused backend does between and instead of matrix products: `plain` as functions, the others in Triton."""
