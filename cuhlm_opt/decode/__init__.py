"""The decoder: the device's policy, the server's verifier, and the loop between them."""
