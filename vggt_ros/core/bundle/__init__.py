"""Bundle adjustment of a window: the network's cameras and depth, mended by where its frames show the same."""
