"""Where metres and the vertical come from: evidence of other sensors, one measurement a window, one scale."""
