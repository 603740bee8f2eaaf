"""The U-Net, its losses, input normalisation, and bundles: a network with all that predict needs."""
