"""The optimization loop, and the optimizers that it runs. Nothing here knows style transfer."""
