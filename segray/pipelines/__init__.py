"""The commands as functions on Ray: this is the only room that imports ray, and it holds no mathematics."""
