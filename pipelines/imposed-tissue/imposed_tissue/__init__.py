"""Real texture with an imposed, and therefore known, tissue-area shortcut."""
