"""Find the slides below a folder, with their channels, masks and patients."""
