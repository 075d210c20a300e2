"""The VGG networks that Gatys et al. compare pictures by, and fast ways to compute them."""
