"""The VGG feature networks of Gatys et al., and fast ways to compute them."""
