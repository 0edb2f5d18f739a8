"""One folder per process. Services never import each other; they meet in `shared.contract`."""
