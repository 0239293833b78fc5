"""Real texture with a tissue-area shortcut that is imposed, and therefore known."""
