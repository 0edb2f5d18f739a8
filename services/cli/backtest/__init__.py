"""Backtests: this machine's parser on past outputs."""
