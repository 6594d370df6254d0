"""The transformer: how numbers enter it, its layers, how it writes a solution."""
