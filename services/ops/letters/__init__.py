"""Dead letters: what failed is kept byte for byte, shown, grouped, and set aside by people only."""
