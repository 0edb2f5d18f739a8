"""Dead letters: stored byte for byte, shown, grouped, and dropped by operators only."""
