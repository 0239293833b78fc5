"""Cut slides into patches: grid, tissue, intensity, labels, and the store that keeps them."""
