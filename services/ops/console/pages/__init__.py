"""The screens, one file each: ask the APIs, make a view of the answers, render it."""
