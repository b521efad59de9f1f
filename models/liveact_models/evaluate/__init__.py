"""What the model's pictures show, measured against the rendered truth of the synthetic world.

`judge` reads a face from pixels; `lips`, `drift`, `frechet`, `sharpness`, `phonemes` and `wishes` say how good what was read is;
`contenders` are what can be measured, `suites` the measurements that `liveact evaluate` runs. `published` has the measures
of the literature, whose networks a user supplies.
"""
