"""The synthetic world the small model is trained on: talking portraits and voices with exact ground truth.

`identity` says who is seen, `face` what one frame shows, `motion` how a performance moves, `draw` makes the pixels.
"""
