"""How does modelswap get onto a machine?"""
