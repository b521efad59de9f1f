"""One stream's blocks through the stages. Uses neither Ray nor the network."""
